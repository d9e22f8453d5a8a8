"""Real signals to a real process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import toy_run
from toy_run import toy_config, train

import restore_diff
from restore_diff.checkpoint import TENSORS, list_checkpoints
from restore_diff.training.run import RunFolder, RunFolderError


def start(folder: Path, num_steps: int, until: str, *extra: str) -> subprocess.Popen[str]:
    """Train in a process of its own; returns once it has printed a line that starts with `until`."""
    root = str(Path(restore_diff.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, toy_run.__file__, str(folder), str(num_steps), *extra]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    while not (line := process.stdout.readline()).startswith(until):
        assert line, process.communicate()
    return process


def test_sigterm_saves_the_step_exits_143_and_the_next_run_goes_on_exactly(tmp_path):
    process = start(tmp_path / "parts", num_steps=1000, until="step 3/")
    with pytest.raises(RunFolderError, match=f"is in use by pid {process.pid} on "):
        RunFolder(tmp_path / "parts").__enter__()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    step = json.loads((tmp_path / "parts" / "status.json").read_text())["step"]
    assert step >= 3
    assert out.splitlines()[-1] == f"stopped by SIGTERM, saved step {step}"
    assert "SIGTERM: finishing this step" in err
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == f"{step:08d}"

    config = toy_config(num_steps=step + 3, log_every_steps=1, save_every_steps=1000, learning_rate_decay="constant")
    for name in ("parts", "whole"):
        train(tmp_path / name, config)
    last = f"checkpoints/{step + 3:08d}"
    for name in TENSORS:
        assert (tmp_path / "parts" / last / name).read_bytes() == (tmp_path / "whole" / last / name).read_bytes()
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("parts", "whole")]
    assert lines[0] == lines[1]


def test_a_second_signal_leaves_at_once_and_damages_nothing(tmp_path):
    process = start(tmp_path, 1000, "checkpoint 4 saved", "hang")
    assert process.stderr
    process.send_signal(signal.SIGINT)
    while "once more leaves at once" not in (line := process.stderr.readline()):
        assert line, process.communicate()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert train(tmp_path, toy_config(num_steps=5, learning_rate_decay="constant")).step == 5
    assert "resumed from checkpoint 00000004" in (tmp_path / "log.txt").read_text()
