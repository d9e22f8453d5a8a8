"""The weights of the package restore and are scored right after installing, without a run or a download."""

import runpy
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from tiny_run import run_test, run_train, summary, write_image, write_pairs

from restore_diff import trained
from restore_diff.commands import restore
from restore_diff.data.images import read_rgb_uint8
from restore_diff.settings import RainConfig
from restore_diff.weather.rain import render_rain

CROP = (slice(0, 192), slice(0, 192))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def rainy() -> tuple[np.ndarray, np.ndarray]:
    """A photograph, and the same in rain, written to photos/rainy.png."""
    clean = data.astronaut()[CROP].copy()
    degraded = render_rain(torch.from_numpy(clean).permute(2, 0, 1)[None] / 255, RainConfig(), [5])
    array = (degraded[0].permute(1, 2, 0) * 255).round().byte().numpy()
    write_image(Path("photos/rainy.png"), array)
    return clean, array


def restored(*arguments: str) -> np.ndarray:
    assert restore.main(["-i", "photos", "-o", "out", "--overwrite", "--device", "cpu", *arguments]) == 0
    return read_rgb_uint8(Path("out/rainy.png")).permute(1, 2, 0).numpy()


def test_the_file_is_small_half_precision_and_has_its_model_card():
    assert trained.SHIPPED.stat().st_size <= 12_000_000
    with safe_open(trained.SHIPPED, "pt") as file:
        card = file.metadata()["model_card"]
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float16"}  # noqa: SIM118
    written = Path(trained.__file__).parent.parent / "docs/model_card.md"
    assert card == written.read_text(encoding="utf-8")


def test_a_photograph_is_restored_without_any_run(rainy, capsys):
    clean, degraded = rainy
    before = peak_signal_noise_ratio(clean, degraded)
    assert peak_signal_noise_ratio(clean, restored()) > before + 3
    assert "weights shipped (step " in capsys.readouterr().out


def test_the_uncertainty_needs_several_samples_which_the_default_takes(rainy, capsys):
    restored("--uncertainty")
    assert read_rgb_uint8(Path("out/uncertainty/rainy.png")).max() > 0
    arguments = ["-i", "photos", "-o", "one", "--device", "cpu", "--quality", "fast", "--uncertainty"]
    assert restore.main(arguments) == 2 and not list(Path("one").glob("*.png"))
    assert "--uncertainty needs several samples: add --n-samples 4" in capsys.readouterr().err


def test_a_photograph_passes_through_at_most_24_modules(rainy):
    """Counts modules that run between reading and writing, in all threads; tests/test_wheel.py counts imports."""
    entered, phases = set(), {"read_image": "begin", "write_image": "end"}
    recording = threading.Event()

    def profile(frame, event, argument):
        if event == "call":
            name = frame.f_globals.get("__name__", "")
            if phases.get(frame.f_code.co_name) == "begin":
                recording.set()
            if recording.is_set() and name.startswith("restore_diff."):
                entered.add(name)
        elif event == "return" and phases.get(frame.f_code.co_name) == "end":
            recording.clear()

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        restored()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert {"restore_diff.data.images", "restore_diff.restoration.restorer", "restore_diff.models.unet"} <= entered
    assert len(entered) <= 24, sorted(entered)
    assert not {name.split(".")[1] for name in entered} & {"training", "evaluation", "metrics", "weather", "doctor"}


def test_the_label_decides_which_weather_is_removed(rainy):
    unknown, rain, haze = (restored("--weather", kind) for kind in ("unknown", "rain", "haze"))
    assert (unknown != rain).any() and (rain != haze).any()
    clean, _ = rainy
    assert peak_signal_noise_ratio(clean, rain) > peak_signal_noise_ratio(clean, haze) + 1


def test_a_label_is_refused_by_weights_without_conditioning(capsys):
    write_pairs(Path("pairs"), 5)
    write_pairs(Path("tests"), 1, first=5)
    assert run_train() == 0
    write_image(Path("photos/a.png"), np.zeros((16, 16, 3), np.uint8))
    assert restore.main(["-i", "photos", "-o", "out", "--weather", "rain"]) == 2
    assert "--weather: these weights take no weather label" in capsys.readouterr().err
    assert not Path("out").exists()
    assert run_test("--weather", "rain") == 2
    assert "test.py: --weather: these weights take no weather label" in capsys.readouterr().err
    assert restore.main(["-i", "photos", "-o", "out", "--ckpt", "shipped", "--weather", "rain"]) == 0


def test_the_weights_are_scored_on_installed_photographs(capsys):
    assert run_test("--metrics", "psnr", "--limit", "5") == 0
    printed = capsys.readouterr().out
    assert "\nweights shipped (step " in printed
    assert "wrote scores/shipped/weather/" in printed
    found = summary(Path("scores/shipped/weather"))
    assert found["summary"]["psnr_rgb"]["mean"] > found["summary"]["psnr_rgb_input"]["mean"]


def test_the_example_makes_the_picture_of_the_readme():
    """Four weathers above, restored below: each column is closer to the photograph than before."""
    example = runpy.run_path(str(Path(trained.__file__).parent.parent / "examples/before_after.py"))
    example["main"]("picture.png")
    picture = read_rgb_uint8(Path("picture.png")).permute(1, 2, 0).numpy()
    side = example["SIDE"]
    for column, photograph in enumerate(example["SCENES"].values()):
        clean = photograph()[:side, 100 : 100 + side, :3]
        left = 4 + column * (side + 4)
        above, below = (picture[top : top + side, left : left + side] for top in (4, 8 + side))
        assert peak_signal_noise_ratio(clean, below) > peak_signal_noise_ratio(clean, above) + 1
