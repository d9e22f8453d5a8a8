"""Visibility of tiles: errors along their borders against errors elsewhere, and difference to the untiled result.

python benchmarks/seams.py --ckpt runs/derain --data rain100l --root PATH --limit 10 --out benchmarks/results/seams.json

`seam_ratio` is the mean step of the error (restored - clean) across the lines where tiles meet, divided by that across
all other lines, and normalised by the same ratio without tiles, because pictures have more edges at some lines. 1: no
seam, or a single tile. `mean_from_whole` and `largest_from_whole` are the differences to the untiled result in 8-bit
levels. One sample each.
"""

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from restore_diff import build, trained
from restore_diff.metrics.protocols import PROTOCOLS
from restore_diff.restoration.tiling import overlapping_cuts, shifted_cuts
from restore_diff.settings import TilingConfig

CPU = torch.device("cpu")
TILINGS = {
    "tiles of 64 px, no overlap": TilingConfig(tile_size_px=64, tile_overlap_px=0, window="box"),
    "tiles of 64 px, 16 px overlap": TilingConfig(tile_size_px=64, tile_overlap_px=16),
    "tiles of 128 px, no overlap": TilingConfig(tile_size_px=128, tile_overlap_px=0, window="box"),
    "tiles of 128 px, 16 px overlap": TilingConfig(tile_size_px=128, tile_overlap_px=16),
    "tiles of 128 px, 32 px overlap": TilingConfig(tile_size_px=128, tile_overlap_px=32),
    "tiles of 256 px, 32 px overlap": TilingConfig(tile_size_px=256, tile_overlap_px=32),
    "tiles of 512 px, no overlap": TilingConfig(tile_size_px=512, tile_overlap_px=0, window="box"),
    "tiles of 512 px, 64 px overlap": TilingConfig(tile_size_px=512, tile_overlap_px=64),
    "shifted grid of 128 px": TilingConfig(tile_size_px=128, grid="shifted"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", default="data")
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    _, config, weights = trained.load_experiment(args.ckpt)
    config = build.with_overrides(config, data__root=args.root)
    images = build.images(config, build.test_set(config, args.data))
    pairs = [images[index] for index in range(min(args.limit, len(images)))]
    model = trained.trained_network(config, weights, CPU)
    result = {}
    for num_steps in args.steps:
        config = replace(config, sampler=replace(config.sampler, num_steps=num_steps, num_samples=1))
        whole_config = replace(config, tiling=TilingConfig(tile_size_px=0))
        whole = build.restorer(whole_config, model, CPU, "float32")
        wholes = [whole.restore(pair.degraded[None], [pair.name]) for pair in pairs]  # pyright: ignore[reportOptionalSubscript]
        result[f"{num_steps} steps"] = {"whole": {"psnr": mean_psnr(wholes, [pair.clean for pair in pairs])}}
        for name, tiling in TILINGS.items():
            restorer = build.restorer(replace(config, tiling=tiling), model, CPU, "float32")
            found = [restorer.restore(pair.degraded[None], [pair.name]) for pair in pairs]  # pyright: ignore[reportOptionalSubscript]
            ratios = [
                seam_ratio(f[0] - p.clean, tiling) / seam_ratio(w[0] - p.clean, tiling)
                for f, w, p in zip(found, wholes, pairs, strict=True)
            ]
            differences = [(f - w).abs() * 255 for f, w in zip(found, wholes, strict=True)]
            result[f"{num_steps} steps"][name] = {
                "psnr": mean_psnr(found, [pair.clean for pair in pairs]),
                "seam_ratio": round(fmean(ratios), 3),
                "mean_from_whole": round(fmean(float(d.mean()) for d in differences), 3),
                "largest_from_whole": round(max(float(d.max()) for d in differences), 1),
            }
            print(num_steps, name, result[f"{num_steps} steps"][name], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def seam_ratio(error: Tensor, tiling: TilingConfig) -> float:
    """Ratio over both axes of an error (3, H, W); 1 for a single tile."""
    at_seams, elsewhere = [], []
    for axis in (-2, -1):
        steps = error.diff(dim=axis).abs().mean(dim=[dim for dim in (-3, -2, -1) if dim != axis])
        seams = torch.zeros(len(steps), dtype=torch.bool)
        seams[borders(error.shape[axis], tiling)] = True
        at_seams += steps[seams].tolist()
        elsewhere += steps[~seams].tolist()
    return fmean(at_seams) / fmean(elsewhere) if at_seams else 1.0


def borders(length: int, tiling: TilingConfig) -> list[int]:
    """Return all i where the tile with the largest weight changes between positions i and i + 1."""
    if tiling.grid == "shifted":  # the grid of the first step
        cuts = shifted_cuts(length, tiling.tile_size_px, 0.0, CPU)
    else:
        cuts = overlapping_cuts(length, tiling.tile_size_px, tiling.tile_overlap_px, tiling.window, CPU)
    weight = torch.zeros(len(cuts.starts), length)
    for row, (start, of_tile) in enumerate(zip(cuts.starts, cuts.weights, strict=True)):
        weight[row, start : start + len(of_tile)] = of_tile
    owners = weight.argmax(dim=0).tolist()
    return [place for place, (left, right) in enumerate(pairwise(owners)) if left != right]


def mean_psnr(found: list[Tensor], clean: list[Tensor]) -> float:
    return round(fmean(float(PROTOCOLS["rgb"].psnr(f, c[None])[0]) for f, c in zip(found, clean, strict=True)), 3)


if __name__ == "__main__":
    main()
