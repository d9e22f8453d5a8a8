"""A recipe with one thing changed at a time: same photographs, seed and number of steps, scored on genuine pairs.

python benchmarks/compare_recipes.py --cfg all_weather.yaml --train PHOTOGRAPHS --num-steps 200 --limit 12 \
    --test rain=INPUT:TARGET haze=INPUT:TARGET --out table.md

Each variant is trained by train.py and tested by test.py, in one sampling step. Prints one Markdown table: PSNR on each
test set under its protocol, and the minutes that the training took. Runs are kept in runs/, finished ones not repeated.
"""

import argparse
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

VARIANTS = {
    "the recipe": [],
    "AdamW": ["training.optimizer=adamw"],
    "loss not relative": ["diffusion.relative_floor=0"],
    "loss not relative, Huber of 0.02": [
        "diffusion.relative_floor=0",
        "diffusion.loss=huber",
        "diffusion.huber_delta=0.02",
    ],
    "SNR clamped to [0, 5]": ["diffusion.snr_min=0"],
    "clean image": ["diffusion.prediction=clean"],
    "velocity": ["diffusion.prediction=velocity"],
    "cosine schedule": ["schedule.name=cosine"],
    "attention at the smallest size": ["model.mid_attention=true"],
    "full resolution, half the channels": ["model.unshuffle=1", "model.base_channels=16"],
    "NAFNet": ["model.kind=nafnet", "model.channel_multipliers=[1,2,4,8]"],
    "twice the channels, half the steps": ["model.base_channels=64"],
    "crops of 64 px, 36 a batch": ["data.crop_size_px=64", "training.batch_size=36"],
    "crops of 192 px, 4 a batch": ["data.crop_size_px=192", "training.batch_size=4"],
    "no hint": ["model.hint=false"],
    "no averaged weights": ["training.ema_decay=0"],
    "float32": ["training.precision=float32"],
    "rain alone": ["data.weather=rain"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", default="all_weather.yaml")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", nargs="+", required=True, metavar="NAME=SET")
    parser.add_argument("--protocol", nargs="*", default=[], metavar="NAME=PROTOCOL", help="default: rgb")
    parser.add_argument("--num-steps", type=int, default=200)
    parser.add_argument("--limit", type=int, default=12, help="images of each test set")
    parser.add_argument("--variants", nargs="*", default=[], help="only those whose name contains one of these")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tests = dict(text.split("=", 1) for text in args.test)
    protocols = dict.fromkeys(tests, "rgb") | dict(text.split("=", 1) for text in args.protocol)
    lines = ["| | " + " | ".join(f"{name} ({protocols[name]})" for name in tests) + " | minutes |"]
    lines.append("|---|" + "---:|" * (len(tests) + 1))
    for number, name in enumerate(VARIANTS):
        if args.variants and not any(part in name for part in args.variants):
            continue
        run = Path("runs") / f"recipe_{number}"
        num_steps = args.num_steps // 2 if "half the steps" in name else args.num_steps
        train(run, [f"data.train={args.train}", f"training.num_steps={num_steps}", *VARIANTS[name]], args.cfg)
        scores = [score(run, source, protocols[test], args.limit) for test, source in tests.items()]
        if len(lines) == 2:
            lines.append("| degraded | " + " | ".join(before for before, _ in scores) + " | |")
        lines.append(f"| {name} | " + " | ".join(after for _, after in scores) + f" | {minutes(run):.1f} |")
        print("\n".join(lines), flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


def train(run: Path, overrides: list[str], cfg: str) -> None:
    # The test at the end of training is not the table's.
    rest = [
        "training.log_every_steps=10",
        "evaluation.lpips=none",
        "data.num_validation=0",
        "data.test=skimage",
        "training.warmup_steps=50",
    ]
    rest += ["training.ema_decay=0.98"]
    subprocess.run([sys.executable, "train.py", "--cfg", cfg, f"name={run.name}", *rest, *overrides], check=True)


def score(run: Path, source: str, protocol: str, limit: int) -> tuple[str, str]:
    out = run / "compared"
    command = ["test.py", "--ckpt", run, "--data", source, "--limit", limit, "--metrics", "psnr", "--out", out]
    subprocess.run([sys.executable, *map(str, command), "--protocol", protocol, "--quality", "fast"], check=True)
    newest = max(out.glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
    summary = json.loads(newest.read_text())["summary"]
    return f"{summary[f'psnr_{protocol}_input']['mean']:.2f}", f"{summary[f'psnr_{protocol}']['mean']:.2f}"


def minutes(run: Path) -> float:
    """Between the first and the last line of the log that tell of a step."""
    told = [line[:19] for line in (run / "log.txt").read_text().splitlines() if "  step " in line]
    first, last = datetime.fromisoformat(told[0]), datetime.fromisoformat(told[-1])
    return (last - first).total_seconds() / 60


if __name__ == "__main__":
    main()
