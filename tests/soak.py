"""Restore many images with restore.py, with bad files and kill -9, and check that nothing is lost.

python tests/soak.py --num 1000     each good image is restored once, bit-equal to a run without faults; print numbers
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS / "commands"))
import tiny_run  # noqa: E402

BAD_SHARE = 0.03
SAMPLE_EVERY_S = 0.03


class Ended(NamedTuple):
    """Exit code, output and memory samples (number of outputs, MB) of a run of restore.py."""

    code: int
    error: str
    memory: list[tuple[int, float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=1000, help="images")
    parser.add_argument("--kills", type=int, default=3, help="runs to kill before the last one")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(soak(Path(folder), args.num, args.kills, args.seed), indent=1))
    return 0


def soak(folder: Path, num: int, num_kills: int, seed: int) -> dict[str, float]:
    """Return measured numbers; AssertionError if an image is lost, changed or restored twice."""
    draw = random.Random(seed)
    bad = make_photographs(folder / "photos", num, draw)
    checkpoint = train(folder)
    sources = {path.name: path.read_bytes() for path in (folder / "photos").iterdir()}

    killed_at, done_before = [], {}
    for _ in range(num_kills):
        num_done = len(visible(folder / "out"))
        stop_at = draw.randint(num_done + 1, max(num_done + 1, num_done + (num - num_done) // 2))
        ended = restore(folder, checkpoint, "out", kill_at=stop_at)
        assert ended.code == -9, ended
        now = visible(folder / "out")
        assert all(now[name] == state for name, state in done_before.items()), "a finished image was rewritten"
        done_before = now
        killed_at.append(len(now))

    finished = restore(folder, checkpoint, "out", "--json", "report.json")
    assert finished.code == 3 and "Traceback" not in finished.error, finished
    report = json.loads((folder / "report.json").read_text())
    counts = report["counts"]
    assert counts == {
        "restored": num - len(bad) - killed_at[-1],
        "skipped": killed_at[-1],
        "failed": len(bad),
        "left": 0,
    }
    failed = {Path(image["source"]).name: image["reason"] for image in report["images"] if image["status"] == "failed"}
    assert set(failed) == bad and all(failed.values())
    outputs = visible(folder / "out")
    assert all(outputs[name] == state for name, state in done_before.items()), "a finished image was rewritten"
    assert {entry.name for entry in (folder / "out").iterdir()} == set(sources) - bad, "unexpected files remain"

    reference = restore(folder, checkpoint, "reference")
    for name in set(sources) - bad:
        assert (folder / "out" / name).read_bytes() == (folder / "reference" / name).read_bytes(), name
    assert {path.name: path.read_bytes() for path in (folder / "photos").iterdir()} == sources, "an input was changed"
    first, slope = memory_of(reference.memory)
    return {
        "images": num,
        "bad": len(bad),
        "killed_after": killed_at,
        "seconds_per_image": round(report["seconds"] / max(counts["restored"], 1), 4),
        "memory_mb": first,
        "mb_per_100_images": slope,
    }


def make_photographs(folder: Path, num: int, draw: random.Random) -> set[str]:
    """Write small images of different sizes as PNG, JPEG, WebP and TIFF; return the names of the bad ones."""
    folder.mkdir()
    bad = set(draw.sample(range(num), round(BAD_SHARE * num)))
    names = [f"{k:05d}.{('png', 'jpg', 'webp', 'tif')[k % 4]}" for k in range(num)]
    for k, name in enumerate(names):
        noise = np.random.default_rng(k).integers(0, 256, (24 + k % 7, 30 + k % 5, 3), dtype=np.uint8)
        path = folder / name
        Image.fromarray(noise).save(path)
        if k in bad:
            content = path.read_bytes()
            path.write_bytes(draw.choice((b"", b"no image", content[: len(content) // 2])))
    return {names[k] for k in bad}


def train(folder: Path) -> Path:
    """Train a tiny network for four steps; return its run folder."""
    tiny_run.write_pairs(folder / "pairs", 4)
    tiny_run.write_pairs(folder / "tests", 1, first=100)
    command = [sys.executable, str(TESTS.parent / "train.py"), *tiny_run.arguments()]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / "runs").iterdir()
    return run


def restore(folder: Path, checkpoint: Path, output: str, *arguments: str, kill_at: int | None = None) -> Ended:
    """Run restore.py on photos/, with `kill_at` until that many outputs exist."""
    command = [sys.executable, str(TESTS.parent / "restore.py"), "-i", "photos", "-o", output, "-q"]
    command += ["--ckpt", str(checkpoint), "--device", "cpu", *arguments]
    memory = []
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=printed, stderr=printed)
        while process.poll() is None:
            num_done = len(visible(folder / output))
            if kill_at is not None and num_done >= kill_at:
                process.kill()
            memory.append((num_done, memory_mb(process.pid)))
            time.sleep(0.002 if kill_at is not None else SAMPLE_EVERY_S)
        printed.seek(0)
        return Ended(process.returncode, printed.read(), memory)


def visible(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and modification time of each visible file in a folder."""
    if not folder.is_dir():
        return {}
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def memory_mb(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024 if "VmRSS:" in status else 0.0


def memory_of(samples: list[tuple[int, float]]) -> tuple[float, float]:
    """Return memory in MB after a quarter of the images, and its slope from there in MB per 100 (least squares)."""
    last = max(number for number, _ in samples)  # exiting takes additional memory
    number, mb = np.array([(number, mb) for number, mb in samples if last / 4 <= number < last and mb]).T
    slope = np.polyfit(number, mb, 1)[0] if np.ptp(number) else 0.0
    return round(float(mb[0]), 1), round(100 * float(slope), 2)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    raise SystemExit(main())
