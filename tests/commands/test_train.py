"""train.py as a user meets it: a folder of pairs, the real main(), what lies in the run folder and on the screen."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_run import arguments, enter, run_train, scores, summary, tensors, tree, write_image, write_pairs

from restore_diff import build
from restore_diff.commands import training_run
from restore_diff.config import load_config
from restore_diff.training.run import RunFolder, RunLog

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("runs/derain")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A user's folder in which the command has run once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = enter(tmp_path_factory.mktemp("finished"), monkeypatch)
        assert run_train() == 0
    return folder


@pytest.fixture
def done(finished, here):
    """A copy of it, to go on in."""
    shutil.copytree(finished / "runs", here / "runs")
    return here


def complaints(capsys) -> list[str]:
    """What went to stderr, but for notes. A traceback would be more than the test expects."""
    return [line for line in capsys.readouterr().err.splitlines() if not line.startswith("train.py: note: ")]


@pytest.mark.parametrize(
    ("names", "data"),
    [
        (("LQ/{}", "GT/{}"), "data.train=mine"),
        (("rain/rain-{}", "norain/norain-{}"), "data.train=mine"),
        (("train/hazy/{}", "train/clear/{}"), "data.train=mine"),
        (("dull/{}_rain", "bright/{}"), "data.train=mine/dull:mine/bright"),
    ],
)
def test_pairs_train_under_any_of_the_names_in_use(here, capsys, names, data):
    write_pairs(here / "mine", 6, first=50, names=names)
    assert run_train(data, "training.num_steps=1") == 0
    printed = capsys.readouterr().out
    assert ": 5 pairs to train on, 1 held out for validation; 10 of 10 files in memory" in printed
    assert "validation 1: psnr " in printed


def test_the_run_folder_holds_all_that_the_run_depended_on(finished, monkeypatch):
    monkeypatch.chdir(finished)
    assert {path.name for path in RUN.iterdir()} == {
        *("config.yaml", "command.txt", "environment.json", "metrics.jsonl", "log.txt", "status.json", "data.json"),
        *("checkpoints", "samples", "tb", "test", ".lock", ".holder"),
    }
    assert load_config([str(RUN / "config.yaml")]) == load_config(["derain.yaml"], arguments()[4:])
    assert (RUN / "command.txt").read_text().startswith("train.py --cfg derain.yaml --device cpu model.base_channels=8")
    assert json.loads((RUN / "environment.json").read_text())["versions"]["torch"] == torch.__version__
    assert json.loads((RUN / "status.json").read_text()) == {"state": "finished", "step": 4, "reason": ""}
    metrics = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 4]
    assert metrics[-1].keys() == {"step", "validation/psnr", "validation/ssim"}
    assert any(path.stat().st_size > 500 for path in (RUN / "tb").iterdir())
    with Image.open(RUN / "samples/step_000004.png") as panel:  # two held out: degraded | restored | clean
        assert panel.size == (3 * 33 + 4 * 4, 2 * 26 + 3 * 4)
    assert {path.name for path in (RUN / "checkpoints").iterdir()} == {"00000004", "best.json"}


def test_the_test_set_is_scored_before_and_after(finished):
    report = finished / RUN / "test/tests"
    assert [row["name"] for row in scores(report)] == ["100", "101", "102"]
    columns = summary(report)["summary"]
    for column in ("psnr_rgb", "ssim_rgb"):
        before, after = columns[f"{column}_input"]["mean"], columns[column]["mean"]
        assert abs(after - before - columns[f"{column}_gain"]["mean"]) < 1e-9
    with Image.open(report / "before_after.png") as picture:
        assert picture.size[0] == 4 * 33 + 5 * 4


def test_the_same_command_again_says_finished_and_trains_no_further(done, capsys):
    before = tensors(RUN, 4), (RUN / "metrics.jsonl").read_bytes(), scores(RUN / "test/tests")
    assert run_train() == 0
    assert "already finished (4/4)" in capsys.readouterr().out.splitlines()
    assert (tensors(RUN, 4), (RUN / "metrics.jsonl").read_bytes(), scores(RUN / "test/tests")) == before


STOPPED_AFTER_5_STEPS = """
import os, signal
from restore_diff.commands.train import main
from restore_diff.training.run import RunLog

