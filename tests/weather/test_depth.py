"""Procedural depth."""

import pytest
import torch
from torch import Tensor

from restore_diff.weather.haze import FRAME_PX, procedural_depth, smooth_fields, view


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


def test_a_map_depends_on_its_own_photograph_and_seed_alone():
    clean = torch.rand(4, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    together = procedural_depth(clean, [7, 8, 7, 9])
    for row, seed in enumerate([7, 8, 7, 9]):
        torch.testing.assert_close(procedural_depth(clean[row, None], [seed])[0], together[row], atol=1e-6, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


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
