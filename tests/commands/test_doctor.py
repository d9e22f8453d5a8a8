"""doctor finds what is wrong with a machine and with folders of pictures, says what to do, and ends accordingly."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from restore_diff.commands import doctor
from restore_diff.config import ExperimentConfig, load_config
from restore_diff.data.pairs import find_pairs
from restore_diff.doctor import machine
from restore_diff.doctor.sets import data_sets, survey
from restore_diff.doctor.splitting import divide, write_split

ROOT = Path(__file__).resolve().parents[2]


def clean_picture(seed: int, size: tuple[int, int] = (96, 120)) -> Image.Image:
    """A cloudy picture (height, width) with detail at every size."""
    draw = np.random.default_rng(seed)
    octaves = [gaussian_filter(draw.normal(size=(*size, 3)), (2**k, 2**k, 0.5)) * 2**k for k in range(1, 5)]
    return Image.fromarray((128 + 45 * sum(octaves) / np.std(sum(octaves))).clip(0, 255).astype(np.uint8))


def rainy(picture: Image.Image, seed: int = 0) -> Image.Image:
    drops = np.random.default_rng(seed).random((picture.height, picture.width, 1)) < 0.05
    return Image.fromarray(np.where(drops, 255, np.asarray(picture)).astype(np.uint8))


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_pairs(folder: Path, seeds: range) -> Path:
    """folder/input/000.png and folder/target/000.png, numbered by the seeds."""
    for seed in seeds:
        save(rainy(clean_picture(seed)), folder / f"input/{seed:03d}.png")
        save(clean_picture(seed), folder / f"target/{seed:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("RESTORE_DIFF_LPIPS_WEIGHTS", raising=False)
    return tmp_path


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def diagnose(capsys, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the checks by their names, through JSON; of equal names the last."""
    code = doctor.main(["--json", *arguments])
    report = json.loads(capsys.readouterr().out, parse_constant=_refuse)
    assert report["failed"] == (code == 2)
    for check in report["checks"]:
        assert set(check) == {"subject", "name", "status", "text", "advice", "items"}
    return code, {check["name"]: check for check in report["checks"]}


def test_pairs_that_are_whole_pass(here, capsys):
    write_pairs(here / "set", range(4))
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 0 and {check["status"] for check in checks.values()} == {"ok"}
    assert checks["names"]["text"] == "4 pairs of 4 clean images, by equal names"
    assert checks["sizes"]["text"].startswith("120x96")


