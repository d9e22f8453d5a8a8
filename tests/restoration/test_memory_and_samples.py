"""Restorer: smaller tiles when memory runs out, mean and standard deviation of samples, noise, bands."""

import logging

import pytest
import torch

from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.restoration import restorer as module
from restore_diff.restoration.restorer import ONE_SAMPLE, Noise, Restorer, Samples, halved, tiles_per_batch
from restore_diff.settings import SamplerConfig, ScheduleConfig, TilingConfig

WHOLE = TilingConfig(tile_size_px=0)


def restorer(predictor, tiling=WHOLE, samples=ONE_SAMPLE, prediction="clean"):
    sampler = DDIMSampler(NoiseSchedule(ScheduleConfig()), prediction, SamplerConfig(num_steps=3, clip=False))
    return Restorer(predictor, sampler, tiling, 4, "cpu", samples=samples)


def photograph(height=200, width=260):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(2))


def blurred(x_t, t, degraded):
    """Uses neighbouring pixels, so that tiles of another size give another result."""
    return torch.nn.functional.avg_pool2d(0.5 * x_t + 0.4 * degraded, 5, stride=1, padding=2)


class Limited:
    """Out of memory for more than `most` pixels at a time."""

    def __init__(self, most: int, error: Exception):
        self.most, self.error, self.num_calls = most, error, 0

    def __call__(self, x_t, t, degraded):
        self.num_calls += 1
        if x_t[:, 0].numel() > self.most:
            raise self.error
        return blurred(x_t, t, degraded)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["gpu", "cpu"],
)
def test_out_of_memory_repeats_the_image_in_smaller_tiles_with_a_warning(error, caplog):
    with caplog.at_level(logging.WARNING):
        found = restorer(Limited(66 * 66, error)).restore(photograph(), ["big.png"])
    direct = restorer(blurred, TilingConfig(tile_size_px=64, tile_overlap_px=4, tiles_per_batch=1))
    assert "out of memory; again in tiles of 64 px: big.png" in caplog.text
    assert (found - direct.restore(photograph(), ["big.png"])).abs().max() < 0.05  # the overlap is another

    limited = Limited(64 * 64, error)
    tiles = TilingConfig(tile_size_px=128, tile_overlap_px=16, tiles_per_batch=1)
    exactly = restorer(blurred, TilingConfig(tile_size_px=64, tile_overlap_px=16, tiles_per_batch=1))
    assert torch.equal(restorer(limited, tiles).restore(photograph(), ["a"]), exactly.restore(photograph(), ["a"]))


def test_a_failed_attempt_does_not_affect_the_result():
    calls = 0

    def fails_late(x_t, t, degraded):
        nonlocal calls
        calls += 1
        if x_t.shape[-1] == 128 and calls == 11:  # the second step's last tiles but one
            raise torch.OutOfMemoryError("CUDA out of memory")
        return blurred(x_t, t, degraded)

    tiles = TilingConfig(tile_size_px=128, tile_overlap_px=16, tiles_per_batch=1)
    exactly = restorer(blurred, TilingConfig(tile_size_px=64, tile_overlap_px=16, tiles_per_batch=1))
    found = restorer(fails_late, tiles).restore(photograph(), ["a"])
    assert calls > 11
    assert torch.equal(found, exactly.restore(photograph(), ["a"]))


def test_the_next_image_is_tried_with_the_original_tiles():
    limited = Limited(128 * 128, torch.OutOfMemoryError("CUDA out of memory"))
    subject = restorer(limited, WHOLE)
    subject.restore(photograph(), ["a"])
    before = limited.num_calls
    subject.restore(photograph(40, 400), ["b"])
    assert limited.num_calls - before == 3  # whole: three steps


def test_errors_are_raised_when_no_tile_fits_and_for_other_reasons():
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("shapes do not match")):
        with pytest.raises(type(error), match=str(error)):
            restorer(Limited(10, error)).restore(photograph(), ["a"])


def test_halved_tiles_fit_the_network_down_to_64_px():
    tiling, sizes = TilingConfig(tile_size_px=1000, tile_overlap_px=100), []
    while (smaller := halved(tiling, (3000, 2000), 8)) is not None:
        assert smaller.tile_size_px % 8 == 0
        assert smaller.tile_overlap_px < smaller.tile_size_px
        sizes.append(smaller.tile_size_px)
        tiling = smaller
    assert sizes == [496, 248, 120]
    assert halved(WHOLE, (3000, 2000), 8).tile_size_px == 1496
    assert halved(WHOLE, (100, 100), 8) is None


