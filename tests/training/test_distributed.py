"""Two processes train as one does, stop as one does, and end together."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_together
from safetensors.torch import load_file
from train_together import BAD_STEP, NUM_STEPS, STOPPED_AT

from restore_diff.checkpoint import TENSORS

SCRIPT = Path(train_together.__file__)
ROOT = SCRIPT.parents[2]
MODELS = ("model.safetensors", "ema.safetensors")


def start_both(*arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            env={**os.environ, **common, "RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder of all runs; `one` and the start of `one_then_two` are by one process."""
    folder = tmp_path_factory.mktemp("runs")
    train_together.alone(folder / "one")
    train_together.alone(folder / "one_then_two", STOPPED_AT)
    return folder


@pytest.fixture(scope="module")
def told(runs) -> list[dict[str, str]]:
    """The results of both processes, by scenario."""
    processes = start_both(str(runs))
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    lines = [[json.loads(line) for line in out.splitlines() if line.startswith("[")] for out, _ in said]
    assert "damaged_image" in dict(lines[0]), said[0][1]
    printed = [[line for line in out.splitlines() if not line.startswith("[")] for out, _ in said]
    return [dict(told) | {"printed": "\n".join(rest)} for told, rest in zip(lines, printed, strict=True)]


def tensors(run: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{step:08d}" / name)


def largest_difference(first: Path, second: Path, step: int) -> float:
    """Of weights and averages."""
    pairs = [(tensors(first, step, name), tensors(second, step, name)) for name in MODELS]
    return max((a[key] - b[key]).abs().max().item() for a, b in pairs for key in a)


def test_two_processes_do_the_steps_of_one(runs, told):
    assert 0 < largest_difference(runs / "one", runs / "two", NUM_STEPS) < 1e-6


def test_their_log_has_the_losses_of_one(runs, told):
    one, two = ((runs / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two"))
    values = [[json.loads(line) for line in lines if "loss" in line] for lines in (one, two)]
    assert len(values[1]) == NUM_STEPS // 2
    for a, b in zip(*values, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_only_the_first_process_writes_and_speaks(runs, told):
    assert (runs / "two" / "log.txt").read_text().count("checkpoint 30 saved") == 1
    assert "step 30/30" in told[0]["printed"]
    assert told[1]["printed"] == ""


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_saves_once(runs, told):
    for said in told:
        assert said["interrupted"] == f"stopped by SIGTERM, saved step {STOPPED_AT}"
    assert (runs / "parts" / "log.txt").read_text().count(f"checkpoint {STOPPED_AT} saved") == 1


def test_a_run_resumed_on_as_many_processes_equals_an_uninterrupted_one_bit_for_bit(runs, told):
    for name in TENSORS:
        a, b = (tensors(runs / run, NUM_STEPS, name) for run in ("two", "parts"))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert (runs / "two" / "metrics.jsonl").read_bytes() == (runs / "parts" / "metrics.jsonl").read_bytes()


def test_a_run_of_one_process_goes_on_on_two(runs, told):
    assert largest_difference(runs / "one", runs / "one_then_two", NUM_STEPS) < 1e-6


def test_a_run_of_two_processes_goes_on_on_one(runs, told, tmp_path):
    shutil.copytree(runs / "parts", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"{NUM_STEPS:08d}")
    train_together.alone(tmp_path / "run")
    assert largest_difference(runs / "one", tmp_path / "run", NUM_STEPS) < 1e-6


def test_processes_draw_dropout_of_their_own(told):
    assert told[0]["with_dropout"] != told[1]["with_dropout"]


def test_a_nan_on_one_process_stops_all_before_the_weights_change_and_names_it(runs, told):
    line = f"TrainingStopped: loss is nan at step {BAD_STEP + 1} on rank 1, on photo_0, photo_2, ... (all in "
    line += f"nonfinite_{BAD_STEP + 1:06d}.json); no checkpoint yet"
    assert [said["not_a_number"] for said in told] == [line, line]
    record = json.loads((runs / "nan" / f"nonfinite_{BAD_STEP + 1:06d}.json").read_text())
    assert record["positions"] == [25, 27]
    assert record["names"] == ["photo_0", "photo_2"]
    assert (record["ranks"], record["weights_finite"]) == ([1], True)


def test_a_float16_overflow_on_one_process_is_left_out_by_all(told):
    assert [said["overflow"] for said in told] == [f"{65536 / 2} (0, 1) None"] * 2


def test_weights_that_drift_apart_are_noticed_before_they_are_saved(runs, told):
    line = "TrainingStopped: weights, averages on rank 1 differ from those on rank 0 after step 6; "
    assert [said["drift"] for said in told] == [line + "checkpoint 00000003 kept"] * 2


def test_what_one_process_raises_ends_the_others_with_its_message(runs, told):
    assert told[1]["damaged_image"] == "ValueError: photo_3.png: damaged"
    assert told[0]["damaged_image"] == "OtherProcessFailed: rank 1: ValueError: photo_3.png: damaged"
    status = json.loads((runs / "damaged" / "status.json").read_text())
    assert status == {"state": "failed", "step": 3, "reason": "rank 1: ValueError: photo_3.png: damaged"}
