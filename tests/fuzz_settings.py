"""Read damaged configs and checkpoints: each must be read, or refused with error lines.

python tests/fuzz_settings.py --num 2000 --seed 0                     a table; exit code 1 if there are findings
python tests/fuzz_settings.py --kind checkpoint --only 17 --seed 0    repeat one case, with its traceback

A config is read by load_config, a checkpoint by the code of test.py, restore.py and the resume of a trainer. A worker
process may use 5 s of processor time and 2 GB of memory for each case. Findings: a crash, a hang, an unexpected
exception, a message of several lines, a config that changes when printed and read again, and a checkpoint that is read
although its bytes differ from the saved ones. Linux only.
"""

import argparse
import random
import sys
import tempfile
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent)]

import fuzz_attempts  # noqa: E402
import fuzz_checkpoints  # noqa: E402
import fuzz_configs  # noqa: E402

MAX_LINE = 600
KINDS = {"config": fuzz_configs.attempt, "checkpoint": fuzz_checkpoints.attempt}


def main() -> int:
    args = _parse()
    fuzz_checkpoints.prepare()
    if args.only is not None:
        with tempfile.TemporaryDirectory() as scratch:
            print(*KINDS[args.kind](random.Random(f"{args.seed} {args.only}"), Path(scratch)))
        return 0
    findings = []
    print("kind        cases  read  refused  slowest s  peak MB")
    for kind in [args.kind] if args.kind else KINDS:
        with tempfile.TemporaryDirectory() as scratch:
            results = fuzz_attempts.attempt_all(partial(_attempt, kind, args.seed, Path(scratch)), range(args.num))
        statuses = Counter(result["status"] for result in results)
        slowest, peak = max(result["cpu_s"] for result in results), max(result["mb"] for result in results)
        print(
            f"{kind:10}  {len(results):5}  {statuses['read']:4}  {statuses['refused']:7}  {slowest:9.2f}  {peak:7.0f}"
        )
        findings += [f"{kind} {result['number']}: {result['problem']}" for result in results if result["problem"]]
    print(*(f"FOUND {finding}" for finding in findings), sep="\n", end="")
    return 1 if findings else 0


def _attempt(kind: str, seed: int, scratch: Path, number: int) -> dict[str, str]:
    folder = scratch / str(number)
    folder.mkdir()
    status, problem = _tried(kind, random.Random(f"{seed} {number}"), folder)
    return {"status": status, "problem": problem}


def _tried(kind: str, draw: random.Random, folder: Path) -> tuple[str, str]:
    """Return "read" or "refused", and the problem if there is one."""
    try:
        lines = KINDS[kind](draw, folder)
    except AssertionError as error:
        return "", str(error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[-2:]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
        return "", f"{type(error).__name__}: {str(error)[:200]} ({where})"
    bad = [line for line in lines if not line.strip() or not line.isprintable() or len(line) > MAX_LINE]
    return "refused" if lines else "read", f"printed {bad[0][:200]!r} of {len(bad[0])} characters" if bad else ""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=2000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--only", type=int, help="one case of --kind")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
