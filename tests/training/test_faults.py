"""What goes wrong around a run, and what it says then."""

import errno
import faulthandler
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from toy_run import rising_score, toy_config, toy_optimisation, train

import restore_diff
from restore_diff import checkpoint as checkpoint_module
from restore_diff.checkpoint import DamagedCheckpoint, list_checkpoints
from restore_diff.distributed import TrainingStopped
from restore_diff.training import faults
from restore_diff.training.faults import death_of_worker, undisturbed
from restore_diff.training.run import ConfigChanged


def names(run: Path) -> list[str]:
    return [path.name for path in list_checkpoints(run / "checkpoints")]


@pytest.mark.parametrize("collapsed", [26.9, math.nan])
def test_a_score_that_collapses_is_warned_of_and_the_best_stays(tmp_path, capsys, collapsed):
    scores = {2: 30.0, 4: 27.1, 6: collapsed, 8: 29.0}
    config = toy_config(validate_every_steps=2)
    train(tmp_path, config, validate=lambda model, step: {"psnr": scores[step]})
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [f"warning: psnr fell to {collapsed:.4g} from 30 at step 2, which stays the best"]
    assert "00000002" in names(tmp_path)
    assert '"step": 2' in (tmp_path / "checkpoints" / "best.json").read_text()


def test_a_float16_overflow_is_logged_once(tmp_path, capsys):
    config = toy_config(precision="float16", num_steps=6, log_every_steps=1)
    optimisation, calls = toy_optimisation(config), iter(range(6))
    bias = optimisation.model.conv_out.bias
    bias.register_hook(lambda gradient: gradient * math.inf if next(calls) == 2 else gradient)
    train(tmp_path, config, optimisation=optimisation, validate=None)
    told = [line for line in capsys.readouterr().out.splitlines() if "overflow" in line]
    assert told == ["float16 overflow: 1 update(s) left out up to step 3"]


def test_a_checkpoint_of_another_model_is_told_with_counts_in_one_line(tmp_path):
    config = toy_config(num_steps=2)
    train(tmp_path, config)
    other = toy_optimisation(config)
    other.model.conv_out = torch.nn.Conv2d(8, 5, 3)
    other.model.extra = torch.nn.Linear(2, 2)
    num_tensors = len(other.model.state_dict())
    differences = "2 of another shape or type, e.g. conv_out.bias; 2 not in the checkpoint, e.g. extra.bias"
    message = f"the checkpoint is not of this model of {num_tensors} tensors: {differences}"
    with pytest.raises(ConfigChanged) as refused:
        train(tmp_path, config, optimisation=other)
    assert str(refused.value) == message


def test_neither_clock_nor_file_times_decide_anything(tmp_path, capsys, monkeypatch):
    """The clock goes back an hour with each look, and the oldest checkpoint looks like the newest."""
    looks = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600 * next(looks))
    train(tmp_path, toy_config(num_steps=6))
    for age, path in enumerate(list_checkpoints(tmp_path / "checkpoints")):
        os.utime(path, (1e9 - age, 1e9 - age))
    train(tmp_path, toy_config())
    printed = capsys.readouterr().out
    assert "resumed from checkpoint 00000006" in printed
    assert not re.search(r"-[\d.:]+ (it/s|s\))|eta -", printed)


def test_one_checkpoint_alone_cannot_be_asked_for():
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        toy_config(num_checkpoints_kept=1)


def test_old_checkpoints_go_only_once_the_new_one_is_verified(tmp_path, monkeypatch):
    often = {"save_every_steps": 1, "num_checkpoints_kept": 2}
    train(tmp_path, toy_config(num_steps=3, **often), validate=None)

    def damaged(path: Path) -> None:
        raise DamagedCheckpoint(path, "model.safetensors", "checksum differs")

    monkeypatch.setattr(checkpoint_module, "verify_checkpoint", damaged)
    with pytest.raises(TrainingStopped, match=r"checkpoint 00000004 not saved: .*; checkpoint 00000003 kept"):
        train(tmp_path, toy_config(num_steps=5, **often), validate=None)
    assert names(tmp_path) == ["00000002", "00000003"]


