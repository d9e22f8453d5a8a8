"""Restore damaged image files with restore.py: each must be restored, or refused in one line.

python tests/fuzz_images.py --num 10000 --seed 0            a table by format; exit code 1 if there are findings
python tests/fuzz_images.py --only 1234 --seed 0 --keep x   repeat one file and keep it in the folder x

File k of a seed is the same on every machine with the same Pillow. A worker process may use 5 s of processor time and
2 GB of memory for each file. Findings: a crash, a hang, an unexpected exception, a changed input, a partial output,
and any other output, also of libraries (except libtiff). Linux only.
"""

import argparse
import io
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path

import fuzz_seeds

ROOT = Path(__file__).resolve().parents[1]
LIMIT_CPU_S = 5
LIMIT_WALL_S = 60
LIMIT_MEMORY = 2 * 2**30
MAX_PIXELS = "50M"
TIFF_SIGNATURES = (b"II", b"MM")


def main() -> int:
    args = _parse()
    if args.worker:
        return work(args.seed, Path(args.keep))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = range(args.num) if args.only is None else [args.only]
        results = fuzz(numbers, args.seed, folder)
    print(table(results))
    print(f"{len(results)} files in {time.monotonic() - started:.0f} s")
    findings = [result for result in results if result["problem"]]
    for finding in findings:
        print(f"FOUND file {finding['number']} ({finding['format']}): {finding['problem']}")
    return 1 if findings else 0


def fuzz(numbers, seed: int, folder: Path) -> list[dict]:
    """Return the result of each file. A worker that dies or hangs is a finding and is replaced."""
    results, worker = [], None
    for number in numbers:
        worker = worker or _Worker(seed, folder)
        result = worker.ask(number)
        if result["problem"] and worker.ended:
            worker = None
        results.append(result)
    if worker:
        worker.end()
    return results


def table(results: list[dict]) -> str:
    lines = ["format  files  restored  refused  slowest s  peak MB"]
    groups = defaultdict(list)
    for result in results:
        groups[result["format"]].append(result)
    for name, group in sorted(groups.items()):
        statuses = Counter(result["status"] for result in group)
        slowest, peak = max(result["cpu_s"] for result in group), max(result["mb"] for result in group)
        lines.append(
            f"{name:6}  {len(group):5}  {statuses['restored']:8}  {statuses['refused']:7}  {slowest:9.2f}  {peak:7.0f}"
        )
    return "\n".join(lines)


class _Worker:
    """A process that restores files of a seed by number."""

    def __init__(self, seed: int, folder: Path):
        command = [sys.executable, __file__, "--worker", "--seed", str(seed), "--keep", str(folder)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.ended = False
        if self._receive() is None:
            raise RuntimeError(f"the worker did not start: {self.process.communicate()[1].decode()}")

    def ask(self, number: int) -> dict:
        assert self.process.stdin
        started, used = time.monotonic(), self._cpu_s()
        self.process.stdin.write(f"{number}\n".encode())
        self.process.stdin.flush()
        while not self._has_answer(0.5):
            if self._cpu_s() - used > LIMIT_CPU_S or time.monotonic() - started > LIMIT_WALL_S:
                return self._lost(number, f"hangs: more than {self._cpu_s() - used:.1f} s of processor time")
        answer = self._receive()
        if answer and "number" not in answer:
            raise RuntimeError(answer["problem"])  # a fault of this program, not of the tested one
        return answer or self._lost(number, "the process died")

    def end(self) -> None:
        self.ended = True
        self.process.kill()
        self.process.communicate()

    def _has_answer(self, seconds: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def _receive(self) -> dict | None:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def _lost(self, number: int, problem: str) -> dict:
        self.end()
        code = self.process.returncode
        return {"number": number, "format": "lost", "status": "", "cpu_s": 0, "mb": 0, "problem": f"{problem} ({code})"}

    def _cpu_s(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work(seed: int, folder: Path) -> int:
    """Answer each number on stdin with a line of JSON on stdout."""
    from restore_diff import trained
    from restore_diff.commands import console, restore  # noqa: F401  errors: heavy, imported before the limit is set

    class Inversion:
        def restore(self, degraded, names, seed=0):
            return 1 - degraded

    trained.load_restorer = lambda *arguments, **named: (Inversion(), "")  # type: ignore[assignment]
    originals = fuzz_seeds.seeds()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answers = os.fdopen(os.dup(1), "w")
    printed = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
    for descriptor in (1, 2):
        os.dup2(printed.fileno(), descriptor)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(os.dup(n), "wb"), write_through=True) for n in (1, 2))
    answers.write("{}\n")
    answers.flush()
    try:
        for line in sys.stdin:
            answers.write(json.dumps(_answer(int(line), seed, originals, restore.main, folder, printed)) + "\n")
            answers.flush()
    except BaseException:
        answers.write(json.dumps({"problem": traceback.format_exc()}) + "\n")
        raise
    return 0


def _answer(number: int, seed: int, originals: dict[str, list[bytes]], main, folder: Path, printed) -> dict:
    draw = random.Random(f"{seed} {number}")
    kind = draw.choice(list(originals))
    everything = [content for contents in originals.values() for content in contents]
    content = fuzz_seeds.damaged(draw.choice(originals[kind]), everything, draw)
    return {"number": number, "format": kind} | _tried(main, content, folder / f"{number}.png", printed)


def _tried(main, content: bytes, path: Path, printed) -> dict:
    """Restore one file and check the files that remain."""
    output = path.with_name("out") / path.name
    path.write_bytes(content)
    printed.seek(0)
    printed.truncate()
    before = _forget_peak()
    started = time.process_time()
    try:
        code: object = main(["-i", str(path), "-o", str(output.parent), "-q", "--max-pixels", MAX_PIXELS])
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    cpu_s, mb = time.process_time() - started, _memory_mb("VmHWM") - before
    printed.seek(0)
    lines = printed.read().decode(errors="replace").splitlines()
    if content.startswith(TIFF_SIGNATURES):  # libtiff writes to descriptor 2 itself
        lines = lines[lines.index("failed:") :] if "failed:" in lines else []
    problem = ""
    if code == 0:
        problem = "" if not lines and output.stat().st_size else f"restored, with output {lines}"
    elif code == 3:
        named = len(lines) == 2 and lines[0] == "failed:" and lines[1].startswith(f"  {path}: ")
        reason = lines[1].partition(f"{path}: ")[2] if named else ""
        odd = "Error" in reason.split("(")[0] or not reason or "damaged or truncated ()" in reason
        problem = f"refused, with output {lines}" if not named or odd or output.exists() else ""
    else:
        problem = f"ended with {code}: {lines[-3:]}"
    if path.read_bytes() != content:
        problem += "; the input was changed"
    if output.parent.exists() and (left := [entry.name for entry in output.parent.iterdir() if entry != output]):
        problem += f"; left {left}"
    if not problem:
        path.unlink()
    output.unlink(missing_ok=True)
    status = {0: "restored", 3: "refused"}.get(code if isinstance(code, int) else -1, "")
    return {"status": status, "cpu_s": round(cpu_s, 3), "mb": round(mb, 1), "problem": problem}


def _forget_peak() -> float:
    """Reset the peak of this process's memory; return its memory now in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_mb("VmRSS")


def _memory_mb(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one file")
    parser.add_argument("--keep", default="", help="folder for the files with findings")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
