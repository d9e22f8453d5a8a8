"""Compare speed and results of the metrics with scikit-image, kornia, torchmetrics and pyiqa on the same images.

python benchmarks/metrics.py --out benchmarks/results/metrics.json
python benchmarks/metrics.py --pred FOLDER --target FOLDER

PSNR and SSIM under the protocols rgb and y_matlab. Default images: crops of 480 x 320 from photographs of scikit-image,
with noise. Tools alternate image by image, each with settings equal to the protocol: ours, scikit-image and kornia in
float64, torchmetrics and pyiqa in float32. The other tools get precomputed Y.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gpu import machine
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from restore_diff.data.images import read_rgb_uint8
from restore_diff.evaluation.folders import pair_folders
from restore_diff.metrics.perceptual import LPIPS, MetricUnavailable
from restore_diff.metrics.protocols import PROTOCOLS

HEIGHT, WIDTH = 320, 480


class Example(NamedTuple):
    """A restored image and the clean one, uint8 (1, 3, H, W), and their luma, uint8 (1, 1, H, W)."""

    pred: Tensor
    target: Tensor
    pred_y: Tensor
    target_y: Tensor


Tool = Callable[[Tensor, Tensor], tuple[float, float]]
"""PSNR and SSIM of two uint8 (1, 1 or 3, H, W) images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--pred", type=Path, help="restored images instead of synthetic ones")
    parser.add_argument("--target", type=Path, help="clean images for --pred")
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--skip", nargs="+", default=[], help="tools to skip, e.g. torchmetrics, the slowest")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pairs = folder_pairs(args.pred, args.target) if args.pred else made_pairs()
    examples = [Example(*pair, *map(luma, pair)) for pair in islice(pairs, args.images)]
    result: dict[str, Any] = {"machine": machine(torch.device("cpu")), "threads": torch.get_num_threads()}
    result |= {"images": len(examples), "size": sorted({f"{e.pred.shape[3]}x{e.pred.shape[2]}" for e in examples})}
    tools = {name: tool for name, tool in available_tools().items() if name not in args.skip}
    result["fidelity"] = compare(examples, tools)
    result["lpips_alex"] = lpips_speed(examples, args.lpips_weights)
    print(table(result))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def made_pairs() -> Iterator[tuple[Tensor, Tensor]]:
    """Random crops of photographs with noise of 5 to 40 levels; fixed seed."""
    random = np.random.default_rng(0)
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    while True:
        for photograph in photographs:
            tiled = np.concatenate([photograph, photograph[:, ::-1]], axis=1)
            tiled = np.concatenate([tiled, tiled[::-1]], axis=0)
            height, width = tiled.shape[:2]
            top, left = random.integers(0, height - HEIGHT + 1), random.integers(0, width - WIDTH + 1)
            clean = tiled[top : top + HEIGHT, left : left + WIDTH]
            noisy = clean + random.normal(0, random.uniform(5, 40), clean.shape)
            yield as_batch(np.clip(noisy, 0, 255).round().astype(np.uint8)), as_batch(clean)


def folder_pairs(pred: Path, target: Path) -> Iterator[tuple[Tensor, Tensor]]:
    for pair in pair_folders(pred, target):
        assert pair.degraded is not None
        yield read_rgb_uint8(pair.degraded)[None], read_rgb_uint8(pair.clean)[None]


