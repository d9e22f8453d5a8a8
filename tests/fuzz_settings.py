"""Read damaged configs and checkpoints: each must be read, or refused with error lines.

python tests/fuzz_settings.py --num 2000 --seed 0                     a table; exit code 1 if there are findings
python tests/fuzz_settings.py --kind checkpoint --only 17 --seed 0    repeat one case, with its traceback

A config is read by load_config, a checkpoint by the code of test.py, restore.py and the resume of a trainer. A worker
process may use 5 s of processor time and 2 GB of memory for each case. Findings: a crash, a hang, an unexpected
exception, a message of several lines, a config that changes when printed and read again, and a checkpoint that is read
although its bytes differ from the saved ones. Linux only.
"""

import argparse
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a forked child would wait for threads of its parent
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent)]

import fuzz_checkpoints  # noqa: E402
import fuzz_configs  # noqa: E402

LIMIT_CPU_S = 5
LIMIT_WALL_S = 60
LIMIT_MEMORY = 2 * 2**30
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
        results = fuzz(kind, args.num, args.seed)
        statuses = Counter(result["status"] for result in results)
        slowest, peak = max(result["cpu_s"] for result in results), max(result["mb"] for result in results)
        print(
            f"{kind:10}  {len(results):5}  {statuses['read']:4}  {statuses['refused']:7}  {slowest:9.2f}  {peak:7.0f}"
        )
        findings += [f"{kind} {result['number']}: {result['problem']}" for result in results if result["problem"]]
    print(*(f"FOUND {finding}" for finding in findings), sep="\n", end="")
    return 1 if findings else 0


def fuzz(kind: str, num: int, seed: int) -> list[dict]:
    """Return the result of each case. A worker that dies or hangs is a finding and is replaced."""
    fork, results = multiprocessing.get_context("fork"), []
    while len(results) < num:
        ours, theirs = fork.Pipe()
        worker = fork.Process(target=_work, args=(kind, range(len(results), num), seed, theirs))
        worker.start()
        theirs.close()
        try:
            while len(results) < num:
                if not ours.poll(LIMIT_WALL_S):
                    worker.kill()
                results.append(ours.recv())
        except EOFError:
            worker.join()
            hangs = worker.exitcode in (-signal.SIGPROF, -signal.SIGKILL)
            ended = "hangs" if hangs else f"the process died ({worker.exitcode})"
            results.append({"number": len(results), "status": "", "cpu_s": 0, "mb": 0, "problem": ended})
        worker.join()
    return results


def _work(kind: str, numbers: range, seed: int, answers) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as scratch:
        for number in numbers:
            folder = Path(scratch) / str(number)
            folder.mkdir()
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak memory of this process
            before, started = _memory_mb("VmRSS"), time.process_time()
            signal.setitimer(signal.ITIMER_PROF, LIMIT_CPU_S)  # SIGPROF ends the process, in C code too
            status, problem = _tried(kind, random.Random(f"{seed} {number}"), folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            cpu_s, mb = time.process_time() - started, _memory_mb("VmHWM") - before
            answers.send({"number": number, "status": status, "cpu_s": cpu_s, "mb": mb, "problem": problem})


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


def _memory_mb(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=2000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--only", type=int, help="one case of --kind")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
