"""Faults of data as a user meets them: one line that says what, where and what to do, and exit code 2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import enter, run_test, run_train, scores, tree, write_image, write_pairs

RUN = Path("runs/derain")
ONE_STEP = ["training.num_steps=1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    return enter(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = enter(tmp_path_factory.mktemp("trained"), monkeypatch)
        assert run_train(*ONE_STEP) == 0
    return folder


@pytest.fixture
def done(trained, here):
    """A user's folder with a finished run."""
    shutil.copytree(trained / "runs", here / "runs")
    return here


def refusal(capsys, *arguments: str, run=run_train) -> str:
    capsys.readouterr()
    before = tree(Path())
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert tree(Path()) == before
    return line


def cut(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:-100])


def image(path: str, width: int = 33, height: int = 26) -> None:
    write_image(Path(path), np.full((height, width, 3), 99, np.uint8))


@pytest.mark.parametrize("cache_mib", [0, 2048])
def test_a_truncated_training_file_is_named_or_skipped(here, capsys, cache_mib):
    cut("pairs/input/003.png")
    cache = f"data.cache_mib={cache_mib}"
    assert refusal(capsys, cache).startswith("train.py: pairs/input/003.png: damaged or truncated")
    assert run_train(cache, "data.on_bad=skip", *ONE_STEP) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pairs: 1 damaged files: pairs/input/003.png: damaged or truncated")


def test_a_truncated_validation_file_is_skipped_too_and_a_test_file_never(here, capsys):
    for number in range(11):
        cut(f"pairs/target/{number:03}.png") if number != 4 else None
    assert run_train("data.on_bad=skip", *ONE_STEP) == 0
    cut("tests/input/101.png")
    assert refusal(capsys, "data.on_bad=skip").startswith("train.py: tests/input/101.png: damaged or truncated")


def test_damage_in_the_middle_of_a_validation_file_is_told_before_the_training(here, capsys):
    for number in range(11):
        path = Path(f"pairs/target/{number:03}.png")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    assert "damaged or truncated" in refusal(capsys, "data.cache_mib=0")


def test_a_run_that_met_a_damaged_file_goes_on_when_told_to_skip_it(here, capsys):
    assert run_train(*ONE_STEP) == 0
    cut("pairs/input/003.png")
    assert run_train("training.num_steps=3", "data.on_bad=skip") == 0
    assert "data.on_bad error -> skip" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda: image("pairs/input/005.png", 34),
            "1 pairs of different sizes: pairs/input/005.png is 34x26, pairs/ta",
        ),
        (lambda: Path("pairs/target/005.png").unlink(), "1 degraded images have no clean partner (005)"),
        (lambda: image("pairs/target/011.png"), "1 clean images have no degraded partner (011)"),
        (
            lambda: image("pairs/target/005.bmp"),
            "pairs/target: 005.bmp and 005.png have the same name; keep one of the",
        ),
        (
            lambda: Path("pairs/target/005.png").rename("pairs/target/X.png"),
            "do not pair up: 1 degraded images have no",
        ),
        (
            lambda: [path.unlink() for path in Path("pairs/input").iterdir()],
            "0 images under pairs/input (found 0 files;",
        ),
    ],
    ids=["size", "partner", "extra", "two", "renamed", "empty"],
)
def test_pairs_that_do_not_fit_are_told_by_name(here, capsys, damage, told):
    damage()
    assert told in refusal(capsys)


def test_other_endings_in_any_case_and_hidden_files_are_no_fault(here, capsys):
    for number in (1, 2):
        Path(f"pairs/target/00{number}.png").rename(f"pairs/target/00{number}.PNG")
    image("pairs/target/003.BMP")
    Path("pairs/target/003.png").unlink()
    for hidden in (".DS_Store", "._005.png"):
        Path("pairs/input", hidden).write_bytes(b"\0\0")
    assert run_train("--dry-run") == 0
    assert ": 9 pairs to train on, 2 held out for validation" in capsys.readouterr().out


def test_images_smaller_than_the_crop_are_told_with_both_sizes(here, capsys):
    for folder in ("input", "target"):
        image(f"pairs/{folder}/small.png", 12, 30)
    line = refusal(capsys, "data.num_validation=0")
    small = "1 images are smaller than data.crop_size_px=16: pairs/target/small.png is 12x30"
    assert line == f"train.py: pairs: {small}; set data.on_small=pad or skip, or a smaller crop"
    for treatment in ("pad", "skip"):
        assert run_train(f"name={treatment}", f"data.on_small={treatment}", "data.num_validation=0", *ONE_STEP) == 0
    assert capsys.readouterr().err.splitlines() == ["pairs: 1 of 12 pairs are smaller than the crop, left out"]


