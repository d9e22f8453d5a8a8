"""Processor time of restoring with several networks, by image size, as a ratio to the first.

python benchmarks/networks.py --ckpt runs/unet runs/transformer --megapixels 0.06 0.25 1

The networks take turns within one process, so that other work on the machine meets all of them; a ratio is the median
over the rounds. Whole images, float32, on the CPU; processor time, not wall time. Peak memory: benchmarks/scaling.py.
"""

import argparse
import math
import time
from pathlib import Path
from statistics import median

import torch

from restore_diff import trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, nargs="+", required=True)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.06, 0.25, 1])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    settings = {"device": "cpu", "precision": "float32", "tile_size_px": 0}
    restorers = [trained.load_restorer(path, **settings)[0] for path in args.ckpt]
    print("| megapixels | " + " | ".join(map(str, args.ckpt)) + " |\n|---:|" + "---:|" * len(restorers))
    for megapixels in args.megapixels:
        side = round(math.sqrt(megapixels * 1e6))
        image = torch.rand(1, 3, side, side)
        rounds = []
        for _ in range(1 + args.rounds):
            seconds = []
            for restorer in restorers:
                started = time.process_time()
                restorer.restore(image, ["photograph"])
                seconds.append(time.process_time() - started)
            rounds.append([second / seconds[0] for second in seconds])
        ratios = [median(of_one) for of_one in zip(*rounds[1:], strict=True)]  # the first warms up
        print(f"| {megapixels:g} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
