"""Tiles cover every pixel, with weights that sum to one, so that tiling changes nothing it should not."""

import itertools
import math

import pytest
import torch

from restore_diff.restoration.tiling import Cuts, TiledPredictor, network_pixels, overlapping_cuts, shifted_cuts
from restore_diff.settings import TilingConfig

CPU = torch.device("cpu")
SIZES = [(1, 8, 4), (7, 8, 4), (8, 8, 4), (9, 8, 4), (64, 16, 0), (65, 16, 0), (65, 16, 15), (480, 64, 16), (33, 10, 7)]
SIZES += [(432, 64, 32), (101, 13, 3), (100, 12, 11), (17, 2, 1), (5, 1, 0)]


def cuts(length, tile, overlap, device) -> Cuts:
    return overlapping_cuts(length, tile, overlap, "hann", device)


def tiled(predictor, tile=16, overlap=4, batch=3, multiple=1):
    config = TilingConfig(tile_size_px=tile, tile_overlap_px=overlap, tiles_per_batch=batch)
    return TiledPredictor(predictor, config, multiple)


def inputs(height, width, batch=2):
    generator = torch.Generator().manual_seed(0)
    x_t, degraded = (torch.randn(batch, 3, height, width, generator=generator) for _ in range(2))
    return x_t, torch.tensor([7, 400])[:batch], degraded


def pointwise(x_t, t, degraded):
    """Each pixel alone, but other in each channel and at each t, so that anything out of place is seen."""
    factors = torch.tensor([1.0, 2.0, -1.0])[:, None, None]
    return x_t * factors + degraded.square() + t[:, None, None, None] / 100


@pytest.mark.parametrize(("length", "tile", "overlap"), SIZES)
def test_the_weights_are_positive_and_sum_to_one_at_every_pixel(length, tile, overlap):
    starts, weights = cuts(length, tile, overlap, CPU)
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights.double(), strict=True):
        assert weight.min() > 0
        total[start : start + len(weight)] += weight
    assert (total - 1).abs().max() < 1e-6


@pytest.mark.parametrize(("length", "tile", "overlap"), SIZES)
def test_tiles_start_and_end_with_the_axis_evenly_spaced(length, tile, overlap):
    starts, weights = cuts(length, tile, overlap, CPU)
    assert starts[0] == 0
    assert starts[-1] + weights.shape[1] == length
    steps = [right - left for left, right in itertools.pairwise(starts)]
    if steps:
        assert weights.shape[1] == tile
        assert max(steps) - min(steps) <= 1
        assert 1 <= min(steps) <= max(steps) <= tile - overlap


def test_no_more_tiles_than_needed():
    assert [len(cuts(length, 16, 4, CPU).starts) for length in (1, 16, 17, 28, 29, 40, 41)] == [1, 1, 2, 2, 3, 3, 4]


def test_the_image_border_does_not_fade_and_the_overlap_fades_smoothly():
    first, last = cuts(28, 16, 4, CPU).weights
    assert torch.equal(first[:12], torch.ones(12))
    assert torch.equal(last[4:], torch.ones(12))
    expected = torch.tensor([0.0381, 0.3087, 0.6913, 0.9619])  # sin^2 of pi/16, 3 pi/16, 5 pi/16, 7 pi/16
    assert (last[:4] - expected).abs().max() < 1e-4
    assert (first[12:] - expected.flip(0)).abs().max() < 1e-4


@pytest.mark.parametrize("size", [(16, 16), (17, 64), (40, 33), (16, 101), (5, 50), (1, 1)])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (16, 0), (16, 15), (12, 7)])
def test_a_pointwise_predictor_gives_the_same_values_tiled_and_untiled(size, tile, overlap):
    given = inputs(*size)
    expected = pointwise(*given)
    assert (tiled(pointwise, tile, overlap)(*given) - expected).abs().max() < 1e-6 * expected.abs().max()


def test_a_constant_stays_constant_and_each_image_its_own():
    def constant(x_t, t, degraded):
        return t[:, None, None, None].expand(x_t.shape).to(x_t.dtype)

    found = tiled(constant)(*inputs(45, 61))
    assert (found[0] - 7).abs().max() < 1e-5
    assert (found[1] - 400).abs().max() < 1e-4


def test_where_tiles_disagree_the_blend_lies_between_and_has_no_jump():
    counter = itertools.count()

    def numbered(x_t, t, degraded):
        return torch.full_like(x_t, next(counter))  # one tile per call: tiles 0, 1, 2, ...

    found = tiled(numbered, tile=64, overlap=32, batch=1)(*inputs(64, 160, batch=1))[0, 0, 0]
    assert found[0] == 0
    assert found[-1] == 3
    steps = found.diff()
    assert steps.min() >= -1e-6
    assert steps.max() < 0.06  # a hard edge would be 1


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


def test_a_predictor_without_condition_gets_none():
    x_t, t, _ = inputs(30, 30)

    def unconditional(x_t, t, degraded):
        assert degraded is None
        return x_t

    assert (tiled(unconditional)(x_t, t, None) - x_t).abs().max() < 1e-6


