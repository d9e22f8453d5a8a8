"""The doctor command reports planted faults of a machine and of data sets, with advice and the right exit code."""

import json
from dataclasses import replace
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
from restore_diff.doctor.sets import DataSet, data_sets
from restore_diff.doctor.splitting import divide, write_split


def clean_picture(seed: int, size: tuple[int, int] = (96, 120)) -> Image.Image:
    """A cloudy picture (height, width) with detail at every size."""
    draw = np.random.default_rng(seed)
    octaves = [gaussian_filter(draw.normal(size=(*size, 3)), (2**k, 2**k, 0.5)) * 2**k for k in range(1, 5)]
    return Image.fromarray((128 + 45 * sum(octaves) / np.std(sum(octaves))).clip(0, 255).astype(np.uint8))


def rainy(picture: Image.Image, seed: int = 0) -> Image.Image:
    drops = np.random.default_rng(seed).random((picture.height, picture.width, 1)) < 0.05
    return Image.fromarray(np.where(drops, 255, np.asarray(picture)).astype(np.uint8))


def save(picture: Image.Image, path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_pairs(folder: str, seeds: range) -> None:
    """Write folder/input/000.png and folder/target/000.png, numbered by the seeds."""
    for seed in seeds:
        save(rainy(clean_picture(seed)), f"{folder}/input/{seed:03d}.png")
        save(clean_picture(seed), f"{folder}/target/{seed:03d}.png")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("RESTORE_DIFF_LPIPS_WEIGHTS", raising=False)
    return tmp_path


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def diagnose(capsys, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the checks by name through JSON; the last of equal names."""
    code = doctor.main(["--json", *arguments])
    report = json.loads(capsys.readouterr().out, parse_constant=_refuse)
    assert report["failed"] == (code == 2)
    assert all(set(check) == {"subject", "name", "status", "text", "advice", "items"} for check in report["checks"])
    return code, {check["name"]: check for check in report["checks"]}


def test_intact_pairs_pass(capsys):
    write_pairs("set", range(4))
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 0 and {check["status"] for check in checks.values()} == {"ok"}
    assert checks["names"]["text"] == "4 pairs of 4 clean images, by equal names"
    assert checks["sizes"]["text"].startswith("120x96")


def test_a_line_holds_status_finding_and_advice(capsys):
    write_pairs("set", range(3))
    save(clean_picture(0), "set/input/000.png")
    assert doctor.main(["--data", "set"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "in every pixel" in line]
    assert line.startswith("  warn  equal ") and ": 000; remove them" in line
    assert lines[0] == "set" and lines[-1].endswith("0 notes, 1 warnings, 0 failures")


def test_images_without_partner_fail_and_all_files_are_still_checked(capsys):
    write_pairs("set", range(3))
    save(clean_picture(7), "set/input/007.png")
    Path("set/target/001.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 2 and checks["names"]["status"] == "FAIL"
    assert "1 degraded images have no clean partner (007)" in checks["names"]["text"]
    assert checks["files"]["status"] == "FAIL" and "001.png" in checks["files"]["items"][0]


@pytest.mark.parametrize("spelling", ["set/input:set/target", "set"])
def test_unusable_files_are_named_with_the_reason(capsys, spelling):
    write_pairs("set", range(5))
    truncated = Path("set/input/001.png")
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    Path("set/target/002.png").write_text("no image")
    save(Image.fromarray(np.full((96, 120), 40_000, np.uint16)), "set/target/003.png")
    code, checks = diagnose(capsys, "--data", spelling)
    assert code == 2 and checks["files"]["text"] == "3 of 10 files cannot be used"
    for name, reason in (("input/001.png", "truncated"), ("target/002.png", "not an image"), ("003.png", "16 bits")):
        assert any(name in item and reason in item for item in checks["files"]["items"])


def test_images_smaller_than_the_crop_fail_in_a_training_set(capsys):
    for split in ("train", "test"):
        save(clean_picture(1, (40, 90)), f"set/{split}/{split}.png")
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 2 and checks["crop"]["subject"] == "set train" and checks["crop"]["items"] == ["train.png (90x40)"]
    assert diagnose(capsys, "--data", "set/test")[1]["crop"]["status"] == "warn"


PLANTED = {
    "different sizes": ("target", clean_picture(1, (96, 118)), 2, "sizes", ["001 (120x96 and 118x96)"]),
    "grey on one side": ("input", rainy(clean_picture(1)).convert("L"), 0, "colour", ["001"]),
    "another picture": ("input", rainy(clean_picture(2)), 0, "partners", ["001.png with 001.png, similar to 002.png"]),
    "one degraded image of two clean ones": ("input", rainy(clean_picture(2)), 0, "twice", ["002.png = 001.png"]),
}


@pytest.mark.parametrize(("side", "picture", "code", "check", "items"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_of_a_pair_is_named(side, picture, code, check, items, capsys):
    write_pairs("set", range(6))
    save(picture, f"set/{side}/001.png")
    found, checks = diagnose(capsys, "--data", "set")
    assert (found, checks[check]["items"]) == (code, items)
    assert checks[check]["status"] == ("FAIL" if code else "warn")


def test_dense_haze_is_not_reported_as_a_wrong_partner(capsys):
    write_pairs("set", range(3))
    hazy = 0.1 * np.asarray(clean_picture(1), float) + 0.9 * 250
    save(Image.fromarray(hazy.astype(np.uint8)), "set/input/001.png")
    checks = diagnose(capsys, "--data", "set")[1]
    assert checks["partners"]["status"] == "ok" and "from 7." in checks["PSNR"]["text"]


def test_repeated_and_plain_pictures_are_named(capsys):
    for seed in range(5):
        save(clean_picture(seed), f"photos/{seed}.png")
    save(ImageOps.mirror(clean_picture(3)), "photos/mirrored.png")
    save(clean_picture(4), "photos/same.png")
    save(Image.new("RGB", (90, 90), "white"), "photos/white.png")
    code, checks = diagnose(capsys, "--data", "photos")
    assert code == 0 and checks["duplicates"]["status"] == "warn"
    first, second = checks["duplicates"]["items"]
    assert first.startswith("3.png = mirrored.png (") and "mirrored left to right" in first
    assert second == "4.png = same.png (same pixels)"
    assert checks["plain"]["status"] == "note" and checks["plain"]["items"] == ["white.png"]


@pytest.mark.parametrize("change", [ImageOps.flip, lambda image: image.crop((4, 4, 116, 92))], ids=["flip", "crop"])
def test_a_picture_in_train_and_test_fails(capsys, change):
    for seed in range(4):
        save(clean_picture(seed), f"set/train/{seed}.png")
        save(clean_picture(seed + 10), f"set/test/{seed}.png")
    assert diagnose(capsys, "--data", "set")[0] == 0
    save(change(clean_picture(2)), "set/test/leak.png")
    code, checks = diagnose(capsys, "--data", "set")
    assert code == 2 and checks["leaks"]["subject"] == "set train / set test"
    (item,) = checks["leaks"]["items"]
    assert item.startswith("2.png = leak.png (same picture") and checks["leaks"]["text"].startswith("1 of 5")


def test_only_sets_of_against_are_searched_for_the_pictures(capsys):
    write_pairs("a", range(4))
    write_pairs("b", range(4, 8))
    save(clean_picture(1), "b/target/006.png")
    assert diagnose(capsys, "--data", "b", "a")[0] == 0  # both may be training sets
    code, checks = diagnose(capsys, "--data", "a", "--against", "b")
    assert code == 2 and checks["leaks"]["items"] == ["001.png = 006.png (same pixels)"]


def test_a_missing_set_fails_with_the_nearest_name(capsys):
    for name, message in (("rain100", "did you mean rain100l"), ("rain100l", "not found below data")):
        code, checks = diagnose(capsys, "--data", name)
        assert code == 2 and message in checks["names"]["text"]
    assert diagnose(capsys, "--data", "skimage", "--against", "nowhere")[0] == 2


def test_a_split_keeps_each_scene_on_one_side(here, capsys):
    write_pairs("set", range(12))
    for seed in range(4):  # each a second time, mirrored
        save(ImageOps.mirror(rainy(clean_picture(seed))), f"set/input/{seed}m.png")
        save(ImageOps.mirror(clean_picture(seed)), f"set/target/{seed}m.png")
    (subject,) = data_sets("set", here, 1)
    for seed in range(6):
        division = divide(subject, 0.3, seed)
        train, test = ({pair.clean.stem.strip("m").lstrip("0") or "0" for pair in p} for p in division[:2])
        assert not train & test and 3 <= len(division.test) <= 5
    assert len({tuple(pair.name for pair in divide(subject, 0.3, seed).test) for seed in range(6)}) > 1
    assert diagnose(capsys, "--data", "set", "--split", "out", "--test-share", "0.3")[0] == 0
    code, checks = diagnose(capsys, "--data", "out")
    assert code == 0 and checks["leaks"]["status"] == "ok"
    written = [find_pairs("out", split, here).pairs for split in ("train", "test")]
    assert {pair.name for pairs in written for pair in pairs} == {pair.name for pair in subject.files}
    assert (here / "out/test/target" / written[1][0].clean.name).stat().st_nlink == 2


def test_a_split_overwrites_nothing(here, capsys):
    write_pairs("set", range(4))
    (here / "out").mkdir()
    code, checks = diagnose(capsys, "--data", "set", "--split", "out")
    assert code == 2 and "exists already" in checks["split"]["text"] and not list((here / "out").iterdir())


def test_a_split_keeps_versions_together_and_renames_where_needed(here):
    for seed in range(4):
        save(clean_picture(seed), f"odd/gt/scene-{seed}-B.png")
        for version in "xy":
            save(rainy(clean_picture(seed), ord(version)), f"odd/hazy/A-{seed}-{version}.png")
    clean = find_pairs("odd/gt", "test", here)
    pairs = tuple(
        pair._replace(degraded=here / f"odd/hazy/A-{pair.name[6]}-{v}.png", name=f"A-{pair.name[6]}-{v}")
        for pair in clean.pairs
        for v in "xy"
    )
    (photographs,) = data_sets("odd/gt", here, 1)
    pictures = {path: photographs.survey.pictures[pair.clean] for pair in pairs for path in pair[:2]}
    survey = replace(photographs.survey, pictures=pictures)
    division = divide(DataSet("odd", None, clean, "", pairs, survey), 0.25, seed=0)
    assert (len(division.train), len(division.test)) == (6, 2)
    write_split(division, here / "out")
    for split, expected in (("train", division.train), ("test", division.test)):
        found = find_pairs("out", split, here).pairs  # type: ignore[arg-type]
        contents = {(p.degraded.read_bytes(), p.clean.read_bytes()) for p in found if p.degraded}
        assert contents == {(p.degraded.read_bytes(), p.clean.read_bytes()) for p in expected if p.degraded}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "x"], "--against: no effect without --data"),
        (["--data", "x", "--seed", "1"], "--seed: no effect without --split"),
        (["--data", "x", "--split", "y", "--test-share", "1"], "must be a number between 0 and 1, got 1"),
        (["--data", ""], "not a path"),
    ],
)
def test_contradictory_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        doctor.main(arguments)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_the_machine_is_checked_without_a_data_set(here, capsys, monkeypatch):
    monkeypatch.setattr(machine, "IMPORT_PAIR", "pass")
    code, checks = diagnose(capsys, "--device", "cpu")
    assert code == 0 and checks["device"]["status"] == "note" and checks["run folder"]["status"] == "ok"
    assert checks["LPIPS"]["status"] == "warn" and "restore-diff test --download" in checks["LPIPS"]["advice"]
    assert not list(here.glob(".*"))


def test_an_incompatible_torchvision_fails_with_its_message(capsys, monkeypatch):
    wrong = "raise RuntimeError('operator torchvision::nms does not exist')"
    monkeypatch.setattr(machine, "IMPORT_PAIR", wrong)
    code, checks = diagnose(capsys)
    assert code == 2 and "operator torchvision::nms does not exist" in checks["torch"]["text"]
    assert "from one index" in checks["torch"]["advice"] and "device" not in checks


def free_space(monkeypatch, num_bytes: int) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=num_bytes))


def test_too_little_shared_memory_names_the_option_of_docker(monkeypatch):
    free_space(monkeypatch, 2**26)
    check = machine._shared_memory(load_config([], ["training.batch_size=640", "data.num_workers=8"]))
    assert check.status == "warn" and "--shm-size" in check.advice and "through pipes" in check.text
    assert machine._shared_memory(load_config([], ["data.num_workers=0"])).status == "ok"


def test_a_disk_too_small_for_the_checkpoints_fails_for_a_named_config(tmp_path, monkeypatch):
    small = ["base_channels=8", "channel_multipliers=[1,2]", "num_groups=4", "attention_levels=[]", "head_channels=0"]
    config = load_config([], [*(f"model.{setting}" for setting in small), "training.num_checkpoints_kept=3"])
    free_space(monkeypatch, 2**20)
    assert machine._disk(config, True, tmp_path).status == "FAIL"
    assert machine._disk(ExperimentConfig(), False, tmp_path).status == "warn"
    free_space(monkeypatch, 2**40)
    assert "5 checkpoints" in machine._disk(config, True, tmp_path).text


def test_a_read_only_run_folder_and_a_missing_device_fail(tmp_path, monkeypatch):
    def fail(path, data):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(machine, "replace_atomically", fail)
    for check, message in (
        (machine._run_folder(tmp_path / "runs"), "Read-only file system"),
        (machine._device("cuda:63"), "device cuda:63"),
    ):
        assert check.status == "FAIL" and message in check.text
