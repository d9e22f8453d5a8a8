"""Speed of training, of restoring a 720x480 photograph, and the overhead of sampler and tiles over network calls.

python benchmarks/speed.py --sizes tiny --out benchmarks/results/speed_tiny_cpu.json
python benchmarks/speed.py --sizes base --steps 1 --tiles 256 --repeats 1 --out benchmarks/results/speed_base_cpu.json

Weights are random, because speed does not depend on them. Each figure is a median; the two sides of a ratio alternate
within one run.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from restore_diff import build
from restore_diff.config import ExperimentConfig, load_config
from restore_diff.restoration.restorer import Restorer
from restore_diff.trained import to_restore
from restore_diff.training.faults import measure_cost
from restore_diff.training.optimisation import Optimisation

HEIGHT, WIDTH = 480, 720


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"], help="of configs/sizes")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tiles", type=int, nargs="+", default=[0, 128, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = build.select_device(args.device)
    result: dict[str, Any] = {"machine": machine(device), "training": [], "restoring": [], "overhead": []}
    for size in args.sizes:
        config = load_config(["derain.yaml", f"sizes/{size}.yaml"], [f"training.batch_size={args.batch_size}"])
        show(result["training"], size=size, **training(config, device))
        for num_steps, tile in product(args.steps, args.tiles):
            show(result["restoring"], size=size, **restoring(config, device, num_steps, tile, args.repeats))
        for tile in args.tiles:
            show(result["overhead"], size=size, **overhead(config, device, max(args.steps), tile, args.repeats))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def training(config: ExperimentConfig, device: torch.device) -> dict[str, Any]:
    """Forward and backward pass of one batch, without optimizer and averaging."""
    batches = build.batches(config, build.training_sets(config)[0])
    optimisation = Optimisation(build.network(config), build.diffusion(config), config.training, 0, device)
    cost = measure_cost(optimisation, list(islice(batches.iter_from(0), config.training.num_micro_batches)))
    return {
        "batch_size": config.training.batch_size,
        "crop_px": config.data.crop_size_px,
        "images_per_s": round(config.training.batch_size / cost.seconds_per_step, 2),
        "memory_gb": round(cost.memory_bytes / 1e9, 2),
    }


def restoring(
    config: ExperimentConfig, device: torch.device, num_steps: int, tile: int, repeats: int
) -> dict[str, Any]:
    restorer, _ = build_restorer(config, device, num_steps, tile)
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    seconds = timed([lambda: restorer.restore(image, ["photograph"])], device, repeats)[0]
    return {"size_px": f"{WIDTH}x{HEIGHT}", "num_steps": num_steps, "tile_px": tile, "seconds": round(seconds, 3)}


def overhead(config: ExperimentConfig, device: torch.device, num_steps: int, tile: int, repeats: int) -> dict[str, Any]:
    """Time of a restoration divided by that of its network calls alone."""
    restorer, model = build_restorer(config, device, num_steps, tile)
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    forward = model.forward

    def recorded(x_t: torch.Tensor, t: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        calls.append((x_t, t, degraded))
        return forward(x_t, t, degraded)

    image = torch.rand(1, 3, HEIGHT, WIDTH)
    model.forward = recorded  # type: ignore[method-assign]
    restorer.restore(image, ["photograph"])
    model.forward = forward  # type: ignore[method-assign]

    def bare() -> None:
        with torch.inference_mode():
            for call in calls:
                model(*call)

    whole, network = timed([lambda: restorer.restore(image, ["photograph"]), bare], device, repeats)
    return {
        "tile_px": tile,
        "num_steps": num_steps,
        "num_calls": len(calls),
        "whole_over_network": round(whole / network, 4),
    }


def build_restorer(
    config: ExperimentConfig, device: torch.device, num_steps: int, tile: int
) -> tuple[Restorer, nn.Module]:
    config = build.with_overrides(config, sampler__num_steps=num_steps, tiling__tile_size_px=tile)
    model = to_restore(build.network(config), device)
    return build.restorer(config, model, device, "float32"), model


def timed(actions: Sequence[Callable[[], object]], device: torch.device, repeats: int) -> list[float]:
    """Median seconds of each action, alternating, after one warm-up each."""
    seconds: list[list[float]] = [[] for _ in actions]
    for repeat in range(repeats + 1):
        for action, record in zip(actions, seconds, strict=True):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat:
                record.append(time.perf_counter() - started)
    return [median(record) for record in seconds]


def machine(device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"device": str(device), "gpu": gpu, "cores": os.cpu_count(), "cpu": cpu_name(), "torch": torch.__version__}


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def show(rows: list[dict[str, Any]], **row: Any) -> None:
    rows.append(row)
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
