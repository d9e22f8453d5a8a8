"""What a run tells."""

import json
import re

import pytest
import torch
from PIL import Image

from restore_diff.training.run import RunLog, speed


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
