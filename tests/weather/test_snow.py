"""Snow: effect of each setting, measured on the images."""

import math
from pathlib import Path

import pytest
import torch
from still import fixed, photographs, whole_regions
from torch import Tensor

from restore_diff.data.images import write_image
from restore_diff.settings import SnowConfig
from restore_diff.weather.snow import render_snow

MEAN_THICKNESS = 0.7
"""Mean opacity of flakes over that of the densest."""

STILL = {
    "cover": 0.01,
    "size_px": 3,
    "size_spread": 0,
    "depth": 1,
    "motion": 0,
    "defocus": 0,
    "blur_px": 0.25,
    "angle_deg": 0,
    "angle_spread_deg": 0,
    "opacity": 1,
    "brightness": 1,
    "blueness": 0,
    "veil": 0,
    "airlight": 1,
}
"""White flakes, all alike but for their thickness, that stand still in the plane in focus."""


def snow(**changes: float | tuple[float, float]) -> SnowConfig:
    return fixed(SnowConfig, STILL | changes)


def opacity(config: SnowConfig, num_images: int = 4, size: int = 256) -> Tensor:
    """White snow on black: (num_images, size, size)."""
    return render_snow(torch.zeros(num_images, 3, size, size), config, range(num_images))[:, 0]


def whole_flakes(pictures: Tensor) -> list:
    """Flakes, or several that touch."""
    return whole_regions(pictures, 1e-6)


def variances(flake) -> tuple[float, float]:
    """In px^2, of where a flake's opacity lies: along its narrow direction and along its wide one."""
    moments = flake.moments_weighted_central / flake.moments_weighted_central[0, 0]
    middle, difference = (moments[2, 0] + moments[0, 2]) / 2, (moments[2, 0] - moments[0, 2]) / 2
    half = math.hypot(difference, moments[1, 1])
    return middle - half, middle + half


def median(values: list[float]) -> float:
    return float(torch.tensor(values).median())


@pytest.fixture
def masks(tmp_path: Path) -> str:
    """A folder with one mask: a white bar, a sixteenth of the picture, on black."""
    mask = torch.zeros(3, 64, 64)
    mask[:, :, 24:28] = 1
    write_image(tmp_path / "bar.png", mask)
    return str(tmp_path)


def test_flakes_drawn_in_parts_are_as_many(monkeypatch):
    whole = opacity(snow(cover=0.3, size_px=2), num_images=2).mean()
    monkeypatch.setattr("restore_diff.weather.snow.FLAKES_AT_ONCE", 1000)
    assert opacity(snow(cover=0.3, size_px=2), num_images=2).mean() == pytest.approx(float(whole), rel=0.03)


@pytest.mark.parametrize("nothing", [{"cover": 0}, {"opacity": 0}])
def test_without_opacity_the_picture_stays_as_it_is(nothing: dict):
    assert torch.equal(render_snow(photographs(3), snow(**nothing), range(3)), photographs(3))


def test_each_value_lies_between_the_photograph_and_the_flakes():
    clean = torch.cat([photographs(4), torch.zeros(1, 3, 40, 56), torch.ones(1, 3, 40, 56)])
    snowy = render_snow(clean, snow(cover=1, size_px=8, brightness=0.8, blueness=0.2), range(6))
    flakes = torch.tensor([0.64, 0.72, 0.8]).view(1, 3, 1, 1)
    assert (snowy >= torch.minimum(clean, flakes) - 1e-6).all() and (snowy <= torch.maximum(clean, flakes) + 1e-6).all()
    assert ((snowy - flakes).abs().amax(1) < 1e-3).float().mean() > 0.02  # some flakes hide all that is behind them


def test_the_opacity_of_flakes_is_independent_of_the_background():
    """I = a z + y (1 - z), with one z for the three channels."""
    config = snow(cover=0.2, size_px=6, brightness=0.9, blueness=0.1)
    black, scene = render_snow(torch.zeros(2, 3, 40, 56), config, [0, 1]), render_snow(photographs(2), config, [0, 1])
    colour = 0.9 * torch.tensor([0.9, 0.95, 1.0]).view(1, 3, 1, 1)
    z = black[:, 2:] / 0.9
    torch.testing.assert_close(black, colour * z)
    torch.testing.assert_close(scene, colour * z + photographs(2) * (1 - z))


@pytest.mark.parametrize(
    "changes",
    [
        {"size_px": 0.5},
        {"size_px": 12},
        {"blur_px": 2},
        {"motion": 5},
        {"motion": 3, "angle_deg": 60, "blur_px": 0.5},
        {"depth": 4},
        {"depth": 3, "size_px": 12, "defocus": 3},
        {"size_spread": 0.3},
    ],
)
def test_the_cover_is_independent_of_size_blur_and_motion(changes: dict):
    mean = opacity(snow(**{"cover": 0.3, "opacity": 0.05} | changes), num_images=8).mean()
    assert mean == pytest.approx(0.3 * 0.05 * MEAN_THICKNESS, rel=0.05)


