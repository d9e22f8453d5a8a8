"""Atomic writes by any number of processes; removal of the temporary files of killed ones."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from restore_diff.files import printable, remove_abandoned, replace_atomically

STUCK = """
import os, sys, time
from pathlib import Path
from restore_diff import files

os.fsync = lambda descriptor: (print("writing", flush=True), time.sleep(60))
files.replace_atomically(Path(sys.argv[1]), b"new" * 1000)
"""


def start_stuck_writer(path):
    """Start a process that has written its temporary file for `path` and then hangs in fsync."""
    process = subprocess.Popen([sys.executable, "-c", STUCK, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "writing\n"
    return process


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_files_of_killed_processes_are_removed_but_not_of_running_ones(tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    with start_stuck_writer(tmp_path / "a.png") as process:
        assert len(hidden(tmp_path)) == 1
        assert remove_abandoned([tmp_path]) == 0 and len(hidden(tmp_path)) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(hidden(tmp_path)) == 1 and (tmp_path / "a.png").read_bytes() == b"old"
        assert remove_abandoned([tmp_path, tmp_path / "none"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_only_files_with_the_exact_name_pattern_are_removed(tmp_path):
    (tmp_path / "target").write_text("precious")
    foreign = [".x.tmp", "a.tmp", ".restore-diff-notes.tmp", "restore-diff-0123abcd-1-0123abcd-0.tmp"]
    for name in foreign:
        (tmp_path / name).write_text("precious")
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / "target", (0, 0))
    (tmp_path / ".restore-diff-0123abcd-1-0123abcd-0.tmp").symlink_to(tmp_path / "target")
    (tmp_path / ".restore-diff-0123abcd-1-0123abcd-1.tmp").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert remove_abandoned([tmp_path]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_file_of_another_machine_is_kept_for_a_day(tmp_path):
    path = tmp_path / ".restore-diff-00000000-999999999-0123abcd-7.tmp"
    path.touch()
    assert remove_abandoned([tmp_path]) == 0
    os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert remove_abandoned([tmp_path]) == 1


def test_a_reused_process_id_does_not_protect_an_abandoned_file(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: names.extend(hidden(tmp_path)))
    replace_atomically(tmp_path / "a", b"")
    own = names[0]
    (tmp_path / own).touch()
    assert remove_abandoned([tmp_path]) == 0
    parts = own.split("-")
    parts[4] = "00000000"  # the run that wrote it
    (tmp_path / own).rename(tmp_path / "-".join(parts))
    assert remove_abandoned([tmp_path]) == 1


def test_concurrent_writers_of_one_file_do_not_interfere(tmp_path):
    # All threads write before the first rename.
    contents = [bytes([k]) * 100_000 for k in range(8)]
    barrier = threading.Barrier(len(contents), timeout=20)
    true_fsync, waited = os.fsync, threading.local()

    def fsync(descriptor):
        if not hasattr(waited, "once"):
            waited.once = True
            barrier.wait()
        true_fsync(descriptor)

    failures = []

    def write(content):
        try:
            replace_atomically(tmp_path / "a", content)
        except BaseException as error:
            failures.append(error)

    os.fsync = fsync
    try:
        threads = [threading.Thread(target=write, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.fsync = true_fsync
    assert not failures
    assert (tmp_path / "a").read_bytes() in contents
    assert hidden(tmp_path) == []


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    replace_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert (tmp_path / "a").read_bytes() == b"new" and not (tmp_path / "a").is_symlink()


def test_a_failed_write_leaves_the_old_contents_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and hidden(tmp_path) == []


def test_control_characters_and_invalid_utf_8_are_escaped():
    assert printable("a\nb\x1b[2J\x85é☂\udce9") == "a\\nb\\x1b[2J\\x85é☂\\udce9"
