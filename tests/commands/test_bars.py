"""Long work shows a progress bar with the time left on a terminal, and nothing elsewhere."""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr

import pytest
from tiny_run import enter, run_test, run_train, write_pairs

from restore_diff.commands import doctor, render, restore, shard
from restore_diff.data.images import DecodedImages, scan_files

FINISHED = ["--pred", "tests/input", "--target", "tests/target", "--metrics", "psnr"]
BARS = {
    "train": (lambda: run_train("data.num_validation=2", "training.validate_every_steps=4"), ["step", "validation"]),
    "test": (lambda: run_test("--ckpt", "shipped", "--data", "tests", "--metrics", "psnr"), ["tests", "pictures"]),
    "test --pred": (lambda: run_test(*FINISHED), ["input", "pictures"]),
    "restore": (lambda: restore.main(["-i", "tests/input", "-o", "restored", "--quality", "fast"]), ["image"]),
    "render": (lambda: render.main(["-i", "tests/target", "-o", "rendered", "--weather", "rain"]), ["image"]),
    "shard": (lambda: shard.main(["-i", "pairs", "-o", "shards"]), ["copy"]),
    "doctor": (
        lambda: doctor.main(["--data", "tests", "--split", "split", "--jobs", "1"]),
        ["tests", "tests: duplicates", "write train", "write test"],
    ),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(run: Callable[[], object]) -> str:
    """Return what a function writes to a terminal on stderr."""
    with redirect_stderr(Terminal()) as terminal:
        assert run() in (0, None)
    return terminal.getvalue()


@pytest.mark.parametrize("command", BARS)
def test_long_work_shows_a_bar_with_the_time_left(command, tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)
    run, labels = BARS[command]
    bars = re.findall(r"[^\r\n]*\d+%\|[^\r\n]*", on_terminal(run))
    assert all(re.search(r"\| \d+/\d+ \[\d\d:\d\d<", bar) for bar in bars)
    for label in labels:
        assert any(label in bar for bar in bars), label


def test_reading_many_files_shows_a_bar_after_a_second(tmp_path, monkeypatch):
    write_pairs(tmp_path, 3)
    files = sorted((tmp_path / "input").iterdir())

    def read() -> None:
        DecodedImages(scan_files(files), cache_mib=1)

    assert on_terminal(read) == ""
    clock = iter(range(10**6))
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))
    assert re.search(r"check files.*read files", on_terminal(read))
    monkeypatch.setenv("RANK", "1")
    assert on_terminal(read) == ""