def as_batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def luma(image: Tensor) -> Tensor:
    """MATLAB's rgb2ycbcr of uint8 images in integer arithmetic."""
    red, green, blue = image.long().unbind(dim=1)
    return (16 + (2 * (65481 * red + 128553 * green + 24966 * blue) + 255000) // 510000).to(torch.uint8)[:, None]


def available_tools() -> dict[str, Tool]:
    tools: dict[str, Tool] = {"scikit-image": by_scikit_image}
    for name, make in (("kornia", kornia_tool), ("torchmetrics", torchmetrics_tool), ("pyiqa", pyiqa_tool)):
        try:
            tools[name] = make()
        except ImportError as error:
            print(f"{name} skipped: {error}")
    return tools


def by_scikit_image(pred: Tensor, target: Tensor) -> tuple[float, float]:
    x, y = (image[0].permute(1, 2, 0).numpy() for image in (pred, target))
    similarity = structural_similarity(
        y, x, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert isinstance(similarity, float)  # a pair only on request
    return float(peak_signal_noise_ratio(y, x, data_range=255)), similarity


def kornia_tool() -> Tool:
    from kornia.metrics import psnr, ssim

    def tool(pred: Tensor, target: Tensor) -> tuple[float, float]:
        x, y = pred.double(), target.double()
        return psnr(x, y, 255.0).item(), ssim(x, y, 11, 255.0, padding="valid").mean().item()

    return tool


def torchmetrics_tool() -> Tool:
    from torchmetrics.functional import image as metrics

    def tool(pred: Tensor, target: Tensor) -> tuple[float, float]:
        x, y = pred.float(), target.float()
        psnr = metrics.peak_signal_noise_ratio(x, y, data_range=255.0)
        # Its mean includes a reflected border; the protocol uses the inner part.
        _, full = metrics.structural_similarity_index_measure(x, y, data_range=255.0, return_full_image=True)
        return psnr.item(), full[..., 5:-5, 5:-5].mean().item()

    return tool


def pyiqa_tool() -> Tool:
    import pyiqa  # type: ignore[import-not-found]

    psnr, ssim = (pyiqa.create_metric(name, device=torch.device("cpu")) for name in ("psnr", "ssimc"))

    def tool(pred: Tensor, target: Tensor) -> tuple[float, float]:
        x, y = pred / 255, target / 255
        return psnr(x, y).item(), ssim(x, y).item()

    return tool


def ours(example: Example) -> list[float]:
    pair = example.pred, example.target
    protocols = PROTOCOLS["rgb"], PROTOCOLS["y_matlab"]
    return [metric(*pair).item() for protocol in protocols for metric in (protocol.psnr, protocol.ssim)]


def compare(examples: list[Example], tools: dict[str, Tool]) -> dict[str, dict[str, float]]:
    """Seconds of each tool, their ratio to ours, and the largest difference from ours."""
    measured(examples[0], tools)  # warm-up
    turns = [measured(example, tools) for example in examples]
    seconds = {name: sum(turn[name][0] for turn in turns) for name in ("restore_diff", *tools)}
    rows: dict[str, dict[str, float]] = {}
    for name, total in seconds.items():
        rows[name] = {"seconds": round(total, 3), "ratio": round(total / seconds["restore_diff"], 2)}
        for kind, metric in enumerate(("psnr_db", "ssim")):
            scores = [(turn[name][1][kind::2], turn["restore_diff"][1][kind::2]) for turn in turns]
            rows[name][metric] = max(
                abs(a - b) for pair in scores for a, b in zip(*pair, strict=True) if math.isfinite(b)
            )
    return rows


def measured(example: Example, tools: dict[str, Tool]) -> dict[str, tuple[float, list[float]]]:
    """Seconds and the four scores, by tool."""
    turn: dict[str, tuple[float, list[float]]] = {}
    for name in ("restore_diff", *tools):
        started = time.perf_counter()
        if name == "restore_diff":
            scores = ours(example)
        else:
            scores = [*tools[name](example.pred, example.target), *tools[name](example.pred_y, example.target_y)]
        turn[name] = time.perf_counter() - started, scores
    return turn


def lpips_speed(examples: list[Example], weights: Path | None) -> dict[str, Any]:
    try:
        metric = LPIPS("alex", weights)
    except MetricUnavailable as reason:
        return {"not_computed": str(reason)}
    images = [(example.pred / 255, example.target / 255) for example in examples]
    metric(*images[0])
    started = time.perf_counter()
    mean = sum(metric(*pair).item() for pair in images) / len(images)
    return {"images_per_s": round(len(images) / (time.perf_counter() - started), 2), "mean": round(mean, 6)}


def table(result: dict[str, Any]) -> str:
    lines = [f"PSNR + SSIM under rgb and y_matlab, {result['images']} images, {result['threads']} threads"]
    for name, row in result["fidelity"].items():
        speed = f"{row['seconds']:8.2f} s  x{row['ratio']:<6}"
        lines.append(f"  {name:<13} {speed}  largest difference {row['psnr_db']:.1e} dB, {row['ssim']:.1e}")
    return "\n".join([*lines, f"LPIPS-alex: {result['lpips_alex']}"])


if __name__ == "__main__":
    main()
