"""torchrun train.py: real processes, real signals."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import arguments, run_train, scores

from restore_diff.commands import training_run
from restore_diff.distributed import Processes

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("runs/derain")
LONGER = ["training.num_steps=6", "training.save_every_steps=2", "data.num_workers=1"]

DRIVER = """
import os, signal, sys
from pathlib import Path
from restore_diff.commands.train import main
from restore_diff.training.trainer import Trainer

advance, rank, once = Trainer._advance, os.environ["RANK"], Path("done_once")

def advance_and_act(trainer, micro_batches):
    advance(trainer, micro_batches)
    if trainer.step == 3 and rank == "1" and not once.exists():
        once.touch()
        ACTION

Trainer._advance = advance_and_act
raise SystemExit(main())
"""


def torchrun(script: Path, *more: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, str(script), *arguments(*LONGER, *more)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def driver(action: str) -> Path:
    """train.py, but for what the second process does to itself or others after step 3, once."""
    path = Path("driver.py")
    path.write_text(DRIVER.replace("ACTION", action))
    return path


def complaints(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("train.py: note: ")]


def status() -> dict[str, object]:
    return json.loads((RUN / "status.json").read_text())


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints/00000006/ema.safetensors")


def test_a_run_on_two_processes_stopped_by_sigterm_and_started_again_equals_one_on_one(here):
    stopped = torchrun(driver("os.kill(os.getppid(), signal.SIGTERM)"))
    assert stopped.returncode != 0
    lines = stopped.stderr.splitlines()
    step = status()["step"]
    assert step in (3, 4, 5)
    assert status() == {"state": "preempted", "step": step, "reason": f"stopped by SIGTERM, saved step {step}"}
    assert lines.count(f"train.py: stopped by SIGTERM, saved step {step}") == 1
    assert (RUN / "log.txt").read_text().count(f"checkpoint {step} saved") == 1

    finished = torchrun(ROOT / "train.py")
    assert finished.returncode == 0, finished.stderr
    printed = finished.stdout.splitlines()
    assert [line for line in printed if "resumed" in line] == [f"resumed from checkpoint {step:08d}"]
    assert sum("device cpu (2 processes, " in line for line in printed) == 1
    assert status() == {"state": "finished", "step": 6, "reason": ""}

    # The gradient of either half of a batch, and their sum: the same numbers, so that Adam magnifies no rounding.
    assert run_train(*LONGER, "name=alone", "training.num_micro_batches=2") == 0
    two, one = final_weights(RUN), final_weights(Path("runs/alone"))
    assert max((two[name] - one[name]).abs().max().item() for name in one) < 1e-6
    tables = [scores(run / "test/tests") for run in (RUN, Path("runs/alone"))]
    assert [row["name"] for row in tables[0]] == ["100", "101", "102"]
    for row, expected in zip(*tables, strict=True):
        assert float(row["psnr_rgb"]) == pytest.approx(float(expected["psnr_rgb"]), abs=0.01)


@pytest.mark.long
def test_a_killed_process_ends_the_others_and_torchrun_starts_them_again_from_the_last_checkpoint(here):
    done = torchrun(driver("os.kill(os.getpid(), signal.SIGKILL)"), options=("--max-restarts=1",))
    assert done.returncode == 0, done.stderr
    assert (RUN / "log.txt").read_text().count("resumed from checkpoint 00000002") == 1
    assert status() == {"state": "finished", "step": 6, "reason": ""}


@pytest.mark.long
def test_a_damaged_image_met_by_one_process_ends_all_with_its_name(here):
    """The first process alone prints, also what befell another."""
    action = "raise ImageError('pairs/target/003.png: damaged or truncated')"
    broken = torchrun(driver(f"from restore_diff.data.images import ImageError; {action}"))
    assert broken.returncode != 0
    told = [line for line in complaints(broken.stderr) if line.startswith("train.py: ")]
    reason = "rank 1: ImageError: pairs/target/003.png: damaged or truncated"
    assert told == [f"train.py: {reason}"]
    assert status() == {"state": "failed", "step": 3, "reason": reason}


@contextmanager
def three():
    yield Processes(0, 3)


def test_a_batch_that_cannot_be_split_evenly_is_refused_with_the_nearest_sizes(here, capsys, monkeypatch):
    monkeypatch.setattr(training_run, "joined", three)
    assert run_train("training.batch_size=4") == 2
    nearest = "4 cannot be split evenly over 3 processes x 1 micro batches; nearest: 3 or 6"
    assert complaints(capsys.readouterr().err) == [f"train.py: training.batch_size: {nearest}"]
    assert run_train("training.batch_size=4", "training.num_micro_batches=2") == 2
    assert "over 3 processes x 2 micro batches; nearest: 6" in capsys.readouterr().err


def test_processes_need_a_device_each(here, capsys, monkeypatch):
    monkeypatch.setattr(training_run, "joined", three)
    monkeypatch.setattr(training_run.build, "select_device", lambda name: torch.device(name))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name, told in [("cuda", "3 processes for 2 GPUs"), ("cuda:1", "a GPU each"), ("mps", "or on cpu")]:
        assert run_train("--device", name) == 2
        (line,) = complaints(capsys.readouterr().err)
        assert told in line
