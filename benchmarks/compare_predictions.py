"""What the network outputs and how the loss is weighted, compared: same network, data, seed and number of steps.

python benchmarks/compare_predictions.py --train CLEAN_PHOTOGRAPHS --test PAIRS --num-steps 2000

Trains each variant by train.py on rain rendered over clean photographs, tests it by test.py on pairs
at several numbers of sampling steps, and prints one Markdown table. Runs are kept in runs/, finished ones not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

VARIANTS = {
    "epsilon / epsilon": ["diffusion.prediction=epsilon", "diffusion.weighting=none"],
    "velocity / epsilon": ["diffusion.prediction=velocity", "diffusion.weighting=none"],
    "residual / epsilon": ["diffusion.prediction=residual", "diffusion.weighting=none"],
    "residual / epsilon, min-SNR-5": ["diffusion.prediction=residual", "diffusion.snr_min=0.0"],
    "residual / epsilon, SNR clamped to [0.2, 5]": ["diffusion.prediction=residual", "diffusion.snr_min=0.2"],
    "residual / epsilon, SNR clamped to [1, 5]": ["diffusion.prediction=residual"],
    "clean / epsilon, SNR clamped to [1, 5]": ["diffusion.prediction=clean"],
}
STEPS = (1, 4, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--num-steps", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=20, help="test images")
    parser.add_argument("--protocol", default="y_matlab")
    parser.add_argument("--variants", nargs="*", default=[], help="only those whose name contains one of these")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    chosen = [name for name in VARIANTS if not args.variants or any(part in name for part in args.variants)]
    lines = ["| output / loss | " + " | ".join(f"{n} step{'s' * (n > 1)}" for n in STEPS) + " |"]
    lines.append("|---" * (len(STEPS) + 1) + "|")
    for name in chosen:
        run = Path("runs") / f"compare_{list(VARIANTS).index(name)}"
        data = [f"data.train={args.train}", f"data.test={args.test}", f"training.num_steps={args.num_steps}"]
        data += ["sampler.num_steps=1", "evaluation.lpips=none"]  # the test at the end of training is not the table's
        subprocess.run(
            [sys.executable, "train.py", "--cfg", "derain.yaml", f"name={run.name}", *data, *VARIANTS[name]], check=True
        )
        cells = [scores(run, steps, args) for steps in STEPS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print("\n".join(lines), flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


def scores(run: Path, steps: int, args: argparse.Namespace) -> str:
    out = run / f"steps_{steps}"
    command = [
        sys.executable,
        "test.py",
        "--ckpt",
        run,
        "--steps",
        steps,
        "--limit",
        args.limit,
        "--lpips",
        "alex",
        "--out",
        out,
    ]
    subprocess.run([*map(str, command), "--protocol", args.protocol], check=True)
    (report,) = out.glob("*/summary.json")
    summary = json.loads(report.read_text())["summary"]
    columns = [f"psnr_{args.protocol}", f"ssim_{args.protocol}", *(c for c in ("lpips_alex",) if c in summary)]
    return " / ".join(f"{summary[column]['mean']:.{2 if 'psnr' in column else 4}f}" for column in columns)


if __name__ == "__main__":
    main()