def test_on_a_cpu_batches_stay_small():
    numbers = [tiles_per_batch(blurred, torch.device("cpu"), 3, side, side) for side in (64, 128, 256, 512)]
    assert numbers == [16, 4, 1, 1]


def test_mean_and_spread_are_those_of_single_samples():
    def noisy(x_t, t, degraded):
        return 0.5 * degraded + 0.2 * x_t

    given = photograph(24, 20) * 0.5 + 0.25
    singles = torch.cat([restorer(noisy).restore(given, ["a"], seed) for seed in range(3, 8)])
    mean, spread = restorer(noisy, samples=Samples(5)).restore_with_spread(given, ["a"], seed=3)
    torch.testing.assert_close(mean, singles.mean(0, keepdim=True), rtol=0, atol=1e-6)
    torch.testing.assert_close(spread, singles.std(0, keepdim=True), rtol=0, atol=1e-6)
    assert spread.mean() > 0.01


def test_every_other_sample_is_made_from_the_mirrored_image():
    def leaning(x_t, t, degraded):
        return 0.5 * degraded + 0.3 * degraded.roll(1, dims=-1)

    given = photograph(24, 20)
    alone = restorer(leaning).restore(given, ["a"])
    mirrored = restorer(leaning).restore(given.flip(-1), ["a"]).flip(-1)
    found = restorer(leaning, samples=Samples(2, mirror=True)).restore(given, ["a"])
    torch.testing.assert_close(found, (alone + mirrored) / 2, rtol=0, atol=1e-6)
    assert (alone - mirrored).abs().max() > 0.05


def test_one_sample_has_no_spread():
    given = photograph(8, 8)
    assert torch.equal(restorer(blurred).restore_with_spread(given, ["a"]).spread, torch.zeros_like(given))


def test_noise_is_standard_normal_and_the_same_in_parts(monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", 16)
    whole = Noise((3, 50, 40), ["a", "b"], seed=1, rows=(0, 50))(2)
    assert abs(whole.mean()) < 0.05
    assert abs(whole.std() - 1) < 0.05
    for first, end in [(0, 50), (0, 10), (15, 17), (16, 32), (33, 50)]:
        part = Noise((3, 50, 40), ["a", "b"], seed=1, rows=(first, end))(2)
        assert torch.equal(part, whole[..., first:end, :])
    blocks = whole[0, :, :48].reshape(3, 3, 16, 40)
    assert abs((blocks[:, 0] * blocks[:, 1]).mean()) < 0.1  # blocks are independent


@pytest.fixture
def small_bands(monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS_IN_ONE_PIECE", 64 * 50)
    monkeypatch.setattr(module, "PIXELS_PER_BAND", 48 * 50)
    monkeypatch.setattr(module, "BAND_OVERLAP_PX", 16)


def test_bands_cover_a_large_image_and_leave_a_small_one_whole(small_bands):
    assert module.bands(64, 50).starts == (0,)
    starts, weights = module.bands(200, 50)
    assert weights.shape[1] == 48
    covered = torch.zeros(200)
    for start, weight in zip(starts, weights, strict=True):
        covered[start : start + 48] += weight
    torch.testing.assert_close(covered, torch.ones(200))
    assert module.bands(200, 4000).weights.shape[1] == 32  # a band is never lower than two overlaps


def test_in_bands_every_pixel_has_the_same_noise_as_in_the_whole(small_bands, monkeypatch):
    def pointwise(x_t, t, degraded):
        return 0.3 * x_t.sin() - 0.2 * degraded

    given = photograph(200, 50)
    in_bands = restorer(pointwise).restore(given, ["a"])
    monkeypatch.setattr(module, "MAX_PIXELS_IN_ONE_PIECE", 10**9)
    assert (in_bands - restorer(pointwise).restore(given, ["a"])).abs().max() < 1e-5


def test_bands_keep_to_their_size_and_blend_at_their_borders(small_bands, monkeypatch):
    sizes = []

    def spy(x_t, t, degraded):
        sizes.append(x_t[0, 0].numel())
        return blurred(x_t, t, degraded)

    in_bands = restorer(spy).restore(photograph(200, 50), ["a"])
    assert max(sizes) <= 48 * 52  # padded to a multiple of 4
    monkeypatch.setattr(module, "MAX_PIXELS_IN_ONE_PIECE", 10**9)
    assert (in_bands - restorer(blurred).restore(photograph(200, 50), ["a"])).abs().max() < 0.02
