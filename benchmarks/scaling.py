"""Time and memory of restoring by image size, and the share of the machine's arithmetic rate that is reached.

python benchmarks/scaling.py --ckpt runs/derain --megapixels 0.06 0.25 1 4 16 --out benchmarks/results/scaling_cpu.json
python benchmarks/scaling.py --ckpt shipped --quality fast --megapixels 100 --repeats 1 --limit-gib 4

Each size runs in a separate process: `seconds` is the best of the repeats after a warm-up, `peak_mb` the process's
peak resident memory with input and output. `share_of_floor` is the time of the network's multiplications at the
machine's best measured rate, divided by the time taken. `exponent` is the slope of log time over log size.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpu import flops_of

from restore_diff import trained
from restore_diff.trained import QUALITIES

MIN_PIXELS_FOR_SLOPE = 200_000
"""Fixed costs dominate below."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--quality", choices=QUALITIES, help="as for restore.py (default: the config's settings)")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.06, 0.25, 1, 4, 16])
    parser.add_argument("--tile", type=int, default=512, help="side of a tile in px")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit-gib", type=float, help="limit of the address space, in addition to the libraries")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args)))
        return
    rate = best_rate()
    rows = []
    for megapixels in args.megapixels:
        command = [sys.executable, __file__, "--one", megapixels, "--tile", args.tile, "--repeats", args.repeats]
        for option, value in (("--ckpt", args.ckpt), ("--quality", args.quality), ("--limit-gib", args.limit_gib)):
            command += [option, value] if value else []
        done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{megapixels} megapixels failed, see the error above")
        row = json.loads(done.stdout)
        row["share_of_floor"] = round(row["gflop"] / rate / row["seconds"], 3)
        rows.append(row)
        print(row, flush=True)
    result: dict[str, Any] = {"best_gflop_per_s": round(rate, 1), "threads": torch.get_num_threads(), "sizes": rows}
    large = [row for row in rows if row["megapixels"] * 1e6 >= MIN_PIXELS_FOR_SLOPE]
    if len(large) > 1:
        result["exponent"] = round(slope([(row["megapixels"], row["seconds"]) for row in large]), 3)
        print("exponent", result["exponent"])
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(args: argparse.Namespace) -> dict[str, float]:
    megapixels = args.one
    height = round(math.sqrt(megapixels * 1e6 * 2 / 3))
    width = round(megapixels * 1e6 / height)
    restorer, _ = trained.load_restorer(
        args.ckpt, device="cpu", precision="float32", quality=args.quality, tile_size_px=args.tile
    )
    small = torch.rand(1, 3, 64, 64)
    restorer.restore(small, ["warm-up"])
    if args.limit_gib:
        size, resident = (int(pages) for pages in Path("/proc/self/statm").read_text().split()[:2])
        limit = int(args.limit_gib * 2**30) + (size - resident) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    image = torch.rand(1, 3, height, width)
    seconds = []
    for _ in range(args.repeats):
        started = time.perf_counter()
        restorer.restore(image, ["photograph"])
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    gflop = flops_of(lambda: restorer.restore(small, ["count"])) / 1e9 * megapixels * 1e6 / 64**2
    return {
        "megapixels": round(height * width / 1e6, 3),
        "seconds": round(min(seconds), 3),
        "peak_mb": round(peak),
        "gflop": round(gflop, 1),
    }


def best_rate() -> float:
    """Return the highest GFLOP/s of several large convolutions and a matrix product, float32."""
    rates = []
    for channels, side in ((32, 256), (64, 256), (128, 128)):
        inputs, weight = torch.randn(1, channels, side, side), torch.randn(channels, channels, 3, 3)
        rates.append(2 * 9 * channels**2 * side**2 / fastest(lambda i=inputs, w=weight: F.conv2d(i, w, padding=1)))
    matrix = torch.randn(2048, 2048)
    rates.append(2 * 2048**3 / fastest(lambda: matrix @ matrix))
    return max(rates) / 1e9


def fastest(action: Any) -> float:
    seconds = []
    with torch.inference_mode():
        for _ in range(10):
            started = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - started)
    return min(seconds)


def slope(points: list[tuple[float, float]]) -> float:
    """Slope of a least-squares line through the logarithms."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)


if __name__ == "__main__":
    main()