@pytest.mark.parametrize("angle_deg", [-50.0, 0.0, 30.0])
def test_flakes_are_drawn_out_along_their_way_by_its_length(angle_deg: float):
    """The second moment along the way exceeds that across by the variance of a uniform law: length^2 / 12."""
    pictures = opacity(snow(size_px=2.5, motion=8, angle_deg=angle_deg, cover=0.003), num_images=8)
    flakes = whole_flakes(pictures)
    across, along = (median([variances(flake)[k] for flake in flakes]) for k in (0, 1))
    assert along - across == pytest.approx((8 * 2.5) ** 2 / 12, rel=0.04)
    assert median([-math.degrees(flake.orientation) for flake in flakes]) == pytest.approx(angle_deg, abs=1.5)


def test_single_flakes_deviate_by_the_spread_of_angles():
    pictures = opacity(snow(size_px=1.5, motion=15, angle_spread_deg=6, cover=0.001), num_images=8)
    leans = torch.tensor([math.degrees(region.orientation) for region in whole_flakes(pictures)])
    assert leans.median().abs() < 1.5
    assert leans.std() == pytest.approx(6 * 0.88, rel=0.2)  # 0.88: a normal distribution cut off at two deviations


def test_small_flakes_are_round_and_wide_ones_have_shapes():
    small, wide = (whole_flakes(opacity(snow(size_px=size_px), 8)) for size_px in (2.9, 20))
    assert median([math.sqrt(across / along) for across, along in map(variances, small)]) > 0.9
    assert median([math.sqrt(across / along) for across, along in map(variances, wide)]) < 0.8
    assert median([flake.area for flake in wide]) < math.pi / 4 * 20**2  # no crystal lies beyond the circle


def test_most_flakes_are_far_and_small(monkeypatch):
    """z^3 is uniform from 1 to depth^3, so that half of the flakes are farther than ((1 + depth^3) / 2)^(1/3)."""
    monkeypatch.setattr("restore_diff.weather.snow.SHAPED_PX", 1000)
    flakes = whole_flakes(opacity(snow(size_px=24, depth=3, cover=0.02), num_images=24))
    widths = [float(r.bbox[3] - r.bbox[1]) for r in flakes]
    assert median(widths) == pytest.approx(24 / 14 ** (1 / 3) + 1, abs=1)  # 1: the blur of the lens
    assert min(widths) >= 24 / 3 - 1 and max(widths) > 18


def test_the_far_end_is_in_focus_and_near_flakes_are_wide_and_translucent():
    assert torch.equal(opacity(snow(defocus=3)), opacity(snow(defocus=0)))
    sharp, soft = (opacity(snow(depth=4, size_px=12, defocus=defocus, cover=0.05), 16) for defocus in (0, 2))
    assert (soft > 0).float().mean() > 1.5 * (sharp > 0).float().mean()
    assert soft.square().mean() / soft.mean() < 0.8 * sharp.square().mean() / sharp.mean()


def test_diameters_spread_as_asked_for(monkeypatch):
    monkeypatch.setattr("restore_diff.weather.snow.SHAPED_PX", 1000)
    flakes = whole_flakes(opacity(snow(size_px=16, size_spread=0.3, cover=0.01), num_images=24))
    widths = torch.tensor([float(r.bbox[3] - r.bbox[1] - 1) for r in flakes])
    assert widths.log().std() == pytest.approx(0.3 * 0.88, rel=0.2)


def test_masks_set_the_opacity(masks: str):
    config = SnowConfig(masks=masks, opacity=(0.5, 0.5), brightness=(0.9, 0.9), blueness=(0, 0))
    snowy = render_snow(torch.zeros(64, 3, 48, 48), config, range(64))
    assert snowy.max() == pytest.approx(0.45, abs=0.003)
    assert snowy.mean() == pytest.approx(0.45 / 16, rel=0.25)
    assert torch.equal(snowy, render_snow(torch.zeros(64, 3, 48, 48), config, range(64)))
    assert (snowy[0] - snowy[1]).abs().max() > 0.2  # another seed, another piece


def test_settings_of_drawn_flakes_do_not_affect_masks(masks: str):
    few, many = (SnowConfig(masks=masks, cover=(cover, cover)) for cover in (0, 1))
    assert torch.equal(render_snow(photographs(2), few, [0, 1]), render_snow(photographs(2), many, [0, 1]))
