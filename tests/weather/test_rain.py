"""Rain: effect of each setting, measured on the images."""

import math

import pytest
import torch
from still import fixed, photographs, whole_regions
from torch import Tensor

from restore_diff.settings import RainConfig
from restore_diff.weather.rain import render_rain

LENGTH_PX, WIDTH_PX, BRIGHTNESS = 40.0, 4.0, 0.5
STILL = {
    "density": 0.0003,
    "length_px": LENGTH_PX,
    "width_px": WIDTH_PX,
    "blur_px": 0.5,
    "brightness": BRIGHTNESS,
    "softness": 0,
    "beading": 0,
    "angle_deg": 0,
    "angle_spread_deg": 0,
    "size_spread": 0,
    "depth": 1,
    "veil": 0,
    "airlight": 1,
}
"""Vertical streaks, all alike."""


def rain(**changes: float | tuple[float, float]) -> RainConfig:
    return fixed(RainConfig, STILL | changes)


def light(config: RainConfig, num_images: int = 4, size: int = 256, first_seed: int = 0) -> Tensor:
    """Rain on black: (num_images, size, size)."""
    black = torch.zeros(num_images, 1, size, size)
    return render_rain(black, config, range(first_seed, first_seed + num_images))[:, 0]


def whole_streaks(pictures: Tensor, threshold: float = BRIGHTNESS / 2) -> list:
    return whole_regions(pictures, threshold)


def test_light_is_only_added_and_stays_in_range():
    clean = torch.cat([photographs(6), torch.zeros(1, 3, 40, 56), torch.ones(1, 3, 40, 56)])
    degraded = render_rain(clean, RainConfig(density=(0.02, 0.1)), range(8))
    assert (degraded - clean).min() >= 0
    assert degraded.max() <= 1
    assert (degraded - clean)[:7].amax((1, 2, 3)).min() > 0.1


def test_rain_is_grey():
    grey = photographs(4)[:, :1].expand(-1, 3, -1, -1)
    degraded = render_rain(grey, RainConfig(), range(4))
    assert torch.equal(degraded[:, 0], degraded[:, 1]) and torch.equal(degraded[:, 0], degraded[:, 2])
    coloured = photographs(4) * 0.2
    added = render_rain(coloured, rain(brightness=0.1), range(4)) - coloured
    assert (added.amax(1) - added.amin(1)).max() < 1e-6


@pytest.mark.parametrize("angle_deg", [-50.0, -10.0, 0.0, 25.0])
def test_streaks_lean_by_the_angle_of_the_wind(angle_deg: float):
    picture = light(rain(angle_deg=angle_deg, width_px=6, length_px=80))
    down = (picture[:, 2:, 1:-1] - picture[:, :-2, 1:-1]).flatten()
    right = (picture[:, 1:-1, 2:] - picture[:, 1:-1, :-2]).flatten()
    # The structure tensor's weak direction runs along the streaks; "/" rises (down < 0) as it goes right.
    across = 0.5 * math.atan2(2 * float(right @ down), float(right @ right - down @ down))
    assert math.degrees(across) == pytest.approx(angle_deg, abs=1.5)


def test_tilts_of_streaks_spread_by_the_setting():
    streaks = whole_streaks(light(rain(angle_spread_deg=4, width_px=2, density=0.0002), num_images=16))
    tilts = torch.tensor([math.degrees(r.orientation) for r in streaks])
    assert tilts.mean().abs() < 1
    assert tilts.std() == pytest.approx(4 * 0.88, rel=0.2)  # 0.88: a normal distribution cut off at two deviations


def test_a_streak_has_the_length_asked_for():
    lengths = torch.tensor([float(r.bbox[2] - r.bbox[0]) for r in whole_streaks(light(rain()))])
    assert lengths.median() == pytest.approx(LENGTH_PX, abs=1)


@pytest.mark.parametrize(("width_px", "blur_px"), [(0.5, 0.5), (0.5, 2), (4, 0.5), (8, 2)])
def test_a_streak_carries_the_light_of_its_width_whatever_its_blur_and_tilt(width_px: float, blur_px: float):
    config = rain(width_px=width_px, blur_px=blur_px, angle_deg=60, density=0.0008, brightness=0.1)
    lit = light(config, num_images=16)
    num_streaks = lit.numel() * 0.0008
    assert lit.sum() / num_streaks == pytest.approx(0.1 * width_px * LENGTH_PX, rel=0.06)


def test_a_wide_streak_has_the_set_brightness_and_a_thin_one_less():
    streaks = whole_streaks(light(rain(width_px=20, density=0.0001)))
    peaks = torch.tensor([r.intensity_max for r in streaks if r.bbox[3] - r.bbox[1] < 25])
    assert peaks.median() == pytest.approx(BRIGHTNESS * 0.904, abs=0.003)  # a near drop is out of focus
    assert light(rain(width_px=0.5, density=0.0001)).max() == pytest.approx(BRIGHTNESS * 0.37, abs=0.003)


def test_drops_farther_away_leave_shorter_and_thinner_streaks():
    """A streak's light falls as 1 / z^2, and z^2 is uniform from 1 to depth^2: mean ln(depth^2) / (depth^2 - 1)."""
    near, far = (light(rain(depth=depth, density=0.001, brightness=0.1), num_images=16) for depth in (1, 3))
    assert far.mean() / near.mean() == pytest.approx(math.log(9) / 8, rel=0.08)
    regions = whole_streaks(light(rain(depth=3), num_images=16), threshold=0.2)
    lengths = torch.tensor([float(r.bbox[2] - r.bbox[0]) for r in regions])
    assert lengths.median() == pytest.approx(LENGTH_PX / math.sqrt(5), abs=1.5)
    assert lengths.min() >= LENGTH_PX / 3 - 1


def test_drops_of_many_sizes_leave_streaks_of_many_lengths():
    """Length grows as the square root of the diameter, whose logarithm's deviation is cut off at two standard ones."""
    regions = whole_streaks(light(rain(size_spread=0.4, density=0.0001), num_images=32), threshold=0.1)
    lengths = torch.tensor([float(r.bbox[2] - r.bbox[0]) for r in regions])
    alone = lengths[lengths < 1.1 * LENGTH_PX * math.exp(0.4)]  # longer ones are two that touch
    assert alone.log().std() == pytest.approx(0.4 / 2 * 0.88, rel=0.15)


def test_beads_take_half_of_their_depth_from_the_light():
    plain, beaded = (light(rain(beading=beading, density=0.001, brightness=0.2), num_images=16) for beading in (0, 1))
    assert beaded.mean() / plain.mean() == pytest.approx(0.5, rel=0.05)


def test_a_soft_streak_fades_over_the_share_asked_for():
    """A smooth ramp carries half of the light of the stretch that it covers."""
    plain, soft = (light(rain(softness=share, density=0.001, brightness=0.2), num_images=16) for share in (0, 0.8))
    assert soft.mean() / plain.mean() == pytest.approx(1 - 0.8 / 2, rel=0.03)
