"""Many images through the real restore.py with bad files among them and kill -9 in the middle: nothing is lost.

python tests/soak.py --num 1000     every good image restored once, bit for bit as in a run without faults; numbers
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
    """How a run of restore.py ended, and its memory, sampled: (number of outputs, MB)."""

    code: int
    error: str
    memory: list[tuple[int, float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=1000, help="images")
    parser.add_argument("--kills", type=int, default=3, help="runs that are killed, before one that finishes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(soak(Path(folder), args.num, args.kills, args.seed), indent=1))
    return 0


def soak(folder: Path, num: int, num_kills: int, seed: int) -> dict[str, float]:
    """Fails by AssertionError where something is lost, changed, or done twice; else, what was measured."""
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
        assert all(now[name] == state for name, state in done_before.items()), "a finished image was written again"
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
    assert all(outputs[name] == state for name, state in done_before.items()), "a finished image was written again"
    assert {entry.name for entry in (folder / "out").iterdir()} == set(sources) - bad, "something else was left"

    undisturbed = restore(folder, checkpoint, "undisturbed")
    for name in set(sources) - bad:
        assert (folder / "out" / name).read_bytes() == (folder / "undisturbed" / name).read_bytes(), name
    assert {path.name: path.read_bytes() for path in (folder / "photos").iterdir()} == sources, "an input was changed"
    first, slope = memory_of(undisturbed.memory)
    return {
        "images": num,
        "bad": len(bad),
        "killed_after": killed_at,
        "seconds_per_image": round(report["seconds"] / max(counts["restored"], 1), 4),
        "memory_mb": first,
        "mb_per_100_images": slope,
    }


def make_photographs(folder: Path, num: int, draw: random.Random) -> set[str]:
    """Small pictures of changing sizes as PNG, JPEG, WebP and TIFF; the names of the bad ones among them."""
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
    """A tiny network of four steps of training, and its run folder."""
    tiny_run.write_pairs(folder / "pairs", 4)
    tiny_run.write_pairs(folder / "tests", 1, first=100)
    command = [sys.executable, str(TESTS.parent / "train.py"), *tiny_run.arguments()]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / "runs").iterdir()
    return run


def restore(folder: Path, checkpoint: Path, output: str, *arguments: str, kill_at: int | None = None) -> Ended:
    """Run restore.py on photos/; with `kill_at`, until that many outputs are there."""
    command = [sys.executable, str(TESTS.parent / "restore.py"), "-i", "photos", "-o", output, "-q"]
    command += ["--ckpt", str(checkpoint), "--device", "cpu", *arguments]
    memory = []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=said, stderr=said)
        while process.poll() is None:
            num_done = len(visible(folder / output))
            if kill_at is not None and num_done >= kill_at:
                process.kill()
            memory.append((num_done, memory_mb(process.pid)))
            time.sleep(0.002 if kill_at is not None else SAMPLE_EVERY_S)
        said.seek(0)
        return Ended(process.returncode, said.read(), memory)


def visible(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder, and which file it is."""
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
    """Memory in MB when a quarter is done, and its slope from there to the end in MB per 100, by least squares."""
    last = max(number for number, _ in samples)  # with it the process ends, which takes memory of its own
    number, mb = np.array([(number, mb) for number, mb in samples if last / 4 <= number < last and mb]).T
    slope = np.polyfit(number, mb, 1)[0] if np.ptp(number) else 0.0
    return round(float(mb[0]), 1), round(100 * float(slope), 2)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    raise SystemExit(main())
