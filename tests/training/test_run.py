"""The run folder: one process at a time, whole files, its log, and which configs may go on from it."""

import json
import os
import re
import signal

import pytest
import torch
from PIL import Image

from restore_diff.training.run import (
    ConfigChanged,
    RunFolder,
    RunFolderError,
    RunLog,
    changed_keys,
    refused_keys,
    require_same_experiment,
    speed,
)


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
        with RunFolder(tmp_path), pytest.raises(RunFolderError, match=f"pid {os.getpid()} "):
            RunFolder(tmp_path).__enter__()
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


def test_lines_after_the_resumed_step_and_a_line_cut_off_by_a_kill_are_removed(tmp_path):
    kept = '{"step": 2, "loss": 0.5}\n{"step": 4, "loss": 0.25}\n{"step": 4, "validation/psnr": 30.0}\n'
    (tmp_path / "metrics.jsonl").write_text(kept + '{"step": 6, "loss": 0.1}\n{"step": 4, "lo')
    with RunLog(tmp_path) as log:
        log.begin(4, 10, batch_size=2)
        assert (tmp_path / "metrics.jsonl").read_text() == kept
        log.training(6, loss=0.125, learning_rate=1e-4, gradient_norm=1.0)
    last = (tmp_path / "metrics.jsonl").read_text().removeprefix(kept)
    assert json.loads(last) == {"step": 6, "loss": 0.125, "learning_rate": 1e-4, "gradient_norm": 1.0}


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    with RunLog(tmp_path) as log:
        log.begin(0, 10, batch_size=2)
        log.validation(1, {"psnr": float("inf"), "ssim": 1.0})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "validation/psnr": None, "validation/ssim": 1.0}


def test_without_a_terminal_each_log_interval_prints_one_plain_line(tmp_path, capfd):
    with RunLog(tmp_path) as log:
        log.begin(398, 1000, batch_size=2)
        for _ in range(2):
            log.step_done()
        log.training(400, loss=0.0072, learning_rate=1.1e-3, gradient_norm=1.0)
    out, err = capfd.readouterr()
    assert re.fullmatch(r"step 400/1000  loss 0\.0072  lr 1\.1e-03  [\d.]+ (it/s|s/it)  eta \d\d:\d\d\n", out)
    assert err == ""
    assert (tmp_path / "log.txt").read_text().endswith(f"  {out}")


def test_a_speed_below_one_a_second_is_given_as_seconds():
    assert [speed(rate, "it") for rate in (12.34, 1, 0.99, 0.04)] == ["12.3 it/s", "1.0 it/s", "1.0 s/it", "25.0 s/it"]


def test_tensorboard_gets_losses_scores_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path) as log:
        log.begin(0, 10, batch_size=2)
        log.training(2, loss=0.5, learning_rate=1e-3, gradient_norm=2.0)
        log.validation(2, {"psnr": 31.0})
        log.image(2, torch.zeros(3, 4, 6), "new images")
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    names = {"loss", "learning_rate", "gradient_norm", "images_per_s"}
    assert set(events.Tags()["scalars"]) == {f"training/{name}" for name in names} | {"validation/psnr"}
    assert events.Tags()["images"] == ["samples"]
    assert [(e.step, e.value) for e in events.Scalars("validation/psnr")] == [(2, 31.0)]


