"""Compare solvers, timestep spacings, start and stop times and averages: one network, the same pairs.

python benchmarks/solvers.py --ckpt runs/derain --data rain100l --root PATH --every 5 --out FILE.json

Each line is the mean over the same images: PSNR-Y (y_matlab), SSIM-Y, LPIPS if its weights are found, and the median
of seconds per image.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from restore_diff import build, trained
from restore_diff.checkpoint import Weights
from restore_diff.config import ExperimentConfig
from restore_diff.evaluation.evaluator import Evaluator
from restore_diff.evaluation.pictures import seconds_per_image
from restore_diff.evaluation.report import Report, summarise

SETTINGS: dict[str, dict[str, Any]] = {
    "ddim, 1 step": {"num_steps": 1},
    "ddim, 2 steps": {"num_steps": 2},
    "ddim, 4 steps": {"num_steps": 4},
    "ddim, 10 steps": {"num_steps": 10},
    "ddim, 4 steps, eta 1": {"num_steps": 4, "eta": 1.0},
    "ddim, 4 steps, leading": {"num_steps": 4, "spacing": "leading"},
    "ddim, 4 steps, linspace": {"num_steps": 4, "spacing": "linspace"},
    "ddim, 4 steps, log-SNR": {"num_steps": 4, "spacing": "logsnr"},
    "ddim, 4 steps, karras": {"num_steps": 4, "spacing": "karras"},
    "ddim, 10 steps, stopped at t = 400": {"num_steps": 10, "stop_t": 400},
    "ddim, 4 steps from the degraded image at t = 400": {"num_steps": 4, "start_t": 400},
    "dpm++2m, 4 steps": {"name": "dpm++2m", "num_steps": 4},
    "dpm++2m, 10 steps": {"name": "dpm++2m", "num_steps": 10},
    "unipc, 4 steps": {"name": "unipc", "num_steps": 4},
    "heun, 2 steps (3 calls)": {"name": "heun", "num_steps": 2},
    "mean of 4, ddim, 1 step": {"num_steps": 1, "num_samples": 4},
    "mean of 4, ddim, 4 steps": {"num_steps": 4, "num_samples": 4},
    "mean of 2, one mirrored, ddim, 1 step": {"num_steps": 1, "num_samples": 2, "mirror": True},
    "mean of 4, two mirrored, ddim, 1 step": {"num_steps": 1, "num_samples": 4, "mirror": True},
    "mean of 4, two mirrored, ddim, 2 steps": {"num_steps": 2, "num_samples": 4, "mirror": True},
    "mean of 4, two mirrored, ddim, 4 steps": {"num_steps": 4, "num_samples": 4, "mirror": True},
    "mean of 8, four mirrored, ddim, 1 step": {"num_steps": 1, "num_samples": 8, "mirror": True},
}
"""Changes to the checkpoint's sampler with one sample and no mirroring."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", default="data")
    parser.add_argument("--every", type=int, default=1, help="every n-th pair of the set")
    parser.add_argument("--only", nargs="+", default=[""], help="settings whose name contains one of these")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    _, config, weights = trained.load_experiment(args.ckpt)
    config = build.with_overrides(config, data__root=args.root)
    chosen = {name: given for name, given in SETTINGS.items() if any(word in name for word in args.only)}
    lines = {}
    for name, given in chosen.items():
        sampler = {"num_samples": 1, "mirror": False, **given}
        lines[name] = line(
            build.with_overrides(config, **{f"sampler__{k}": v for k, v in sampler.items()}), weights, args
        )
        print(f"{name:50}", lines[name], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"data": args.data, "every": args.every, "settings": lines}, indent=1) + "\n")


def line(config: ExperimentConfig, weights: Weights, args: argparse.Namespace) -> dict[str, float | None]:
    restorer, _ = trained.trained_restorer(Path("weights"), config, weights, build.select_device("auto"), "float32")
    pairs = build.test_set(config, args.data)
    images = build.images(config, pairs)
    lpips = build.lpips(config)
    evaluator = Evaluator(
        restorer.restore, build.scorer(("y_matlab",), lpips, ("psnr", "ssim", "lpips")), restorer.device
    )
    rows = evaluator.evaluate(Subset(images, range(0, len(images), args.every)))
    means = {name: value.mean for name, value in summarise(rows).items()}
    figures = {name: round(mean, 4) for name, mean in means.items() if mean is not None and not name.endswith("_input")}
    return {**figures, "seconds": round(seconds_per_image(Report(pairs.name, rows, ("y_matlab",), lpips)), 3)}


if __name__ == "__main__":
    main()