def test_a_tensorboard_whose_disk_fills_costs_one_warning_and_the_run_ends_as_ever(tmp_path, capsys, monkeypatch):
    from torch.utils.tensorboard.writer import SummaryWriter

    calls, add_scalar = iter(range(10**6)), SummaryWriter.add_scalar

    def filling(*arguments: object) -> None:
        if next(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add_scalar(*arguments)

    monkeypatch.setattr(SummaryWriter, "add_scalar", filling)
    assert train(tmp_path, toy_config()).step == 8
    assert capsys.readouterr().out.count("warning: TensorBoard is off from here on (OSError: [Errno 28]") == 1


def test_a_full_disk_in_validation_stops_with_what_is_kept(tmp_path):
    def validate(model: torch.nn.Module, step: int) -> dict[str, float]:
        if step == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rising_score(model, step)

    with pytest.raises(TrainingStopped, match="No space left on device; checkpoint 00000006 kept"):
        train(tmp_path, toy_config(), validate=validate)


def end_by(number: int | None) -> None:
    faulthandler.disable()
    if number is None:
        time.sleep(600)
    elif number == 0:
        os._exit(3)
    os.kill(os.getpid(), number)


DIED = "a data worker died ({}; often out of memory): lower data.num_workers or training.batch_size"
NO_MEMORY = "a data worker had no shared memory left: raise its limit, e.g. docker run --shm-size=8g, or lower "


@pytest.mark.parametrize("error", [RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), EOFError()])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGKILL, DIED.format("killed")),
        (signal.SIGBUS, NO_MEMORY + "data.num_workers"),
        (0, DIED.format("exited unexpectedly")),
    ],
)
def test_how_a_worker_ended_becomes_advice(error, number, expected):
    workers = [
        multiprocessing.get_context("fork").Process(target=end_by, args=[how], daemon=True) for how in (number, None)
    ]
    for process in workers:
        process.start()
    assert death_of_worker(error, workers) == expected
    workers[1].kill()
    workers[1].join()


def test_a_broken_connection_is_not_blamed_on_workers_that_live(monkeypatch):
    monkeypatch.setattr(faults, "MOMENT_S", 0.01)
    worker = multiprocessing.get_context("fork").Process(target=end_by, args=[None], daemon=True)
    worker.start()
    assert death_of_worker(ConnectionResetError(), [worker]) is None
    worker.kill()
    worker.join()


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ("unable to write to file </torch_12_3>: No space left on device (28)", True),
        ("unable to open shared memory object </torch_1> in read-write mode", True),
        ("Caught KeyError in DataLoader worker process 0.", False),
        ("The size of tensor a (3) must match", False),
        ("DataLoader timed out after 600 seconds", False),
    ],
)
def test_a_worker_that_is_refused_shared_memory_is_told_so_and_other_errors_are_let_through(text, is_told):
    assert ("--shm-size" in str(death_of_worker(RuntimeError(text), []))) == is_told


def test_a_wait_for_data_that_timed_out_names_its_length():
    reason = death_of_worker(RuntimeError("DataLoader timed out after 600.0 seconds"), [])
    assert reason == "the data workers gave no batch for 600 s: check the disk that holds the images"


def test_other_threads_may_train_too():
    """Only the main thread may set what a signal does."""
    entered: list[bool] = []

    def enter() -> None:
        with undisturbed():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]


WITHOUT_DISTRIBUTED = """
import torch.distributed
for name in [name for name in dir(torch.distributed) if not name.startswith("_") and name != "is_available"]:
    delattr(torch.distributed, name)
from restore_diff.distributed import joined
from restore_diff.distributed import ALONE
with joined() as share, ALONE.together():
    ALONE.wait()
    print(share.num, ALONE.gather("x"), ALONE.agreed_signal(None))
"""


def test_one_process_needs_no_torch_distributed():
    root = str(Path(restore_diff.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-c", WITHOUT_DISTRIBUTED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("1 ['x'] None", 0), done.stderr