def test_a_folder_without_images_says_what_was_found_there(here, capsys):
    Path("text").mkdir()
    for number in range(12):
        Path(f"text/{number}.txt").write_text("no image")
    line = refusal(capsys, "data.train=text")
    assert line.startswith("train.py: 0 images under text (found 12 files; accepted: .png, .jpg, ")
    assert "rain12: not found below wrong; expected Rain12/input and Rain12/target or " in refusal(
        capsys, "data.test=rain12", "data.root=wrong"
    )


def test_a_card_of_parts_names_all_that_is_missing(here, capsys):
    line = refusal(capsys, "data.train=allweather_rendered", "data.root=pairs")
    assert line.startswith(
        "train.py: allweather_rendered: 4 of its 4 parts cannot be used: allweather: not found below"
    )
    assert "pairs/photographs/clean: no such folder; put clean photographs there" in line


def test_the_weather_card_trains_and_is_tested_with_its_own_weather(here, capsys):
    weather = ["data.train=weather", "data.test=weather", "data.weather=none", "data.num_validation=1"]
    assert run_train(*weather, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "weather: 40 photographs with rendered haze, rain, raindrop, snow to train on, 4 held out" in printed
    assert "test    weather: 12 to test on" in printed


def test_data_that_changed_between_two_starts_are_told_and_the_run_goes_on(done, capsys):
    recorded = json.loads((RUN / "data.json").read_text())
    assert recorded["num_pairs"] == 9
    assert run_train("training.num_steps=2") == 0
    assert "WARNING the training data" not in capsys.readouterr().out
    write_pairs(done / "pairs", 2, first=20)
    assert run_train("training.num_steps=3") == 0
    warning = "WARNING the training data changed since the last start (9 -> 11 pairs): their order is another one now"
    assert warning in capsys.readouterr().out.splitlines() and warning in (RUN / "log.txt").read_text()
    assert json.loads((RUN / "data.json").read_text())["num_pairs"] == 11


def test_a_record_of_the_data_that_cannot_be_read_is_written_anew(done, capsys):
    recorded = (RUN / "data.json").read_text()
    for content in ("", "[1]", '{"order"'):
        (RUN / "data.json").write_text(content)
        assert run_train(*ONE_STEP) == 0
        assert (RUN / "data.json").read_text() == recorded


def test_a_single_image_of_the_size_of_the_crop_trains(here, capsys):
    write_image(here / "one/only.png", np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert run_train("data.train=one", "data.weather=rain", "training.batch_size=5", *ONE_STEP) == 0
    assert "one: 1 photographs with rendered rain to train on; 1 of 1 files in memory" in capsys.readouterr().out


@pytest.mark.parametrize("more", ["x.png", "101 copy.png"])
def test_images_without_partner_at_test_are_counted(done, capsys, more):
    shutil.copy("tests/input/101.png", f"tests/input/{more}")
    line = refusal(capsys, run=run_test)
    assert line == (
        "test.py: tests/input and tests/target do not pair up: "
        f"1 degraded images have no clean partner ({more.removesuffix('.png')})"
    )


def test_pairs_of_a_test_set_that_differ_in_size_are_cut_only_on_request(done, capsys):
    with_border = np.pad(read("tests/target/101.png"), ((0, 3), (0, 8), (0, 0)))
    write_image(Path("tests/target/101.png"), with_border)
    line = refusal(capsys, run=run_test)
    assert "1 pairs of different sizes: tests/input/101.png is 33x26, tests/target/101.png is 41x29" in line
    before = scores(RUN / "test/tests")
    assert run_test("--crop-to-min") == 0
    note = "note    1 pairs of different sizes are cut, at the right and at the bottom, to the size that they share"
    assert note in capsys.readouterr().out.splitlines()
    assert scores(RUN / "test/tests") == before
    image("tests/target/102.png", 33 + 9)
    assert "1 pairs differ in size by more than 8 px: " in refusal(capsys, "--crop-to-min", run=run_test)


def test_finished_images_that_differ_in_size_are_cut_only_on_request(here, capsys):
    finished = ["--pred", "tests/input", "--target", "tests/target", "--metrics", "psnr", "--out", "scores"]
    assert run_test(*finished) == 0
    before = scores(Path("scores"))
    write_image(Path("tests/input/101.png"), np.pad(read("tests/input/101.png"), ((0, 8), (0, 0), (0, 0))))
    line = refusal(capsys, *finished, run=run_test)
    sizes = "1 images differ in size from their clean partners: 101 (33x34 against 33x26)"
    assert line == f"test.py: {sizes}; --crop-to-min cuts up to 8 px"
    assert run_test(*finished, "--crop-to-min") == 0
    after = scores(Path("scores"))
    assert [row.pop("flags") for row in after] == ["", "cropped", ""]
    assert after == [{name: text for name, text in row.items() if name != "flags"} for row in before]


def read(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)
