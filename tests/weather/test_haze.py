"""Haze: Koschmieder's law, depth maps, airlight."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from restore_diff.settings import HazeConfig, range_names
from restore_diff.weather.haze import procedural_depth, render_haze

PLAIN = {"beta": 1.0, "airlight": 0.8, "tint": 0, "unevenness": 0}
"""Grey and even haze, the same for every seed."""

DENSE = 20.0
"""A beta by which nothing of the farthest point is left."""


def haze(**changes: float | tuple[float, float]) -> HazeConfig:
    values = PLAIN | changes
    return HazeConfig(**{name: v if isinstance(v, tuple) else (v, v) for name, v in values.items()})


def photographs(num_images: int, height: int = 40, width: int = 56) -> Tensor:
    return torch.rand(num_images, 3, height, width, generator=torch.Generator().manual_seed(1))


def ramps(num_images: int, height: int = 40, width: int = 56) -> Tensor:
    """Depth from 0 at the left to 1 at the right."""
    return torch.linspace(0, 1, width).expand(num_images, 1, height, width)


def airlight(config: HazeConfig, num_images: int, size: int = 32) -> Tensor:
    """What is seen where nothing of the scene is left."""
    black = torch.zeros(num_images, 3, size, size)
    return render_haze(black, config, range(num_images), torch.ones(num_images, 1, size, size))


@pytest.mark.parametrize(("beta", "brightness"), [(0.0, 0.7), (0.6, 1.0), (1.8, 0.85)])
def test_light_is_lost_and_added_by_the_law_of_koschmieder(beta: float, brightness: float):
    clean, depth = photographs(2), ramps(2)
    hazy = render_haze(clean, haze(beta=beta, airlight=brightness), [0, 1], depth)
    arriving = torch.exp(-beta * depth)
    torch.testing.assert_close(hazy, clean * arriving + brightness * (1 - arriving), atol=1e-6, rtol=0)


def test_beta_is_the_optical_depth_of_the_farthest_point_in_any_unit():
    clean, metres = photographs(2), 3.5 + 6.5 * ramps(2)
    expected = render_haze(clean, haze(beta=1.3), [0, 1], metres)
    for scale in (0.001, 100.0):
        torch.testing.assert_close(render_haze(clean, haze(beta=1.3), [0, 1], metres * scale), expected)
    farthest = (expected - 0.8)[..., -1] / (clean - 0.8)[..., -1]
    torch.testing.assert_close(farthest, torch.full_like(farthest, math.exp(-1.3)), atol=1e-3, rtol=0)


def test_each_map_is_scaled_by_its_own_largest_value():
    clean, depth = photographs(2), ramps(2) * torch.tensor([1.0, 50.0]).view(2, 1, 1, 1)
    together = render_haze(clean, haze(), [0, 1], depth)
    torch.testing.assert_close(together[:1], render_haze(clean[:1], haze(), [0], depth[:1]), atol=1e-6, rtol=0)


def test_points_at_distance_zero_are_unchanged():
    clean = photographs(2)
    assert torch.equal(render_haze(clean, HazeConfig(), [0, 1], ramps(2))[..., 0], clean[..., 0])
    assert torch.equal(render_haze(clean, HazeConfig(), [0, 1], torch.zeros(2, 1, 40, 56)), clean)


def test_farther_points_and_denser_haze_come_nearer_to_the_airlight():
    flat, depth = torch.full((1, 3, 8, 64), 0.1), ramps(1, 8, 64)
    by_depth = render_haze(flat, haze(), [0], depth)
    assert (by_depth[..., 1:] > by_depth[..., :-1]).all()
    scene = photographs(1, 8, 64)
    distances = [(render_haze(scene, haze(beta=b), [0], depth) - 0.8).abs()[..., 1:] for b in (0.2, 0.6, 1.8, 5)]
    assert all((far <= near).all() for near, far in pairwise(distances))


def test_without_a_depth_map_procedural_depth_is_used():
    clean = photographs(3)
    made_up = procedural_depth(clean, [4, 5, 6])
    arriving = torch.exp(-1.2 * made_up)
    expected = clean * arriving + 0.8 * (1 - arriving)
    torch.testing.assert_close(render_haze(clean, haze(beta=1.2), [4, 5, 6]), expected, atol=1e-6, rtol=0)


def test_the_tint_is_bluish_or_yellowish_with_the_set_strength():
    seen = airlight(haze(beta=DENSE, airlight=0.9, tint=0.2), num_images=400)[:, :, 0, 0]
    torch.testing.assert_close(seen.amax(1), torch.full((400,), 0.9), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.amin(1), torch.full((400,), 0.9 * 0.8), atol=1e-6, rtol=0)
    # Neither green nor magenta.
    torch.testing.assert_close(seen[:, 1], (seen[:, 0] + seen[:, 2]) / 2, atol=1e-6, rtol=0)
    yellow = (seen[:, 0] > seen[:, 2]).float().mean()
    assert yellow == pytest.approx(0.5, abs=0.08)


def test_untinted_haze_is_grey():
    grey = photographs(2)[:, :1].expand(-1, 3, -1, -1)
    hazy = render_haze(grey, haze(unevenness=0.3), [0, 1])
    assert torch.equal(hazy[:, 0], hazy[:, 1]) and torch.equal(hazy[:, 0], hazy[:, 2])


def test_uneven_haze_is_smooth_and_within_its_bound():
    seen = airlight(haze(beta=DENSE, airlight=1, unevenness=0.4), num_images=30, size=320)
    assert seen.max() <= 1 and seen.min() >= 0.6 - 1e-6
    ranges = seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))
    assert ranges.min() > 0.15 and ranges.mean() > 0.25
    assert seen.diff(dim=-1).abs().max() < 0.02


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_stay_in_range(value: float):
    config = HazeConfig(beta=(0.0, DENSE), airlight=(0.0, 1.0), tint=(0.0, 1.0), unevenness=(0.0, 1.0))
    hazy = render_haze(torch.full((60, 3, 24, 24), value), config, range(60))
    assert hazy.min() >= 0 and hazy.max() <= 1


@pytest.mark.parametrize("name", range_names(HazeConfig()))
def test_each_setting_changes_the_image_and_is_drawn_per_image(name: str):
    usual = haze(tint=0.1, unevenness=0.1)
    low = getattr(usual, name)[0]
    changed, ranging = (haze(**{"tint": 0.1, "unevenness": 0.1, name: v}) for v in (low / 2, (low / 2, low)))
    scene = photographs(2) * 0.5
    assert (render_haze(scene, changed, [0, 1]) - render_haze(scene, usual, [0, 1])).abs().mean() > 1e-4
    drawn = render_haze(scene, ranging, [0, 1])
    for fixed in (usual, changed):
        assert not torch.allclose(drawn, render_haze(scene, fixed, [0, 1]), atol=1e-4)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (torch.ones(2, 1, 40, 55), r"shape \(2, 1, 40, 56\), got \(2, 1, 40, 55\)"),
        (torch.ones(1, 1, 40, 56), r"got \(1, 1, 40, 56\)"),
        (torch.full((2, 1, 40, 56), -1.0), "0 or more"),
        (torch.full((2, 1, 40, 56), math.nan), "finite"),
    ],
)
def test_invalid_depth_maps_are_rejected(depth: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        render_haze(photographs(2), HazeConfig(), [0, 1], depth)
