"""Compare variants of a recipe: same photographs, seed and number of steps, scored on genuine pairs.

python benchmarks/compare_recipes.py --variants benchmarks/recipes/all_weather.yaml --cfg all_weather.yaml \
    --train PHOTOGRAPHS --test rain=INPUT:TARGET haze=INPUT:TARGET --num-steps 160 --limit 12 --out table.md

The file of variants maps a name to overrides. Each variant is trained by train.py and tested by test.py. Prints one
Markdown table: the scores on each test set, the final training loss (comparable between variants with the same loss),
and the minutes of training. Runs are kept in runs/; finished ones are not repeated.
"""

import argparse
import json
import re
import subprocess
import sys
from datetime import datetime
from itertools import product
from pathlib import Path
from statistics import fmean

import yaml

NO_FINAL_TEST = ["evaluation.lpips=none", "data.num_validation=0", "data.test=skimage", "sampler.num_samples=1"]


def main() -> None:
    args = arguments()
    variants: dict[str, list[str]] = yaml.safe_load(args.variants.read_text())
    tests = dict(text.split("=", 1) for text in args.test)
    protocols = dict.fromkeys(tests, "rgb") | dict(text.split("=", 1) for text in args.protocol)
    columns = list(product(tests, args.steps))
    heads = [
        f"{test} ({protocols[test]})" + (f", {steps} steps" if len(args.steps) > 1 else "") for test, steps in columns
    ]
    lines = ["| | " + " | ".join(heads) + " | loss | minutes |", "|---|" + "---:|" * (len(columns) + 2)]
    for name, overrides in variants.items():
        if args.only and not any(part in name for part in args.only):
            continue
        run = Path("runs") / f"{args.variants.stem}_{re.sub(r'[^a-z0-9]+', '_', name.lower())}".strip("_")
        settings = [f"data.train={args.train}", f"training.num_steps={args.num_steps}", *NO_FINAL_TEST, *args.set]
        train = [sys.executable, "train.py", "--cfg", args.cfg, f"name={run.name}", *settings, *overrides]
        subprocess.run(train, check=True)
        scores = [score(run, tests[test], protocols[test], steps, args) for test, steps in columns]
        if len(lines) == 2:
            lines.append("| degraded | " + " | ".join(before for before, _ in scores) + " | | |")
        minutes, loss = minutes_and_loss(run)
        cells = [name, *(after for _, after in scores), f"{loss:.3f}", f"{minutes:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
        print("\n".join(lines), flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", nargs="*", default=[], help="variants whose name contains one of these")
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides for all variants")
    parser.add_argument("--test", nargs="+", required=True, metavar="NAME=SET")
    parser.add_argument("--protocol", nargs="*", default=[], metavar="NAME=PROTOCOL", help="default: rgb")
    parser.add_argument("--metrics", default="psnr", help="as in test.py")
    parser.add_argument("--steps", type=int, nargs="+", default=[1], help="sampling steps")
    parser.add_argument("--num-steps", type=int, required=True, help="training steps")
    parser.add_argument("--limit", type=int, default=12, help="images of each test set")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def score(run: Path, source: str, protocol: str, steps: int, args: argparse.Namespace) -> tuple[str, str]:
    """Return the means of input and result, with one sample per image."""
    out = run / f"compared_{steps}"
    command = ["test.py", "--ckpt", run, "--data", source, "--limit", args.limit, "--metrics", args.metrics]
    command += ["--protocol", protocol, "--steps", steps, "--out", out]
    command += ["--lpips", "alex"] * ("lpips" in args.metrics)
    subprocess.run([sys.executable, *map(str, command)], check=True)
    newest = max(out.glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
    summary = json.loads(newest.read_text())["summary"]
    scored = [key for key in summary if f"{key}_input" in summary]

    def means_of(suffix: str) -> str:
        means = [(key, summary[key + suffix]["mean"]) for key in scored]
        return " / ".join(f"{mean:.2f}" if "psnr" in key else f"{mean:.4f}" for key, mean in means)

    return means_of("_input"), means_of("")


def minutes_and_loss(run: Path) -> tuple[float, float]:
    """Return the minutes from first to last logged step, and the mean loss of the last quarter of them."""
    logged = [line for line in (run / "log.txt").read_text().splitlines() if "  step " in line]
    first, last = datetime.fromisoformat(logged[0][:19]), datetime.fromisoformat(logged[-1][:19])
    losses = [float(line.split("loss")[1].split()[0]) for line in logged]
    return (last - first).total_seconds() / 60, fmean(losses[-max(len(losses) // 4, 1) :])


if __name__ == "__main__":
    main()
