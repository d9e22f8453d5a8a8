"""Restore damaged image files with restore.py: each must be restored, or refused in one line.

python tests/fuzz_images.py --num 10000 --seed 0            a table by format; exit code 1 if there are findings
python tests/fuzz_images.py --only 1234 --seed 0 --keep x   repeat one file and keep it in the folder x

File k of a seed is the same on every machine with the same Pillow. A worker process may use 5 s of processor time and
2 GB of memory for each file. Findings: a crash, a hang, an unexpected exception, a changed input, a partial output,
and any other output, also of libraries (except libtiff). Linux only.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent)]

import fuzz_attempts  # noqa: E402
import fuzz_seeds  # noqa: E402

MAX_PIXELS = "50M"
TIFF_SIGNATURES = (b"II", b"MM")


def main() -> int:
    args = _parse()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        attempt = partial(_attempt, args.seed, fuzz_seeds.seeds(), _restore_by_inversion(), folder)
        results = fuzz_attempts.attempt_all(attempt, range(args.num) if args.only is None else [args.only])
    print(table(results))
    print(f"{len(results)} files in {time.monotonic() - started:.0f} s")
    findings = [result for result in results if result["problem"]]
    for finding in findings:
        print(f"FOUND file {finding['number']} ({finding.get('format', 'lost')}): {finding['problem']}")
    return 1 if findings else 0


def table(results: list[dict]) -> str:
    lines = ["format  files  restored  refused  slowest s  peak MB"]
    groups = defaultdict(list)
    for result in results:
        groups[result.get("format", "lost")].append(result)
    for name, group in sorted(groups.items()):
        statuses = Counter(result["status"] for result in group)
        slowest, peak = max(result["cpu_s"] for result in group), max(result["mb"] for result in group)
        lines.append(
            f"{name:6}  {len(group):5}  {statuses['restored']:8}  {statuses['refused']:7}  {slowest:9.2f}  {peak:7.0f}"
        )
    return "\n".join(lines)


def _restore_by_inversion() -> Callable[[list[str]], int]:
    """Return restore.py with a restorer that inverts the picture."""
    from restore_diff import trained
    from restore_diff.commands import restore

    class Inversion:
        def restore(self, degraded, names, seed=0):
            return 1 - degraded

    trained.load_restorer = lambda *arguments, **named: (Inversion(), "")  # type: ignore[assignment]
    return restore.main


def _attempt(seed: int, originals: dict[str, list[bytes]], restore, folder: Path, number: int) -> dict:
    draw = random.Random(f"{seed} {number}")
    kind = draw.choice(list(originals))
    everything = [content for contents in originals.values() for content in contents]
    content = fuzz_seeds.damaged(draw.choice(originals[kind]), everything, draw)
    return {"format": kind} | _tried(restore, content, folder / f"{number}.png")


def _tried(restore, content: bytes, path: Path) -> dict:
    """Restore one file and check the files that remain."""
    output = path.with_name("out") / path.name
    path.write_bytes(content)
    code, lines = _captured(restore, ["-i", str(path), "-o", str(output.parent), "-q", "--max-pixels", MAX_PIXELS])
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
    return {"status": {0: "restored", 3: "refused"}.get(code, ""), "problem": problem}


def _captured(restore, arguments: list[str]) -> tuple[int | str, list[str]]:
    """Return the exit code or the exception, and the lines written to descriptors 1 and 2, also by libraries."""
    with tempfile.TemporaryFile() as printed:
        own = [os.dup(descriptor) for descriptor in (1, 2)]
        for descriptor in (1, 2):
            os.dup2(printed.fileno(), descriptor)
        try:
            code: int | str = restore(arguments)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, saved in zip((1, 2), own, strict=True):
            os.dup2(saved, descriptor)
            os.close(saved)
        printed.seek(0)
        return code, printed.read().decode(errors="replace").splitlines()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one file")
    parser.add_argument("--keep", default="", help="folder for the files with findings")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