def test_low_precision_predictions_are_summed_in_float32():
    x_t, t, degraded = inputs(60, 60)
    found = tiled(lambda x_t, t, degraded: torch.ones_like(x_t, dtype=torch.bfloat16))(x_t, t, degraded)
    assert found.dtype == torch.float32
    assert (found - 1).abs().max() < 1e-6


def test_weights_kept_from_inference_serve_training_too():
    x_t, t, degraded = inputs(23, 29)
    with torch.inference_mode():
        tiled(pointwise, tile=11)(x_t, t, degraded)
    x_t.requires_grad_()
    tiled(pointwise, tile=11)(x_t, t, degraded).sum().backward()
    expected = torch.tensor([1.0, 2.0, -1.0])[:, None, None].expand(3, 23, 29)
    assert (x_t.grad[0] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("overlap", [16, 20])
def test_an_overlap_as_large_as_the_tile_is_refused(overlap):
    with pytest.raises(ValueError, match=f"tile_overlap_px={overlap} .* tile_size_px=16"):
        tiled(pointwise, overlap=overlap)


def test_a_tile_that_the_network_cannot_take_is_refused():
    with pytest.raises(ValueError, match="tile_size_px=20 must be a multiple of 8"):
        tiled(pointwise, tile=20, multiple=8)


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

    subject = TiledPredictor(numbered, TilingConfig(tile_size_px=16, grid="shifted", tiles_per_batch=99), 1)
    pictures = [subject(*inputs(40, 40, batch=1)) for _ in range(8)]
    borders = [tuple(picture[0, 0, 0].diff().nonzero().flatten().tolist()) for picture in pictures]
    assert len(set(borders)) >= 6
    again = TiledPredictor(numbered, TilingConfig(tile_size_px=16, grid="shifted", tiles_per_batch=99), 1)
    assert torch.equal(again(*inputs(40, 40, batch=1)), pictures[0])


def test_a_pointwise_predictor_gives_the_same_values_on_a_shifted_grid():
    given = inputs(45, 61)
    subject = TiledPredictor(pointwise, TilingConfig(tile_size_px=16, grid="shifted", tiles_per_batch=5), 1)
    for _ in range(4):
        assert torch.equal(subject(*given), pointwise(*given))


def test_in_a_box_window_all_tiles_at_a_pixel_count_alike():
    starts, weights = overlapping_cuts(28, 16, 4, "box", CPU)
    assert starts == (0, 12)
    assert torch.equal(weights, torch.tensor([[1.0] * 12 + [0.5] * 4, [0.5] * 4 + [1.0] * 12]))


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        ((512, 512), {"tile_size_px": 64, "tile_overlap_px": 48}, 841 * 64**2),  # WeatherDiffusion's stride of 16
        ((512, 512), {"tile_size_px": 64, "tile_overlap_px": 16}, 121 * 64**2),
        ((480, 720), {"tile_size_px": 256, "tile_overlap_px": 32}, 2 * 4 * 256**2),
        ((816, 1224), {"tile_size_px": 1024, "tile_overlap_px": 32}, 2 * 816 * 628),  # no larger than two need to be
        ((816, 1224), {"tile_size_px": 1024, "tile_overlap_px": 32, "window": "box"}, 2 * 816 * 1024),
        ((512, 512), {"tile_size_px": 128, "tile_overlap_px": 0}, 512**2),
        ((480, 720), {"tile_size_px": 256, "grid": "shifted"}, 2 * 3 * 256**2),
        ((480, 720), {"tile_size_px": 0}, 480 * 720),
    ],
)
def test_the_cost_counts_the_pixels_that_the_network_computes(size, settings, expected):
    config = TilingConfig(**settings, tiles_per_batch=1)
    assert network_pixels(*size, config) == pytest.approx(expected / math.prod(size))
    if config.tile_size_px:
        seen = []
        TiledPredictor(lambda x, t, d: seen.append(x[0].numel()) or x, config, 1)(
            torch.zeros(1, 1, *size), torch.zeros(1), None
        )
        assert sum(seen) == expected


def test_tiles_that_are_made_smaller_still_fit_the_network_and_overlap_enough():
    for length in range(1025, 3000, 7):
        starts, weights = overlapping_cuts(length, 1024, 32, "hann", CPU, multiple=8)
        assert weights.shape[1] % 8 == 0
        assert weights.shape[1] >= 256
        assert max(right - left for left, right in itertools.pairwise(starts)) <= weights.shape[1] - 32


def test_no_more_tiles_are_cut_out_at_a_time_than_a_few_batches():
    most = 0

    def spy(x_t, t, degraded):
        nonlocal most
        most = max(most, x_t.untyped_storage().nbytes())
        return x_t

    tiled(spy, batch=2)(*inputs(400, 40, batch=1))
    assert most <= 12 * 3 * 16 * 16 * 4  # of 100 tiles