def test_each_line_says_status_finding_and_advice(here, capsys):
    write_pairs(here / "set", range(3))
    save(clean_picture(0), here / "set/input/000.png")
    assert doctor.main(["--data", "set"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "pixel by pixel" in line]
    assert line.startswith("  warn  equal ") and ": 000; there is nothing to learn" in line
    assert lines[0] == "set" and lines[-1].endswith("0 notes, 1 warnings, 0 failures")


def test_images_without_partner_fail_and_the_files_are_looked_at_all_the_same(here, capsys):
    write_pairs(here / "set", range(3))
    save(clean_picture(7), here / "set/input/007.png")
    (here / "set/target/001.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 2 and checks["names"]["status"] == "FAIL"
    assert "1 degraded images have no clean partner (007)" in checks["names"]["text"]
    assert checks["files"]["status"] == "FAIL" and "001.png" in checks["files"]["items"][0]


@pytest.mark.parametrize("spelling", ["set/input:set/target", "set"])
def test_files_that_training_refuses_are_named_with_the_reason(here, capsys, spelling):
    write_pairs(here / "set", range(5))
    whole = (here / "set/input/001.png").read_bytes()
    (here / "set/input/001.png").write_bytes(whole[: len(whole) // 2])
    (here / "set/target/002.png").write_text("no image")
    save(Image.fromarray(np.full((96, 120), 40_000, np.uint16)), here / "set/target/003.png")
    code, checks = diagnose(capsys, "--data", spelling)
    items = checks["files"]["items"]
    assert code == 2 and checks["files"]["text"] == "3 of 10 files cannot be used"
    for name, reason in (("input/001.png", "truncated"), ("target/002.png", "not an image"), ("003.png", "16 bits")):
        assert any(name in item and reason in item for item in items)


def test_pairs_of_different_sizes_fail(here, capsys):
    write_pairs(here / "set", range(3))
    save(clean_picture(1, (96, 118)), here / "set/target/001.png")
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 2 and checks["sizes"]["items"] == ["001 (120x96 and 118x96)"]


def test_images_below_the_crop_fail_where_they_are_to_be_trained_on(here, capsys):
    for split in ("train", "test"):
        save(clean_picture(1, (40, 90)), here / f"set/{split}/{split}.png")
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 2 and checks["crop"]["subject"] == "set train" and checks["crop"]["items"] == ["train.png (90x40)"]
    assert diagnose(capsys, "--data", "set/test")[1]["crop"]["status"] == "warn"


def test_pictures_that_come_twice_are_named(here, capsys):
    for seed in range(5):
        save(clean_picture(seed), here / f"photos/{seed}.png")
    save(ImageOps.mirror(clean_picture(3)), here / "photos/mirrored.png")
    save(clean_picture(4), here / "photos/same.png")
    code, checks = diagnose(capsys, "--data", "photos")
    assert code == 0 and checks["duplicates"]["status"] == "warn"
    assert [item.split(" (")[0] for item in checks["duplicates"]["items"]] == [
        "3.png = mirrored.png",
        "4.png = same.png",
    ]
    assert (
        "mirrored left to right" in checks["duplicates"]["items"][0]
        and "same pixels" in checks["duplicates"]["items"][1]
    )


def test_partners_that_show_another_picture_are_told_with_the_one_they_show(here, capsys):
    write_pairs(here / "set", range(6))
    save(rainy(clean_picture(2)), here / "set/input/001.png")
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 0 and checks["partners"]["status"] == "warn"
    assert checks["partners"]["items"] == ["001.png with 001.png, it looks like 002.png"]
    assert checks["twice"]["items"] == ["002.png = 001.png"]


def test_haze_that_hides_most_of_a_picture_is_no_other_picture(here, capsys):
    write_pairs(here / "set", range(3))
    hazy = 0.1 * np.asarray(clean_picture(1), float) + 0.9 * 250
    save(Image.fromarray(hazy.astype(np.uint8)), here / "set/input/001.png")
    checks = diagnose(capsys, "--data", "set")[1]
    assert checks["partners"]["status"] == "ok" and "from 7." in checks["PSNR"]["text"]


def test_a_pair_that_is_grey_on_one_side_only_is_told(here, capsys):
    write_pairs(here / "set", range(3))
    save(rainy(clean_picture(1)).convert("L"), here / "set/input/001.png")
    assert diagnose(capsys, "--data", "set")[1]["colour"]["items"] == ["001"]


def test_pictures_too_plain_to_be_known_again_are_told(here, capsys):
    save(clean_picture(1), here / "photos/1.png")
    save(Image.new("RGB", (90, 90), "white"), here / "photos/white.png")
    checks = diagnose(capsys, "--data", "photos")[1]
    assert checks["plain"]["status"] == "note" and checks["plain"]["items"] == ["white.png"]


@pytest.mark.parametrize("change", [ImageOps.flip, lambda image: image.crop((4, 4, 116, 92))])
def test_a_picture_in_train_and_test_fails(here, capsys, change):
    for seed in range(4):
        save(clean_picture(seed), here / f"set/train/{seed}.png")
        save(clean_picture(seed + 10), here / f"set/test/{seed}.png")
    assert diagnose(capsys, "--data", "set")[0] == 0
    save(change(clean_picture(2)), here / "set/test/leak.png")
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 2 and checks["leaks"]["subject"] == "set train / set test"
    assert len(checks["leaks"]["items"]) == 1 and checks["leaks"]["items"][0].startswith(
        "2.png = leak.png (same picture"
    )
    assert checks["leaks"]["text"].startswith("1 of 5 clean pictures")


def test_another_set_is_looked_through_on_request(here, capsys):
    write_pairs(here / "a", range(4))
    write_pairs(here / "b", range(4, 8))
    save(clean_picture(1), here / "b/target/006.png")
    assert diagnose(capsys, "--data", "b", "a")[0] == 0  # both may be trained on
    code, checks = diagnose(capsys, "--data", "a", "--against", "b")
    assert code == 2 and checks["leaks"]["items"] == ["001.png = 006.png (same pixels)"]


def test_what_is_nowhere_fails_with_the_nearest_name(capsys):
    code, checks = diagnose(capsys, "--data", "rain100")
    assert code == 2 and "did you mean rain100l" in checks["names"]["text"]
    code, checks = diagnose(capsys, "--data", "rain100l")
    assert code == 2 and "not found below data" in checks["names"]["text"]
    assert diagnose(capsys, "--data", "skimage", "--against", "nowhere")[0] == 2


def test_a_split_keeps_each_scene_on_one_side(here, capsys):
    write_pairs(here / "set", range(12))
    for seed in range(4):  # each a second time, changed
        save(ImageOps.mirror(rainy(clean_picture(seed))), here / f"set/input/{seed}m.png")
        save(ImageOps.mirror(clean_picture(seed)), here / f"set/target/{seed}m.png")
    (subject,) = data_sets("set", here)
    subject = subject.surveyed(survey(subject.files(), 1, lambda num: None))
    for seed in range(6):
        division = divide(subject, 0.3, seed)
        train, test = ({pair.clean.stem.strip("m").lstrip("0") or "0" for pair in p} for p in division[:2])
        assert not train & test and 3 <= len(division.test) <= 5
    assert len({tuple(pair.name for pair in divide(subject, 0.3, seed).test) for seed in range(6)}) > 1
    assert diagnose(capsys, "--data", "set", "--split", "out", "--test-share", "0.3")[0] == 0
    code, checks = diagnose(capsys, "--data", "out")
    assert code == 0 and checks["leaks"]["status"] == "ok"
    written = [find_pairs("out", split, here).pairs for split in ("train", "test")]
    assert {pair.name for pairs in written for pair in pairs} == {pair.name for pair in subject.files()}
    assert (here / "out/test/target" / written[1][0].clean.name).stat().st_nlink == 2


def test_a_split_overwrites_nothing(here, capsys):
    write_pairs(here / "set", range(4))
    (here / "out").mkdir()
    code, checks = diagnose(capsys, "--data", "set", "--split", "out")
    assert code == 2 and "exists already" in checks["split"]["text"] and not list((here / "out").iterdir())


def test_several_versions_of_a_clean_image_stay_together_under_names_that_pair(here):
    for seed in range(4):
        save(clean_picture(seed), here / f"odd/gt/scene-{seed}-B.png")
        for version in "xy":
            save(rainy(clean_picture(seed), ord(version)), here / f"odd/hazy/A-{seed}-{version}.png")
    pairs = find_pairs("odd/gt", "test", here).pairs
    versions = tuple(
        pair._replace(degraded=here / f"odd/hazy/A-{pair.name[6]}-{v}.png", name=f"A-{pair.name[6]}-{v}")
        for pair in pairs
        for v in "xy"
    )
    (subject,) = data_sets("odd/gt", here)
    assert subject.pairs is not None
    subject = SimpleNamespace(pairs=SimpleNamespace(pairs=versions), label="odd", files=lambda: versions, split=None)
    subject.survey = survey(versions, 1, lambda num: None)
    division = divide(subject, 0.25, seed=0)  # type: ignore[arg-type]
    assert (len(division.train), len(division.test)) == (6, 2)
    write_split(division, here / "out")
    for split, of_split in (("train", division.train), ("test", division.test)):
        found = find_pairs("out", split, here).pairs  # type: ignore[arg-type]
        contents = {(p.degraded.read_bytes(), p.clean.read_bytes()) for p in found if p.degraded}
        assert contents == {(p.degraded.read_bytes(), p.clean.read_bytes()) for p in of_split if p.degraded}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--against", "x"], "--against: no effect without --data"),
        (["--data", "x", "--seed", "1"], "--seed: no effect without --split"),
        (["--data", "x", "--split", "y", "--test-share", "1"], "must be a number between 0 and 1, got 1"),
        (["--data", ""], "not a path"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, told, capsys):
    with pytest.raises(SystemExit) as end:
        doctor.main(arguments)
    assert end.value.code == 2 and told in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from restore_diff.__main__ import main; main(['doctor', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--against" in done.stdout


def test_the_machine_is_looked_at_without_a_data_set(here, capsys, monkeypatch):
    monkeypatch.setattr(machine, "IMPORT_PAIR", "pass")
    code, checks = diagnose(capsys, "--device", "cpu")
    assert code == 0 and checks["device"]["status"] == "note" and checks["run folder"]["status"] == "ok"
    assert checks["LPIPS"]["status"] == "warn" and str(here / "torch") in checks["LPIPS"]["advice"]
    assert not list(here.glob(".*"))


def test_a_torchvision_of_another_torch_fails_with_its_message(capsys, monkeypatch):
    wrong = "raise RuntimeError('operator torchvision::nms does not exist')"
    monkeypatch.setattr(machine, "IMPORT_PAIR", wrong)
    code, checks = diagnose(capsys)
    assert code == 2 and "operator torchvision::nms does not exist" in checks["torch"]["text"]
    assert "from one index" in checks["torch"]["advice"] and "device" not in checks


def test_shared_memory_that_is_too_small_names_the_option_of_docker(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))
    check = machine._shared_memory(load_config([], ["training.batch_size=64", "data.num_workers=8"]), tmp_path)
    assert check.status == "FAIL" and "--shm-size=1g" in check.advice  # 8 workers x 4 batches x 6 MiB
    assert (
        "192" in check.text and machine._shared_memory(load_config([], ["data.num_workers=0"]), tmp_path).status == "ok"
    )


def test_a_disk_that_cannot_hold_the_checkpoints_fails_for_the_config_that_was_named(tmp_path, monkeypatch):
    small = [
        "model.base_channels=8",
        "model.channel_multipliers=[1,2]",
        "model.num_groups=4",
        "model.attention_levels=[]",
        "model.head_channels=0",
    ]
    config = load_config([], [*small, "training.num_checkpoints_kept=3"])
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert machine._disk(config, True, tmp_path).status == "FAIL"
    assert machine._disk(ExperimentConfig(), False, tmp_path).status == "warn"
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    assert "5 checkpoints" in machine._disk(config, True, tmp_path).text


def test_a_run_folder_that_cannot_be_written_fails(tmp_path, monkeypatch):
    def fail(path, data):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(machine, "replace_atomically", fail)
    check = machine._run_folder(tmp_path / "runs")
    assert check.status == "FAIL" and "Read-only file system" in check.text


def test_a_device_that_is_not_there_fails(monkeypatch):
    check = machine._device("cuda:63")
    assert check.status == "FAIL" and "device cuda:63" in check.text
