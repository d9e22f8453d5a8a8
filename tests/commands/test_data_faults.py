"""Faults of data from the command line: one line with fault, file and remedy, and exit code 2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import enter, run_test, run_train, scores, tree, write_image, write_pairs

RUN = Path("runs/derain")
ONE_STEP = ["training.num_steps=1"]


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


def spoil(path: str) -> None:
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 0xFF
    Path(path).write_bytes(content)


def read(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.mark.parametrize("cache_mib", [0, 2048])
def test_a_truncated_training_file_is_reported_or_skipped(here, capsys, cache_mib):
    cut("pairs/input/003.png")
    cache = f"data.cache_mib={cache_mib}"
    assert refusal(capsys, cache).startswith("train.py: pairs/input/003.png: damaged or truncated")
    assert run_train(cache, "data.on_bad=skip", *ONE_STEP) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pairs: 1 damaged files: pairs/input/003.png: damaged or truncated")


def test_damaged_validation_files_are_skipped_and_test_files_are_not(here, capsys):
    files = [f"pairs/target/{number:03}.png" for number in range(11) if number != 4]
    for file in files:
        spoil(file)
    assert "damaged or truncated" in refusal(capsys, "data.cache_mib=0")
    for file in files:
        cut(file)
    assert run_train("data.on_bad=skip", *ONE_STEP) == 0
    cut("tests/input/101.png")
    assert refusal(capsys, "data.on_bad=skip").startswith("train.py: tests/input/101.png: damaged or truncated")


def test_a_run_goes_on_with_damaged_files_skipped(done, capsys):
    cut("pairs/input/003.png")
    assert run_train("training.num_steps=3", "data.on_bad=skip") == 0
    assert "data.on_bad error -> skip" in capsys.readouterr().out


def add_small() -> None:
    for folder in ("input", "target"):
        image(f"pairs/{folder}/small.png", 12, 30)


SMALL = "1 images are smaller than data.crop_size_px=16: pairs/target/small.png is 12x30"


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (lambda: image("pairs/input/005.png", 34), [], "1 pairs of different sizes: pairs/input/005.png is 34x26"),
        (lambda: Path("pairs/target/005.png").unlink(), [], "1 degraded images have no clean partner (005)"),
        (add_small, ["data.num_validation=0"], f"{SMALL}; set data.on_small=pad or skip, or a smaller crop"),
        (
            lambda: None,
            ["data.test=rain12", "data.root=wrong"],
            "not found below wrong; expected Rain12/input and Rain12/ta",
        ),
    ],
)
def test_data_that_do_not_fit_are_reported_by_name(here, capsys, damage, arguments, message):
    damage()
    assert message in refusal(capsys, *arguments)


def test_the_weather_card_is_trained_and_tested_with_its_own_weather(here, capsys):
    weather = ["data.train=weather", "data.test=weather", "data.weather=none", "data.num_validation=1"]
    assert run_train(*weather, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "weather: 40 photographs with rendered haze, rain, raindrop, snow to train on, 4 held out" in printed
    assert "test    weather: 12 to test on" in printed


def test_changed_data_are_reported_and_the_run_goes_on(done, capsys):
    recorded = (RUN / "data.json").read_text()
    assert json.loads(recorded)["num_pairs"] == 9
    for content in ("", "[1]", '{"order"'):  # damaged
        (RUN / "data.json").write_text(content)
        assert run_train(*ONE_STEP) == 0
        assert (RUN / "data.json").read_text() == recorded
    assert run_train("training.num_steps=2") == 0
    assert "WARNING the training data" not in capsys.readouterr().out
    write_pairs(done / "pairs", 2, first=20)
    assert run_train("training.num_steps=3") == 0
    warning = "WARNING the training data changed since the last start (9 -> 11 pairs): their order is another one now"
    assert warning in capsys.readouterr().out.splitlines() and warning in (RUN / "log.txt").read_text()
    assert json.loads((RUN / "data.json").read_text())["num_pairs"] == 11


@pytest.mark.parametrize("more", ["x.png", "101 copy.png"])
def test_test_images_without_partner_are_counted(done, capsys, more):
    shutil.copy("tests/input/101.png", f"tests/input/{more}")
    missing = f"1 degraded images have no clean partner ({more.removesuffix('.png')})"
    assert refusal(capsys, run=run_test) == f"test.py: tests/input and tests/target do not pair up: {missing}"


def test_test_pairs_of_different_sizes_are_cut_on_request_only(done, capsys):
    write_image(Path("tests/target/101.png"), np.pad(read("tests/target/101.png"), ((0, 3), (0, 8), (0, 0))))
    line = refusal(capsys, run=run_test)
    assert "1 pairs of different sizes: tests/input/101.png is 33x26, tests/target/101.png is 41x29" in line
    before = scores(RUN / "test/tests")
    assert run_test("--crop-to-min") == 0
    note = "note    1 pairs of different sizes are cut, at the right and at the bottom, to the size that they share"
    assert note in capsys.readouterr().out.splitlines()
    assert scores(RUN / "test/tests") == before
    image("tests/target/102.png", 33 + 9)
    assert "1 pairs differ in size by more than 8 px: " in refusal(capsys, "--crop-to-min", run=run_test)


def test_finished_images_of_different_sizes_are_cut_on_request_only(here, capsys):
    finished = ["--pred", "tests/input", "--target", "tests/target", "--metrics", "psnr", "--out", "scores"]
    assert run_test(*finished) == 0
    before = scores(Path("scores"))
    write_image(Path("tests/input/101.png"), np.pad(read("tests/input/101.png"), ((0, 8), (0, 0), (0, 0))))
    sizes = "1 images differ in size from their clean partners: 101 (33x34 against 33x26)"
    assert refusal(capsys, *finished, run=run_test) == f"test.py: {sizes}; --crop-to-min cuts at most 8 px"
    assert run_test(*finished, "--crop-to-min") == 0
    after = scores(Path("scores"))
    assert [row.pop("flags") for row in after] == ["", "cropped", ""]
    assert after == [{name: text for name, text in row.items() if name != "flags"} for row in before]