def test_a_tensorboard_that_fails_costs_one_warning(tmp_path, capsys):
    (tmp_path / "tb").write_text("in the way")
    with RunLog(tmp_path) as log:
        log.begin(0, 10, batch_size=2)
        for step in (1, 2):
            log.validation(step, {"psnr": 30.0})
            log.flush()
    assert capsys.readouterr().out.count("warning: TensorBoard is off") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_log_file_that_the_disk_does_not_take_costs_one_warning(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with RunLog(tmp_path) as log:
        for text in ("first", "second"):
            log.line(text)
    assert capsys.readouterr().out == "first\nwarning: no more lines in log.txt (No space left on device)\nsecond\n"


def test_a_sample_is_written_as_it_is_and_its_path_printed(tmp_path, capsys):
    image = torch.tensor([-0.5, 0.25, 1.5]).reshape(3, 1, 1).expand(3, 2, 5)
    with RunLog(tmp_path) as log:
        log.image(400, image, "degraded | restored | clean")
    assert capsys.readouterr().out == f"picture {tmp_path}/samples/step_000400.png: degraded | restored | clean\n"
    with Image.open(tmp_path / "samples" / "step_000400.png") as written:
        assert written.size == (5, 2)
        assert written.getpixel((4, 1)) == (0, 64, 255)


def test_control_characters_of_a_file_name_cannot_forge_a_line(tmp_path, capsys):
    with RunLog(tmp_path) as log:
        log.line("bad file a\nok \x1b[2J\udcff.png")
    assert capsys.readouterr().out == "bad file a\\nok \\x1b[2J\\udcff.png\n"
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 1


OLD = {
    "seed": 0,
    "name": "a",
    "model": {"base_channels": 64, "channel_multipliers": (1, 2)},
    "data": {"train": "x", "num_workers": 2, "rain": {}},
    "training": {"num_steps": 100, "learning_rate_decay": "cosine", "log_every_steps": 5},
    "evaluation": {"lpips": "alex"},
}


def test_a_config_does_not_differ_from_itself_read_back_from_json():
    assert changed_keys(OLD | {"model": {"base_channels": 64, "channel_multipliers": [1, 2]}}, OLD) == []


def test_keys_of_one_side_only_are_changes_too():
    new = {"seed": 0, "model": {"dropout": 0.0}}
    old = {"seed": 0, "model": {"width": 3}, "data": {}}
    assert changed_keys(old, new) == ["data", "model.dropout", "model.width"]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("data", {"num_workers": 0}),
        ("training", {"log_every_steps": 7}),
        ("training", {"num_steps": 200}),
        ("evaluation", {"lpips": "none"}),
    ],
)
def test_what_does_not_touch_a_training_step_is_harmless(section, values):
    new = OLD | {section: OLD[section] | values}
    assert len(changed_keys(OLD, new)) == 1
    assert refused_keys(OLD, new) == []


def test_a_plugin_file_may_move_between_two_starts():
    assert refused_keys(OLD | {"plugins": ["a/mine.py"]}, OLD | {"plugins": ["b/mine.py"]}) == []


@pytest.mark.parametrize(
    "new",
    [
        OLD | {"seed": 1},
        OLD | {"model": OLD["model"] | {"base_channels": 96}},
        OLD | {"data": OLD["data"] | {"train": "y"}},
        OLD | {"training": OLD["training"] | {"num_steps_warm": 1}},
        {key: value for key, value in OLD.items() if key != "seed"},
    ],
)
def test_model_data_seed_and_optimisation_are_not(new):
    assert len(refused_keys(OLD, new)) == 1
    with pytest.raises(ConfigChanged, match=r"was started with another config: .* -> .*\. Start anew with --fresh"):
        require_same_experiment(OLD, new, {})


def test_a_longer_cosine_is_allowed_and_its_effect_is_said():
    new = OLD | {"training": OLD["training"] | {"num_steps": 200}}
    assert require_same_experiment(OLD, new, {}) == (
        "training.num_steps 100 -> 200; the cosine rate follows the new length from here on"
    )
    assert require_same_experiment(OLD, OLD, {}) == ""


def test_a_key_that_the_checkpoint_is_too_old_to_have_had_its_default():
    """A run of an earlier version goes on, unless the new key asks for something new."""
    defaults = {"model": {"kind": "unet", "base_channels": 32}, "training": {"optimizer": "adamw"}, "weather": {}}
    new = OLD | {"model": OLD["model"] | {"kind": "unet"}, "weather": {}}
    new["training"] = OLD["training"] | {"optimizer": "adamw"}
    assert require_same_experiment(OLD, new, defaults) == ""
    new["training"] = OLD["training"] | {"optimizer": "muon"}
    with pytest.raises(ConfigChanged, match=r"training\.optimizer adamw -> muon"):
        require_same_experiment(OLD, new, defaults)


def test_retired_keys_of_an_old_checkpoint_are_ignored():
    old = OLD | {"model": OLD["model"] | {"mid_blocks": 1}, "training": OLD["training"] | {"part": "all"}}
    assert require_same_experiment(old, OLD, {}) == ""
