"""The run folder: one process at a time, whole files."""

import json
import os
import signal

import pytest
import torch

from restore_diff.training.run import RunFolder, RunFolderError


def test_a_second_process_is_refused_with_the_first_ones_pid_and_let_in_after_it(tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(RunFolderError, match=rf"is in use by pid {os.getpid()} on "):
        RunFolder(tmp_path / "run").__enter__()
    with RunFolder(tmp_path / "run"):
        pass


def test_a_forked_worker_that_outlives_the_run_does_not_hold_the_lock(tmp_path):
    with RunFolder(tmp_path):
        ready, running = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(running, b"!")
            signal.pause()
        os.read(ready, 1)
    try:
        with RunFolder(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_start_is_recorded(tmp_path):
    with RunFolder(tmp_path) as run:
        for seed in ("0", "1"):
            run.record_start("seed: 0\n", ["train.py", "--cfg", "my rain.yaml", f"seed={seed}"], torch.device("cpu"))
    assert (tmp_path / "config.yaml").read_text() == "seed: 0\n"
    commands = (tmp_path / "command.txt").read_text().splitlines()
    assert commands == ["train.py --cfg 'my rain.yaml' seed=0", "train.py --cfg 'my rain.yaml' seed=1"]
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["device"].startswith("cpu")


def test_the_status_is_replaced_whole(tmp_path):
    with RunFolder(tmp_path) as run:
        run.write_status("running", 400)
        run.write_status("failed", 456, "loss is nan at step 457")
    status = json.loads((tmp_path / "status.json").read_text())
    assert status == {"state": "failed", "step": 456, "reason": "loss is nan at step 457"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".holder", ".lock", "checkpoints", "status.json"]


def test_an_earlier_run_is_set_aside_and_never_overwritten(tmp_path):
    with RunFolder(tmp_path) as run:
        assert run.set_aside() is None
        for number in ("001", "002"):
            run.write_status("finished", 1)
            assert run.set_aside() == tmp_path / f"previous-{number}"
        assert (tmp_path / "previous-001" / "status.json").exists()
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [
            ".holder", ".lock", "checkpoints", "previous-001", "previous-002",
        ]  # fmt: skip
