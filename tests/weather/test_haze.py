"""Haze: Koschmieder's law, depth maps, airlight, procedural depth."""

import math

import pytest
import torch
from still import fixed, photographs
from torch import Tensor

from restore_diff.settings import HazeConfig
from restore_diff.weather.haze import FRAME_PX, procedural_depth, render_haze, smooth_fields, view

PLAIN = {"beta": 1.0, "airlight": 0.8, "tint": 0, "unevenness": 0}
"""Grey and even haze, the same for every seed."""

DENSE = 20.0
"""A beta by which nothing of the farthest point is left."""


def haze(**changes: float | tuple[float, float]) -> HazeConfig:
    return fixed(HazeConfig, PLAIN | changes)


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


def test_uneven_haze_is_smooth_and_within_its_bound():
    seen = airlight(haze(beta=DENSE, airlight=1, unevenness=0.4), num_images=30, size=320)
    assert seen.max() <= 1 and seen.min() >= 0.6 - 1e-6
    ranges = seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))
    assert ranges.min() > 0.15 and ranges.mean() > 0.25
    assert seen.diff(dim=-1).abs().max() < 0.02


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


# Procedural depth.


def grey(num_images: int, height: int, width: int, value: float = 0.5) -> Tensor:
    return torch.full((num_images, 3, height, width), value)


def spread(depth: Tensor) -> Tensor:
    return depth.amax((1, 2, 3)) - depth.amin((1, 2, 3))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (700, 1), (2, 3), (37, 53)])
def test_depth_is_positive_and_at_most_one_at_every_size(height: int, width: int):
    clean = torch.rand(8, 3, height, width, generator=torch.Generator().manual_seed(0))
    depth = procedural_depth(clean, range(8))
    assert depth.shape == (8, 1, height, width)
    assert depth.min() > 0 and depth.max() <= 1


def test_the_depth_distribution_resembles_sots_indoor():
    """In SOTS-indoor half of the pixels lie below 0.4 of the largest depth, 1 % below 0.2 and 5 % above 0.8."""
    depth = procedural_depth(grey(150, FRAME_PX, FRAME_PX), range(150)).flatten(1)
    nearest, median, farthest = torch.quantile(depth[:, ::7], torch.tensor([0.01, 0.5, 0.95]), dim=1).mean(1)
    assert 0.12 < nearest < 0.32
    assert 0.32 < median < 0.56
    assert 0.62 < farthest < 0.95
    assert depth.mean(1).std() > 0.1


def test_higher_parts_of_an_image_are_mostly_farther():
    depth = procedural_depth(grey(300, FRAME_PX, 40), range(300)).mean((1, 3))
    top, bottom = depth[:, :40].mean(1), depth[:, -40:].mean(1)
    assert top.mean() > bottom.mean() + 0.15
    assert (top > bottom).float().mean() > 0.6


def test_a_crop_sees_a_part_of_a_scene():
    whole = procedural_depth(grey(100, FRAME_PX, FRAME_PX), range(100))
    crops = procedural_depth(grey(400, 64, 64), range(400))
    assert spread(crops).median() < 0.5 * spread(whole).median()
    assert crops.mean() == pytest.approx(float(whole.mean()), abs=0.04)
    assert crops.mean((1, 2, 3)).std() > whole.mean((1, 2, 3)).std()


def test_a_crop_shows_a_random_window_of_the_scene():
    seen = view(grey(200, 64, 128), range(200))
    for axis, size in ((seen.y[:, 0, :, 0], 64), (seen.x[:, 0, 0], 128)):
        steps = axis.diff(dim=1)
        torch.testing.assert_close(steps, torch.full_like(steps, 1 / FRAME_PX), atol=1e-6, rtol=0)
        assert axis.min() >= 0 and axis.max() <= 1
        assert axis[:, 0].max() - axis[:, 0].min() > 0.9 * (1 - size / FRAME_PX)


def test_a_large_photograph_shows_the_whole_scene():
    seen = view(grey(2, 400, FRAME_PX), [0, 1])
    for axis, size in ((seen.y[:, 0, :, 0], 400), (seen.x[:, 0, 0], FRAME_PX)):
        expected = ((torch.arange(size) + 0.5) / size).expand(2, -1)
        torch.testing.assert_close(axis, expected, atol=1e-6, rtol=0)


def test_edges_of_depth_are_edges_of_the_photograph():
    """A bright and a dark half that meet in a slanted line, which no square of the comparison of colours follows."""
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    right = column > 21 + row // 3
    clean = torch.where(right, 0.8, 0.2).expand(60, 3, 64, 64)
    steps = procedural_depth(clean, range(60)).diff(dim=-1).abs()[:, 0]
    edge = right[:, 1:] != right[:, :-1]
    at_edge, elsewhere = steps[:, edge].mean(1), steps[:, ~edge].mean(1)
    assert at_edge.mean() > 0.08
    assert (at_edge > 5 * elsewhere).float().mean() > 0.6


def test_darker_parts_are_mostly_nearer():
    clean = torch.full((200, 3, 64, 64), 0.2)
    clean[..., 32:] = 0.9
    depth = procedural_depth(clean, range(200))
    brighter_is_farther = (depth[..., 40:].mean((1, 2, 3)) > depth[..., :24].mean((1, 2, 3))).float().mean()
    assert 0.6 < brighter_is_farther < 0.95


def test_fine_texture_does_not_change_the_depth():
    texture = 0.5 + 0.1 * torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    steps = procedural_depth(texture.clamp(0, 1), range(20)).diff(dim=-1).abs()
    assert steps.mean() < 0.1 * texture.mean(1, keepdim=True).diff(dim=-1).abs().mean()


def test_fields_are_smooth_and_differ_between_purposes():
    seen = view(grey(20, FRAME_PX, FRAME_PX), range(20))
    first, second = smooth_fields(seen, range(20), "first"), smooth_fields(seen, range(20), "second")
    assert first.min() >= 0 and first.max() <= 1
    assert spread(first).min() > 0.4
    assert first.diff(dim=-1).abs().max() < 0.03
    assert not torch.allclose(first, second, atol=0.1)