steps, step_done = [], RunLog.step_done

def stop_after_5(log):
    step_done(log)
    steps.append(1)
    if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGTERM)

RunLog.step_done = stop_after_5
raise SystemExit(main())
"""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_stopped_by_sigterm_and_started_again_equals_an_uninterrupted_one(here, capsys, num_workers):
    often = ["training.num_steps=8", "training.save_every_steps=3", "training.validate_every_steps=4"]
    command = arguments("name=parts", f"data.num_workers={num_workers}", *often)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED_AFTER_5_STEPS, *command], env=environment, capture_output=True, text=True
    )
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "\nSIGTERM: finishing this step, then saving; once more leaves at once\n" in stopped.stderr
    assert stopped.stderr.splitlines()[-1] == "train.py: stopped by SIGTERM, saved step 5"
    assert json.loads((here / "runs/parts/status.json").read_text())["state"] == "preempted"
    assert run_train("name=parts", f"data.num_workers={num_workers}", *often) == 0
    assert "resumed from checkpoint 00000005" in capsys.readouterr().out
    assert run_train("name=whole", *often) == 0
    parts, whole = here / "runs/parts", here / "runs/whole"
    assert tensors(parts, 8) == tensors(whole, 8)
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert scores(parts / "test/tests") == scores(whole / "test/tests")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.base_channels=16", "model.base_channels 8 -> 16"),
        ("data.augmentation=none", "data.augmentation flips -> none"),
        ("data.train=tests", "data.train pairs -> tests"),
        ("seed=1", "seed 0 -> 1"),
    ],
)
def test_another_model_data_or_seed_is_refused_by_key_and_changes_nothing(done, capsys, change, told):
    before = tree(RUN)
    assert run_train(change) == 2
    (line,) = complaints(capsys)
    assert line == f"train.py: this run was started with another config: {told}. Start anew with --fresh"
    assert tree(RUN) == before


def test_a_longer_run_with_other_workers_goes_on(done, capsys):
    assert run_train("training.num_steps=5", "data.num_workers=1", "training.save_every_steps=2") == 0
    printed = capsys.readouterr().out
    assert "resumed from checkpoint 00000004; changed: data.num_workers 0 -> 1, training.num_steps 4 -> 5" in printed
    assert json.loads((RUN / "status.json").read_text())["step"] == 5
    assert len((RUN / "command.txt").read_text().splitlines()) == 2


def test_fresh_sets_the_earlier_run_aside_and_starts_from_nothing(done, capsys):
    before = tree(RUN)
    assert run_train("--fresh", "seed=1") == 0
    assert "the earlier run of this name is kept in runs/derain/previous-001" in capsys.readouterr().out
    assert {name: data for name, data in before.items() if name not in (".lock", ".holder")} == tree(
        RUN / "previous-001"
    )
    assert tensors(RUN, 4) != tensors(RUN / "previous-001", 4)
    assert len((RUN / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_printed_config_loads_to_the_same_config(here, capsys):
    assert run_train("--print-config", "training.learning_rate=3e-5") == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    expected = load_config(["derain.yaml"], [*arguments()[4:], "training.learning_rate=3e-5"])
    assert load_config(["printed.yaml"]) == expected
    assert not Path("runs").exists()


def test_a_dry_run_says_memory_and_time_and_writes_nothing(here, capsys):
    before = tree(here)
    assert run_train("--dry_run") == 0
    *_, cost, last = capsys.readouterr().out.splitlines()
    assert cost.startswith("cost    0.")
    assert "s a step (batch 2 of 16 px), " in cost
    assert " GB; about 0:00:0" in cost
    assert cost.endswith(" for 4 steps")
    assert last == "dry run: nothing was written"
    assert tree(here) == before


def test_a_mixture_of_weathers_is_trained_on_and_told(here, capsys):
    Path("photos").mkdir()
    for number in range(6):
        shutil.copy("pairs/target/000.png", f"photos/{number}.png")
    assert run_train("--dry-run", "data.train=photos", "data.weather={rain: 2, snow+haze: 1}") == 0
    assert "photographs with rendered rain or snow+haze to train on" in capsys.readouterr().out


def grey_target_of_another_size(folder: Path) -> None:
    write_image(folder / "tests/target/101.png", np.zeros((26, 34), np.uint8))


def input_without_target(folder: Path) -> None:
    (folder / "pairs/target/007.png").unlink()


def cut_file(folder: Path) -> None:
    path = folder / "pairs/input/003.png"
    path.write_bytes(path.read_bytes()[:200])


def clean_photographs(folder: Path) -> None:
    for number in range(3):
        write_image(folder / f"photos/{number}.png", np.zeros((26, 33, 3), np.uint8))


CLEAN = "photos holds clean photographs only: choose what to render on them, e.g. data.weather=rain"


@pytest.mark.parametrize(
    ("mistake", "more", "told"),
    [
        (None, ["data.train=rain100"], "rain100: neither a card nor a folder; did you mean rain100"),
        (None, ["data.train=rain100l"], "rain100l: not found below data; expected "),
        (None, ["data.train=nowhere/at_all"], "nowhere/at_all: neither a card nor a folder"),
        (None, ["data.test=pairs/input:pairs/output"], "one of the two folders of DEGRADED:CLEAN does not exist"),
        (input_without_target, [], "do not pair up: 1 degraded images have no clean partner (007)"),
        (cut_file, [], "pairs/input/003.png: damaged or truncated"),
        (clean_photographs, ["data.train=photos", "data.weather=none"], CLEAN),
        (clean_photographs, ["data.test=photos", "data.weather=none"], CLEAN),
        (grey_target_of_another_size, [], "tests/input/101.png is 33x26, tests/target/101.png is 34x26"),
        (None, ["data.crop_size_px=32"], "images are smaller than data.crop_size_px=32: pairs/target/"),
        (None, ["model.num_groups=3"], "model: num_groups=3 must divide the channels of every level, [8, 16]"),
        (None, ["model.condition_channels=1"], "model.condition_channels: must be 0 or image_channels=3, got"),
        (None, ["schedule.num_timesteps=10"], "schedule: every beta must lie below 1"),
        (None, ["sampler.num_steps=1001"], "sampler.num_steps: must not exceed schedule.num_timesteps=1000"),
        (None, ["evaluation.protocols=[rbg]"], "evaluation.protocols: unknown metric protocol 'rbg'"),
        (None, ["training.max_gradient_norm=.inf"], "finite numbers"),
        (None, ["name=.."], "make a name; got '..'"),
        (None, ["--device", "cuda:999999999999"], "device cuda:999999999999: this machine has "),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_written(here, capsys, mistake, more, told):
    if mistake:
        mistake(here)
    before = tree(here)
    assert run_train(*more) == 2
    (line,) = complaints(capsys)
    assert line.startswith("train.py: ")
    assert told in line
    assert tree(here) == before
    assert not Path("runs").exists()


def test_a_held_out_pair_that_does_not_fit_is_told_before_the_training(here, capsys):
    held_out = build.training_sets(load_config([], ["data.train=pairs"]))[1]
    assert held_out
    write_image(held_out.pairs[0].clean, np.zeros((9, 9, 3), np.uint8))
    assert run_train() == 2
    assert "pairs of different sizes" in complaints(capsys)[0]
    assert not Path("runs").exists()


def test_every_mistake_of_a_config_has_its_line(here, capsys):
    assert run_train("training.num_stps=3", "seed=-1") == 2
    assert {line.split(" (")[0] for line in complaints(capsys)} == {"train.py: training.num_stps", "train.py: seed"}


def test_test_images_that_are_trained_on_are_warned_of(here, capsys):
    shutil.copy("tests/target/101.png", "pairs/target/000.png")
    assert run_train("--dry-run", "data.num_validation=0") == 0
    assert "WARNING 1 test images are also trained on: 101" in capsys.readouterr().out.splitlines()


def test_a_run_in_use_is_refused_with_its_process(done, capsys):
    with RunFolder(RUN):
        assert run_train() == 2
    assert complaints(capsys)[0].startswith(f"train.py: runs/derain is in use by pid {os.getpid()} on ")


def test_training_that_cannot_go_on_ends_with_4_and_keeps_its_checkpoint(here, capsys):
    diverging = ["training.learning_rate=1e30", "training.warmup_steps=0", "training.save_every_steps=1"]
    assert run_train("training.num_steps=9", *diverging, "data.num_validation=0") == 4
    (line,) = complaints(capsys)
    assert re.match(r"train\.py: loss is (inf|nan) at step (\d), on .*; checkpoint 0000000\d kept$", line)


def test_memory_that_runs_out_ends_with_4_and_advice(here, capsys, monkeypatch):
    def measure(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(training_run, "measure_cost", measure)
    assert run_train() == 4
    (line,) = complaints(capsys)
    advice = "lower training.batch_size or data.crop_size_px, or raise training.num_micro_batches"
    assert re.fullmatch(
        rf"train\.py: out of memory with 2 crops of 16 px at once \(\d+\.\d GB used\); {re.escape(advice)}", line
    )


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (
            signal.SIGKILL,
            "a data worker died (killed; often out of memory): lower data.num_workers or training.batch_size",
        ),
        (signal.SIGBUS, "a data worker had no shared memory left: raise its limit, e.g. docker run --shm-size=8g"),
    ],
)
def test_a_data_worker_that_dies_is_told_the_steps_are_saved_and_the_next_start_goes_on(here, capsys, number, told):
    often = ["training.num_steps=60", "data.num_workers=1", "data.num_validation=0", "name=parts"]

    killed: list[int] = []

    def kill_worker(log: RunLog) -> None:
        if not killed:
            killed.extend(worker.pid for worker in multiprocessing.active_children())
            for pid in killed:
                os.kill(pid, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "step_done", kill_worker)
        assert run_train(*often) == 4
    step = json.loads((here / "runs/parts/status.json").read_text())["step"]
    assert 1 <= step < 60
    line = complaints(capsys)[-1]
    assert line.startswith(f"train.py: {told}")
    assert line.endswith(f"; checkpoint {step:08d} kept")
    assert run_train(*often, "data.num_workers=0") == 0
    assert f"resumed from checkpoint {step:08d}" in capsys.readouterr().out


def test_ctrl_c_ends_the_scoring_at_once_and_the_same_command_scores(here, capsys, monkeypatch):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was only noted")

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "score_test_set", interrupted)
        assert run_train() == 130
    assert complaints(capsys)[-1] == "train.py: interrupted; the same command goes on from here"
    assert run_train() == 0
    assert len(scores(RUN / "test/tests")) == 3


def test_training_can_start_from_weights(done, capsys):
    before = load_file(RUN / "checkpoints/00000004/ema.safetensors")
    again = ["name=tuned", "training.initial_weights=runs/derain", "training.num_steps=1"]
    assert run_train(*again, "training.learning_rate=1e-9") == 0
    after = load_file(Path("runs/tuned/checkpoints/00000001/model.safetensors"))
    assert all((after[name] - before[name]).abs().max() < 1e-6 for name in before)
    capsys.readouterr()
    assert run_train(*again, "name=wider", "model.base_channels=16") == 2
    (told,) = complaints(capsys)
    assert "training.initial_weights: runs/derain: the weights do not fit the network of their config" in told
    assert run_train(*again, "name=lost", "training.initial_weights=nowhere") == 2
    assert complaints(capsys) == ["train.py: nowhere: no such checkpoint, weights file or run folder"]
    assert not Path("runs/wider").exists() and not Path("runs/lost").exists()
