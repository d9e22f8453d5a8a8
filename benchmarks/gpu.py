"""Speed on one device, most of all a GPU: one command measures, writes JSON and fills a section of docs/speed.md.

python benchmarks/gpu.py --out benchmarks/results/gpu.json --doc docs/speed.md --weatherdiffusion CLONE
python benchmarks/gpu.py --device cpu --only sizes --networks tiny --precisions float32     # 2 CPU cores, minutes
python benchmarks/gpu.py --device cpu --tiny                            # every part in seconds: numbers without meaning

Parts (`--only`, default all):
  tests      pytest -m gpu
  peak       rate of a large matrix product: the peak that `share_of_peak` refers to
  training   images/s of complete steps on one batch that is on the device (no data loading)
  restoring  seconds of a 720x480 photograph at each quality: `first_s` includes compilation, `seconds` is the median
  batches    photographs/s when several are restored in one call, label given, one step
  sizes      seconds by network, steps and tile, and the time of a restoration over that of its network calls alone
  peers      benchmarks/peers.py: diffusers' UNet2DModel; with --weatherdiffusion CLONE also its sampler and training

A row that fails, e.g. out of memory, has the reason in `failed`; the JSON is written after each row. On CUDA, float32
convolutions use TF32, torch's default; their share is that of the TF32 peak. Multiplications are counted by torch's
FlopCounterMode in the forward pass; a training step counts as three.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from restore_diff import build, trained
from restore_diff.config import load_config
from restore_diff.data.loading import Batch
from restore_diff.models.unet import Network
from restore_diff.restoration.restorer import PRECISIONS
from restore_diff.training.faults import peak_memory
from restore_diff.training.optimisation import Optimisation

ROOT = Path(__file__).resolve().parents[1]
HEADING = "## On a GPU"

NETWORKS = {
    "tiny": ["derain.yaml", "sizes/tiny.yaml"],
    "shipped": ["all_weather.yaml"],
    "base": ["derain.yaml", "sizes/base.yaml"],
}
"""Recipes by name: 1.9, 3.5 and 83 million parameters. Weights are random, because speed does not depend on them."""
MODES: dict[str, dict[str, Any] | None] = {"eager": None, "compiled": {}, "CUDA graphs": {"mode": "reduce-overhead"}}
"""Options of torch.compile."""
SMALLEST = [
    "model.base_channels=8",
    "model.channel_multipliers=[1,2]",
    "model.num_groups=4",
    "model.head_channels=8",
    "model.attention_levels=[1]",
]
"""With --tiny: overrides of every network that is not loaded."""

Case = dict[str, Any]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(argv)
    result: dict[str, Any] = {"machine": machine(args.device)}
    for part in args.only:
        rows = result[part] = []
        for row in measured(PARTS[part], args, result):
            rows.append(row)
            print(part, *(f"{name} {value}" for name, value in row.items()), sep="  ", flush=True)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(section(result))
    if args.doc:
        args.doc.write_text(with_section(args.doc.read_text(), section(result)))
    return result


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=build.select_device, default="auto")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--ckpt", type=Path, help="weights of the restoring part (default: shipped)")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], choices=list(PRECISIONS))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), help="default: CUDA graphs only on CUDA")
    parser.add_argument("--batch-size", type=int, default=64, help="crops of a training step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weatherdiffusion", type=Path, metavar="CLONE")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, one repeat, no compiler behind the tracer")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--doc", type=Path, metavar="FILE.md", help=f"replace its section '{HEADING}'")
    args = parser.parse_args(argv)
    args.ckpt = args.ckpt or trained.SHIPPED_NAME
    args.modes = args.modes or [mode for mode in MODES if mode != "CUDA graphs" or args.device.type == "cuda"]
    if args.tiny:
        args.repeats, args.batch_size = 1, 2
    args.height, args.width = (48, 64) if args.tiny else (480, 720)
    return args


Part = tuple[Callable[[argparse.Namespace], Iterator[Case]], Callable[..., Case]]
"""(args) -> cases, and (args, result so far, **case) -> measured values."""


def measured(part: Part, args: argparse.Namespace, result: dict[str, Any]) -> Iterator[Case]:
    cases, measure = part
    for case in cases(args):
        if args.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(args.device)
        torch.compiler.reset()
        try:
            yield {**case, **measure(args, result, **case)}
        except Exception as error:  # the rows after it are worth having, whatever it was
            yield {**case, "failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


# Parts.


def tests(args: argparse.Namespace, result: dict[str, Any]) -> Case:
    files = ["tests/test_gpu.py"] if args.tiny else ["tests"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", *files]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    counts = {word: int(num) for num, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    if done.returncode:
        print(done.stdout)
    return {**counts, "exit_code": done.returncode}


def peak(args: argparse.Namespace, result: dict[str, Any], precision: str) -> Case:
    side = 128 if args.tiny else 8192 if args.device.type == "cuda" else 2048
    dtype = torch.float32 if precision == "tf32" else PRECISIONS[precision]
    matrix = torch.randn(side, side, device=args.device).to(dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        (seconds,), _ = in_turn([lambda: matrix @ matrix], args.repeats, args.device)
    finally:
        torch.set_float32_matmul_precision(before)
    return {"side": side, "tflop_per_s": float(f"{2 * side**3 / seconds / 1e12:.4g}")}


def training(args: argparse.Namespace, result: dict[str, Any], network: str, precision: str, mode: str) -> Case:
    settings = [f"training.batch_size={args.batch_size}", f"training.precision={precision}"]
    config = load_config(NETWORKS[network], [*settings, *SMALLEST * args.tiny])
    optimisation = Optimisation(build.network(config), build.diffusion(config), config.training, 0, args.device)
    if (options := compiler_options(mode, args)) is not None:
        optimisation.model.compile(**options)
    clean = torch.rand(args.batch_size, 3, *[16 if args.tiny else config.data.crop_size_px] * 2, device=args.device)
    labels = ["none"] * args.batch_size
    batch = Batch(clean, (clean + 0.1).clamp(0, 1), list(range(args.batch_size)), labels, labels)
    step = lambda: optimisation.advance(0, iter([batch]))  # noqa: E731
    (first,), _ = in_turn([step], 1, args.device)
    (seconds,), _ = in_turn([step], args.repeats, args.device)
    eager = build.network(config).to(args.device)
    flops = 3 * flops_of(lambda: eager(clean, torch.zeros(len(clean), dtype=torch.int64, device=args.device), clean))
    return {
        "crop_px": clean.shape[-1],
        "images_per_s": float(f"{args.batch_size / seconds:.4g}"),
        "first_s": round(first, 2),
        "memory_gb": round(peak_memory(args.device) / 1e9, 2),
        "share_of_peak": share_of_peak(result, flops / seconds, precision, args.device),
    }


def restoring(args: argparse.Namespace, result: dict[str, Any], quality: str, precision: str, mode: str) -> Case:
    _, config, weights = trained.load_experiment(args.ckpt)
    config = build.at_quality(config, quality)
    model = trained.trained_network(config, weights, args.device)
    image = torch.rand(1, 3, args.height, args.width)
    flops = flops_of(lambda: build.restorer(config, model, args.device, precision).restore(image, ["photograph"]))  # pyright: ignore[reportArgumentType]
    if (options := compiler_options(mode, args)) is not None:
        model.compile(**options)
        model.recognise = torch.compile(model.recognise, **options)
    restorer = build.restorer(config, model, args.device, precision)  # pyright: ignore[reportArgumentType]
    action = lambda: restorer.restore(image, ["photograph"])  # noqa: E731
    (first,), _ = in_turn([action], 1, args.device)
    (seconds,), _ = in_turn([action], args.repeats, args.device)
    return {
        "seconds": float(f"{seconds:.4g}"),
        "first_s": round(first, 2),
        "memory_gb": round(peak_memory(args.device) / 1e9, 2),
        "share_of_peak": share_of_peak(result, flops / seconds, precision, args.device),
    }


def batches(args: argparse.Namespace, result: dict[str, Any], precision: str, batch_size: int, tile_px: int) -> Case:
    _, config, weights = trained.load_experiment(args.ckpt)
    config = build.with_overrides(build.at_quality(config, "fast"), tiling__tile_size_px=tile_px)
    model = trained.trained_network(config, weights, args.device)
    restorer = build.restorer(config, model, args.device, precision, "rain" if config.model.hint else None)  # pyright: ignore[reportArgumentType]
    images, names = torch.rand(batch_size, 3, args.height, args.width), [f"{k}" for k in range(batch_size)]
    (seconds,), _ = in_turn([lambda: restorer.restore(images, names)], args.repeats, args.device)
    return {"photographs_per_s": float(f"{batch_size / seconds:.4g}")}


def sizes(args: argparse.Namespace, result: dict[str, Any], network: str, num_steps: int, tile_px: int) -> Case:
    config = load_config(NETWORKS[network], SMALLEST * args.tiny)
    sampler = {"sampler__num_steps": num_steps, "sampler__num_samples": 1}
    tiling = {"tiling__tile_size_px": tile_px, "tiling__tile_overlap_px": 8 if args.tiny else 32}
    config = build.with_overrides(config, **sampler, **tiling, model__recognise=False)
    model = trained.to_restore(build.network(config), args.device)
    restorer = build.restorer(config, model, args.device, "float32")
    image = torch.rand(1, 3, args.height, args.width)
    calls = recorded_calls(model, lambda: restorer.restore(image, ["photograph"]))

    def bare() -> None:
        with torch.inference_mode():
            for call in calls:
                model(*call)

    actions = [lambda: restorer.restore(image, ["photograph"]), bare]
    (whole, alone), _ = in_turn(actions, args.repeats, args.device)
    return {"seconds": float(f"{whole:.4g}"), "num_calls": len(calls), "whole_over_network": round(whole / alone, 4)}


def peers(args: argparse.Namespace, result: dict[str, Any], peer: str) -> Case:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "peers.json")
        command = [sys.executable, ROOT / "benchmarks/peers.py", "--only", peer, "--device", args.device, "--out", out]
        command += ["--repeats", args.repeats, "--ckpt", args.ckpt, "--batch-size", args.batch_size]
        command += ["--tiny"] * args.tiny
        command += ["--weatherdiffusion", args.weatherdiffusion] if args.weatherdiffusion else []
        subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())[peer]


def product_of(**choices: Callable[[argparse.Namespace], list[Any]]) -> Callable[[argparse.Namespace], Iterator[Case]]:
    """All combinations of what the arguments select, as keyword arguments."""

    def cases(args: argparse.Namespace) -> Iterator[Case]:
        for values in product(*(choice(args) for choice in choices.values())):
            yield dict(zip(choices, values, strict=True))

    return cases


PARTS: dict[str, Part] = {
    "tests": (lambda args: iter([{}]), tests),
    "peak": (
        product_of(precision=lambda args: [*args.precisions, *["tf32", "float16"] * (args.device.type == "cuda")]),
        peak,
    ),
    "training": (
        product_of(
            network=lambda args: args.networks,
            precision=lambda args: args.precisions,
            mode=lambda args: args.modes,
        ),
        training,
    ),
    "restoring": (
        product_of(
            quality=lambda args: list(trained.QUALITIES),
            precision=lambda args: args.precisions,
            mode=lambda args: args.modes,
        ),
        restoring,
    ),
    "batches": (
        product_of(
            precision=lambda args: args.precisions[-1:],
            batch_size=lambda args: [1, 2] if args.tiny else [1, 2, 4, 8, 16],
            tile_px=lambda args: [0, 512],
        ),
        batches,
    ),
    "sizes": (
        product_of(
            network=lambda args: args.networks,
            num_steps=lambda args: [1, 4],
            tile_px=lambda args: [0, 32] if args.tiny else [0, 128, 256],
        ),
        sizes,
    ),
    "peers": (
        lambda args: (
            {"peer": peer}
            for peer in ["network", *["sampler-trained", "sampler-base", "training"] * bool(args.weatherdiffusion)]
        ),
        peers,
    ),
}


# Measuring. Also used by peers.py and scaling.py.


def in_turn(actions: list[Callable[[], Any]], repeats: int, device: torch.device) -> tuple[list[float], list[Any]]:
    """Return median seconds and last results; alternates in both directions after a warm-up (if repeats > 1)."""
    seconds: list[list[float]] = [[] for _ in actions]
    results: list[Any] = [None] * len(actions)
    for repeat in range(repeats + (repeats > 1)):
        for place in range(len(actions))[:: -1 if repeat % 2 else 1]:  # the action before affects the caches
            wait_for(device)
            started = time.perf_counter()
            results[place] = actions[place]()
            wait_for(device)
            if repeat or repeats == 1:
                seconds[place].append(time.perf_counter() - started)
    return [median(taken) for taken in seconds], results


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compiler_options(mode: str, args: argparse.Namespace) -> dict[str, Any] | None:
    return MODES[mode] if MODES[mode] is None or not args.tiny else {"backend": "eager"}


def flops_of(action: Callable[[], object]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def share_of_peak(result: dict[str, Any], rate: float, precision: str, device: torch.device) -> float | None:
    """Rate in FLOP/s over the measured peak of the precision; None if it was not measured."""
    at = "tf32" if precision == "float32" and device.type == "cuda" else precision
    peaks = {row["precision"]: row.get("tflop_per_s") for row in result.get("peak", [])}
    return round(rate / 1e12 / peaks[at], 3) if peaks.get(at) else None


def recorded_calls(model: Network, action: Callable[[], object]) -> list[tuple[Tensor, ...]]:
    """The arguments of each call of `model` while `action` runs."""
    calls: list[tuple[Tensor, ...]] = []
    hook = model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    action()
    hook.remove()
    return calls


def machine(device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"device": str(device), "gpu": gpu, "cores": os.cpu_count(), "cpu": cpu_name(), "torch": torch.__version__}


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


# The section of docs/speed.md.


def section(result: dict[str, Any]) -> str:
    """Markdown: one table for each part."""
    of = result["machine"]
    lines = [HEADING, "", f"{of['gpu'] or of['cpu']}, torch {of['torch']}: `python benchmarks/gpu.py`, whose help"]
    lines[-1] += " describes the columns."
    for part, rows in result.items():
        if part == "machine" or not rows:
            continue
        lines += ["", f"**{part}**", ""]
        lines += peer_tables(rows) if part == "peers" else table(rows)
    return "\n".join(lines) + "\n"


def table(rows: list[Case]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    cells = [[row.get(name) for name in columns] for row in rows]
    return lines + ["| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |" for row in cells]


def peer_tables(rows: list[Case]) -> list[str]:
    """One table for each peer: its nested `table` becomes rows."""
    lines = []
    for row in rows:
        plain = {name: value for name, value in row.items() if name != "table"}
        nested = [{**plain, "case": name, **values} for name, values in row.get("table", {}).items()]
        lines += ["", *table(nested or [plain])] if lines else table(nested or [plain])
    return lines


def with_section(text: str, new: str) -> str:
    """Replace the section, up to the next heading of its level, or append it."""
    before, heading, rest = text.partition(HEADING + "\n")
    if not heading:
        return text.rstrip("\n") + "\n\n" + new
    _, following, after = rest.partition("\n## ")
    return before + new + following + after


if __name__ == "__main__":
    main()
