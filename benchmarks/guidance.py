"""Classifier-free guidance (Ho & Salimans, 2022) over the weather label, at several strengths.

python benchmarks/guidance.py --ckpt shipped --data rain100l --root PATH --weather rain --limit 12

The network's output becomes blind + strength (labelled - blind): strength 0 is the output without label, 1 with label,
above 1 is guidance. Each step costs two network calls instead of one. Prints one Markdown table.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from restore_diff import build, trained
from restore_diff.evaluation.evaluator import Scorer, quantize
from restore_diff.labels import hints
from restore_diff.models.unet import Network
from restore_diff.tensors import Images, Timesteps

CPU = torch.device("cpu")
STRENGTHS = (0.0, 0.5, 1.0, 1.25, 1.5, 2.0)


@dataclass
class Guided:
    """A predictor that extrapolates from the output without label to the output with label."""

    network: Network
    label: Tensor
    strength: float

    @property
    def size_multiple(self) -> int:
        return self.network.size_multiple

    def __call__(self, x_t: Images, t: Timesteps, degraded: Images | None) -> Images:
        blind = self.network(x_t, t, degraded)
        return torch.lerp(blind, self.network(x_t, t, degraded, self.label), self.strength)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", default="data")
    parser.add_argument("--weather", required=True)
    parser.add_argument("--protocol", default="y_matlab")
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--steps", type=int, default=1)
    args = parser.parse_args()
    _, config, weights = trained.load_experiment(args.ckpt)
    network = trained.trained_network(config, weights, CPU)
    config = build.with_overrides(
        config, data__root=args.root, sampler__num_steps=args.steps, sampler__num_samples=1, sampler__mirror=False
    )
    images = build.images(config, build.test_set(config, args.data))
    pairs = [images[index] for index in range(min(args.limit, len(images)))]
    score = Scorer([args.protocol])
    print("| strength | PSNR | SSIM |", "|---:|---:|---:|", sep="\n")
    for strength in STRENGTHS:
        guided = Guided(network, hints([args.weather]), strength)
        restorer = build.restorer(config, guided, CPU, "float32")  # pyright: ignore[reportArgumentType]
        found = [quantize(restorer.restore(pair.degraded[None], [pair.name]))[0] for pair in pairs]  # pyright: ignore[reportOptionalSubscript]
        scores = [score(image, quantize(pair.clean[None])[0]) for image, pair in zip(found, pairs, strict=True)]
        means = [fmean(one[f"{name}_{args.protocol}"] for one in scores) for name in ("psnr", "ssim")]
        print(f"| {strength} | {means[0]:.2f} | {means[1]:.4f} |", flush=True)


if __name__ == "__main__":
    main()
