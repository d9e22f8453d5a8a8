"""Padding and tiles: exact cover, weights that sum to one, and no change where tiling must not change anything."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from restore_diff.restoration.tiling import (
    Cuts,
    TiledPredictor,
    crop_to,
    network_pixels,
    overlapping_cuts,
    pad_to,
    shifted_cuts,
)
from restore_diff.settings import TilingConfig

CPU = torch.device("cpu")
SIZES = [(1, 8, 4), (7, 8, 4), (8, 8, 4), (9, 8, 4), (64, 16, 0), (65, 16, 0), (65, 16, 15), (480, 64, 16), (33, 10, 7)]
SIZES += [(432, 64, 32), (101, 13, 3), (100, 12, 11), (17, 2, 1), (5, 1, 0)]


def images(height, width):
    return torch.arange(2.0 * 3 * height * width).reshape(2, 3, height, width)


@pytest.mark.parametrize("target", [(5, 7), (8, 8), (9, 13)])
def test_padding_is_torchs_reflection_where_torch_supports_it(target):
    expected = F.pad(images(5, 7), (0, target[1] - 7, 0, target[0] - 5), mode="reflect")
    assert torch.equal(pad_to(images(5, 7), *target), expected)


def test_a_small_image_is_reflected_repeatedly_and_one_pixel_repeated():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert pad_to(row, 1, 9).flatten().tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1]
    assert torch.equal(pad_to(images(1, 4), 3, 4), images(1, 4).expand(2, 3, 3, 4))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 7), (33, 65)])
def test_cropping_undoes_padding(size):
    assert torch.equal(crop_to(pad_to(images(*size), 64, 72), *size), images(*size))


def test_padding_to_a_smaller_size_is_refused():
    with pytest.raises(ValueError, match="5 x 7 to the smaller 4 x 8"):
        pad_to(images(5, 7), 4, 8)


def cuts(length, tile, overlap) -> Cuts:
    return overlapping_cuts(length, tile, overlap, "hann", CPU)


def tiled(predictor, tile=16, overlap=4, batch=3, multiple=1, **settings):
    config = TilingConfig(tile_size_px=tile, tile_overlap_px=overlap, tiles_per_batch=batch, **settings)
    return TiledPredictor(predictor, config, multiple)


def inputs(height, width, batch=2):
    generator = torch.Generator().manual_seed(0)
    x_t, degraded = (torch.randn(batch, 3, height, width, generator=generator) for _ in range(2))
    return x_t, torch.tensor([7, 400])[:batch], degraded


def pointwise(x_t, t, degraded):
    """Each pixel alone, different in each channel and at each t, so that any misplacement is detected."""
    factors = torch.tensor([1.0, 2.0, -1.0])[:, None, None]
    return x_t * factors + degraded.square() + t[:, None, None, None] / 100


@pytest.mark.parametrize(("length", "tile", "overlap"), SIZES)
def test_tiles_cover_the_axis_evenly_with_weights_that_sum_to_one(length, tile, overlap):
    starts, weights = cuts(length, tile, overlap)
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights.double(), strict=True):
        assert weight.min() > 0
        total[start : start + len(weight)] += weight
    assert (total - 1).abs().max() < 1e-6
    assert starts[0] == 0
    assert starts[-1] + weights.shape[1] == length
    if steps := [right - left for left, right in itertools.pairwise(starts)]:
        assert weights.shape[1] == tile
        assert max(steps) - min(steps) <= 1
        assert 1 <= min(steps) <= max(steps) <= tile - overlap


def test_the_number_of_tiles_is_minimal():
    assert [len(cuts(length, 16, 4).starts) for length in (1, 16, 17, 28, 29, 40, 41)] == [1, 1, 2, 2, 3, 3, 4]


def test_the_overlap_fades_smoothly_and_the_image_border_does_not():
    first, last = cuts(28, 16, 4).weights
    assert torch.equal(first[:12], torch.ones(12))
    assert torch.equal(last[4:], torch.ones(12))
    expected = torch.tensor([0.0381, 0.3087, 0.6913, 0.9619])  # sin^2 of pi/16, 3 pi/16, 5 pi/16, 7 pi/16
    assert (last[:4] - expected).abs().max() < 1e-4
    assert (first[12:] - expected.flip(0)).abs().max() < 1e-4


@pytest.mark.parametrize("size", [(16, 16), (17, 64), (40, 33), (16, 101), (5, 50), (1, 1)])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (16, 0), (16, 15), (12, 7)])
def test_a_pointwise_predictor_gives_the_same_values_tiled(size, tile, overlap):
    given = inputs(*size)
    expected = pointwise(*given)
    assert (tiled(pointwise, tile, overlap)(*given) - expected).abs().max() < 1e-6 * expected.abs().max()
    subject = tiled(pointwise, tile, batch=5, grid="shifted")
    assert all(torch.equal(subject(*given), expected) for _ in range(4))


def test_a_constant_stays_constant_in_each_image():
    found = tiled(lambda x_t, t, degraded: t[:, None, None, None].expand(x_t.shape).to(x_t.dtype))(*inputs(45, 61))
    assert (found[0] - 7).abs().max() < 1e-5
    assert (found[1] - 400).abs().max() < 1e-4


def test_where_tiles_disagree_the_blend_lies_between_without_a_jump():
    counter = itertools.count()
    subject = tiled(lambda x_t, t, degraded: torch.full_like(x_t, next(counter)), tile=64, overlap=32, batch=1)
    found = subject(*inputs(64, 160, batch=1))[0, 0, 0]  # one tile per call: 0, 1, 2, ...
    assert found[0] == 0
    assert found[-1] == 3
    assert found.diff().min() >= -1e-6
    assert found.diff().max() < 0.06  # a hard edge would be 1


def test_tiles_come_in_batches_of_one_shape_over_images():
    seen = []

    def spy(x_t, t, degraded):
        seen.append(tuple(x_t.shape))
        assert degraded.shape == x_t.shape
        assert t.shape == (len(x_t),)
        return x_t

    tiled(spy, batch=5)(*inputs(28, 40))  # 2 x 3 tiles in each of 2 images
    assert seen == [(4, 3, 16, 16)] * 3


def test_the_number_of_tiles_per_batch_changes_nothing():
    given = inputs(50, 37)
    assert torch.equal(tiled(pointwise, batch=1)(*given), tiled(pointwise, batch=64)(*given))


def test_without_degraded_images_tiles_get_none_too():
    x_t, t, _ = inputs(30, 30)

    def unconditional(x_t, t, degraded):
        assert degraded is None
        return x_t

    assert (tiled(unconditional)(x_t, t, None) - x_t).abs().max() < 1e-6


def test_low_precision_predictions_are_summed_in_float32():
    found = tiled(lambda x_t, t, degraded: torch.ones_like(x_t, dtype=torch.bfloat16))(*inputs(60, 60))
    assert found.dtype == torch.float32
    assert (found - 1).abs().max() < 1e-6


def test_weights_cached_in_inference_mode_serve_training_too():
    x_t, t, degraded = inputs(23, 29)
    with torch.inference_mode():
        tiled(pointwise, tile=11)(x_t, t, degraded)
    x_t.requires_grad_()
    tiled(pointwise, tile=11)(x_t, t, degraded).sum().backward()
    expected = torch.tensor([1.0, 2.0, -1.0])[:, None, None].expand(3, 23, 29)
    assert (x_t.grad[0] - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap": 16}, "tile_overlap_px=16 .* tile_size_px=16"),
        ({"overlap": 20}, "tile_overlap_px=20 .* tile_size_px=16"),
        ({"tile": 20, "multiple": 8}, "tile_size_px=20 must be a multiple of 8"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiled(pointwise, **settings)


@pytest.mark.parametrize(("length", "tile"), [(1, 8), (8, 8), (9, 8), (64, 16), (65, 16), (480, 64), (101, 13)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.999])
def test_shifted_tiles_own_every_pixel_exactly_once(length, tile, shift):
    starts, weights = shifted_cuts(length, tile, shift, CPU)
    owners = torch.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        assert 0 <= start <= length - len(weight)
        owners[start : start + len(weight)] += weight
    assert torch.equal(owners, torch.ones(length))
    assert len(starts) <= length // tile + 1


def test_the_borders_of_shifted_tiles_move_from_step_to_step():
    def numbered(x_t, t, degraded):
        return torch.arange(len(x_t)).view(-1, 1, 1, 1).expand_as(x_t).float()

    subject, again = (tiled(numbered, batch=99, grid="shifted") for _ in range(2))
    pictures = [subject(*inputs(40, 40, batch=1)) for _ in range(8)]
    borders = [tuple(picture[0, 0, 0].diff().nonzero().flatten().tolist()) for picture in pictures]
    assert len(set(borders)) >= 6
    assert torch.equal(again(*inputs(40, 40, batch=1)), pictures[0])


def test_in_a_box_window_all_tiles_at_a_pixel_have_equal_weight():
    starts, weights = overlapping_cuts(28, 16, 4, "box", CPU)
    assert starts == (0, 12)
    assert torch.equal(weights, torch.tensor([[1.0] * 12 + [0.5] * 4, [0.5] * 4 + [1.0] * 12]))


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        ((512, 512), {"tile_size_px": 64, "tile_overlap_px": 48}, 841 * 64**2),  # WeatherDiffusion's stride of 16
        ((512, 512), {"tile_size_px": 64, "tile_overlap_px": 16}, 121 * 64**2),
        ((480, 720), {"tile_size_px": 256, "tile_overlap_px": 32}, 2 * 4 * 256**2),
        ((816, 1224), {"tile_size_px": 1024, "tile_overlap_px": 32}, 2 * 816 * 628),  # shrunk to what two need
        ((816, 1224), {"tile_size_px": 1024, "tile_overlap_px": 32, "window": "box"}, 2 * 816 * 1024),
        ((512, 512), {"tile_size_px": 128, "tile_overlap_px": 0}, 512**2),
        ((480, 720), {"tile_size_px": 256, "grid": "shifted"}, 2 * 3 * 256**2),
        ((480, 720), {"tile_size_px": 0}, 480 * 720),
    ],
)
def test_the_cost_is_the_number_of_pixels_computed(size, settings, expected):
    config = TilingConfig(**settings, tiles_per_batch=1)
    assert network_pixels(*size, config) == pytest.approx(expected / math.prod(size))
    if config.tile_size_px:
        seen = []
        spy = TiledPredictor(lambda x, t, d: seen.append(x[0].numel()) or x, config, 1)
        spy(torch.zeros(1, 1, *size), torch.zeros(1), None)
        assert sum(seen) == expected


def test_shrunk_tiles_still_fit_the_network_and_overlap_enough():
    for length in range(1025, 3000, 7):
        starts, weights = overlapping_cuts(length, 1024, 32, "hann", CPU, multiple=8)
        assert weights.shape[1] % 8 == 0
        assert weights.shape[1] >= 256
        assert max(right - left for left, right in itertools.pairwise(starts)) <= weights.shape[1] - 32


def test_only_a_few_batches_of_tiles_are_in_memory_at_a_time():
    sizes = []
    tiled(lambda x_t, t, d: sizes.append(x_t.untyped_storage().nbytes()) or x_t, batch=2)(*inputs(400, 40, batch=1))
    assert max(sizes) <= 12 * 3 * 16 * 16 * 4  # of 100 tiles
