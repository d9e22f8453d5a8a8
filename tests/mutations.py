"""Plants each deliberate mistake of mistakes/ in a copy of the project and sees that its test fails.

python tests/mutations.py            all, some ten minutes; prints those that no test noticed and exits 1
python tests/mutations.py ddim ema   only those whose file or test contains one of the words
"""

import concurrent.futures
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = (
    "restore_diff",
    "tests",
    "datasets",
    "configs",
    "examples",
    "pyproject.toml",
    "train.py",
    "test.py",
    "restore.py",
)


def mutations() -> list[tuple[str, str, str, str]]:
    """(file, text that occurs once in it, mistake to put there, test that must fail)."""
    lists = sorted((ROOT / "tests" / "mistakes").glob("*.py"))
    return [mutation for path in lists for mutation in runpy.run_path(str(path))["MUTATIONS"]]


def survives(mutation: tuple[str, str, str, str]) -> str:
    """Empty when the mutation is caught, else what was seen."""
    file, old, new, test = mutation
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            source, target = ROOT / part, Path(folder) / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        text = (Path(folder) / file).read_text()
        if text.count(old) != 1:
            return f"the text to change occurs {text.count(old)} times"
        (Path(folder) / file).write_text(text.replace(old, new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    return "" if done.returncode == 1 else f"not caught by {test} (pytest exit {done.returncode})"


def main() -> int:
    words = sys.argv[1:]
    chosen = [m for m in mutations() if not words or any(word in m[0] + m[3] for word in words)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(survives, chosen))
    escaped = [(m, seen) for m, seen in zip(chosen, results, strict=True) if seen]
    for (file, old, new, _), seen in escaped:
        print(f"{file}: {old.strip()!r} -> {new.strip()!r}: {seen}")
    print(f"{len(chosen) - len(escaped)} of {len(chosen)} deliberate mistakes caught")
    return 1 if escaped or not chosen else 0


if __name__ == "__main__":
    raise SystemExit(main())
