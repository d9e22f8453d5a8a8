"""Restorer: images of any size are restored in their own size, independent of their batch, tiles and codec."""

import logging

import pytest
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.models.unet import UNet
from restore_diff.restoration import restorer as module
from restore_diff.restoration.restorer import Restorer
from restore_diff.settings import NetworkConfig, SamplerConfig, ScheduleConfig, TilingConfig
from restore_diff.tensors import IDENTITY, Codec, to_model_range, to_unit_range

SIZES = [(1, 1), (1, 500), (7, 7), (33, 65), (100, 100)]
WHOLE = TilingConfig(tile_size_px=0)
TILES = TilingConfig(tile_size_px=16, tile_overlap_px=4, tiles_per_batch=8)
in_tiles_or_whole = pytest.mark.parametrize("tiling", [WHOLE, TILES], ids=["whole", "tiles"])


def sampler(prediction="residual", **changes):
    return DDIMSampler(NoiseSchedule(ScheduleConfig()), prediction, SamplerConfig(**{"num_steps": 2, **changes}))


def restorer(predictor, tiling=WHOLE, multiple=1, precision="float32", codec: Codec = IDENTITY, **sampling):
    return Restorer(predictor, sampler(**sampling), tiling, multiple, "cpu", precision, codec=codec)


def photographs(height, width, batch=1):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def no_residual(x_t, t, degraded):
    return torch.zeros_like(x_t)


def pointwise(x_t, t, degraded):
    """Each pixel alone, from all of its inputs."""
    return 0.3 * x_t.sin() - 0.2 * degraded + t[:, None, None, None] / 5000


@pytest.fixture(scope="module")
def network():
    """Tiny and untrained, but not zero: convolutions use neighbours, attention the whole image."""
    config = NetworkConfig(base_channels=8, channel_multipliers=(1, 2, 2), num_blocks=1, num_groups=4, head_channels=0)
    model = UNet(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            scale = 0.2 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            parameter += "norm" in name and name.endswith("weight")
    return model


@in_tiles_or_whole
@pytest.mark.parametrize("size", SIZES)
def test_any_size_keeps_its_size(network, size, tiling):
    given = photographs(*size)
    found = restorer(network, tiling, network.size_multiple).restore(given, ["a"])
    assert found.shape == given.shape
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1
    assert (found - given).abs().max() > 1e-3


@in_tiles_or_whole
@pytest.mark.parametrize("size", SIZES)
def test_a_residual_of_zero_returns_the_degraded_image(size, tiling):
    given, subject = photographs(*size), restorer(no_residual, tiling, 4)
    levels = (given * 256).round() / 256  # exact in [-1, 1] too
    assert torch.equal(subject.restore(levels, ["a"]), levels)
    assert (subject.restore(given, ["a"]) - given).abs().max() < 1e-7


@in_tiles_or_whole
def test_an_image_gives_the_same_alone_and_in_a_batch_in_any_order(network, tiling):
    given, names = photographs(21, 38, batch=3), ["a", "b", "c"]
    subject = restorer(network, tiling, network.size_multiple, eta=1.0)
    together = subject.restore(given, names, seed=5)
    turned = subject.restore(given.flip(0), names[::-1], seed=5).flip(0)
    alone = torch.cat([subject.restore(given[i : i + 1], [names[i]], seed=5) for i in range(3)])
    assert (together - turned).abs().max() < 1e-5
    assert (together - alone).abs().max() < 1e-5


def test_name_and_seed_determine_the_noise(network):
    given = photographs(16, 16)
    subject = restorer(network, multiple=network.size_multiple, prediction="clean")
    first = subject.restore(given, ["a"], seed=0)
    assert torch.equal(subject.restore(given, ["a"], seed=0), first)
    for name, seed in [("b", 0), ("a", 1)]:
        assert (subject.restore(given, [name], seed) - first).abs().max() > 1e-3


def test_draws_of_noise_are_standard_normal_and_independent():
    draws = []

    class Spy:
        def sample(self, predictor, degraded, noise, callback=None, guidance=None):
            draws.extend(noise(k) for k in range(3))
            return degraded

    Restorer(no_residual, Spy(), WHOLE, 1, "cpu").restore(photographs(64, 64), ["a"])
    for k in range(3):
        assert abs(draws[k].mean()) < 0.05
        assert abs(draws[k].std() - 1) < 0.05
        assert abs((draws[k] * draws[(k + 1) % 3]).mean()) < 0.05


def test_noise_of_a_pixel_does_not_depend_on_padding():
    seen = {}

    def spy(x_t, t, degraded):
        seen.setdefault(x_t.shape, x_t)
        return torch.zeros_like(x_t)

    for multiple in (1, 8):
        restorer(spy, multiple=multiple).restore(photographs(13, 22), ["a"])
    bare, padded = seen[(1, 3, 13, 22)], seen[(1, 3, 16, 24)]
    assert torch.equal(padded[..., :13, :22], bare)
    assert torch.equal(padded[..., 13:, :22], bare.flip(-2)[..., 1:4, :])


@pytest.mark.parametrize("prediction", ["epsilon", "clean", "velocity", "residual"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_tiles_change_nothing_for_a_pointwise_predictor(prediction, eta):
    given = photographs(37, 50, batch=2)
    whole, tiles = (
        restorer(pointwise, tiling, 4, prediction=prediction, eta=eta, num_steps=5).restore(given, ["a", "b"])
        for tiling in (WHOLE, TILES)
    )
    assert (whole - tiles).abs().max() < 1e-4  # epsilon's error grows 157 fold at the first step
    assert whole.std() > 0.01


class Unshuffle:
    """Blocks of 2 x 2 pixels become 12 channels."""

    downscale = 2

    def encode(self, images):
        return to_model_range(pixel_unshuffle(images, 2))

    def decode(self, latents):
        return to_unit_range(pixel_shuffle(latents, 2))


@in_tiles_or_whole
@pytest.mark.parametrize("size", SIZES)
def test_with_a_codec_the_network_works_on_latents(size, tiling, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS_IN_ONE_PIECE", 80 * 80)  # the largest in bands too
    monkeypatch.setattr(module, "PIXELS_PER_BAND", 60 * 100)
    monkeypatch.setattr(module, "BAND_OVERLAP_PX", 16)
    seen = set()

    def spy(x_t, t, degraded):
        assert x_t.shape == degraded.shape
        assert tiling is TILES or not any(side % 4 for side in x_t.shape[-2:])
        seen.add(x_t.shape[1])
        return torch.zeros_like(x_t)

    levels = (photographs(*size) * 256).round() / 256
    found = restorer(spy, tiling, 4, codec=Unshuffle()).restore(levels, ["a"])
    assert (found - levels).abs().max() < 1e-6
    assert seen == {12}


def test_callback_and_guidance_reach_the_sampler_for_each_image():
    steps = []

    def black(estimate, x_t, level, denoise):
        assert not torch.is_inference(x_t)
        return estimate._replace(clean=torch.full_like(estimate.clean, -1.0))

    subject = restorer(no_residual)
    found = subject.restore(photographs(4, 4), ["a"], callback=lambda step, *_: steps.append(step), guidance=black)
    assert torch.equal(found, torch.zeros(1, 3, 4, 4))
    assert steps == [1, 2]
    assert subject.restore(photographs(4, 4), ["a"]).mean() > 0.1 and steps == [1, 2]


def test_the_predictor_gets_the_model_range():
    extremes = {}

    def spy(x_t, t, degraded):
        extremes.update(least=degraded.min().item(), greatest=degraded.max().item())
        return torch.zeros_like(x_t)

    given = torch.tensor([0.0, 1.0]).repeat(1, 3, 4, 2)
    assert torch.equal(restorer(spy).restore(given, ["a"]), given)
    assert extremes == {"least": -1, "greatest": 1}


def test_values_outside_the_range_are_clamped():
    found = restorer(lambda x_t, t, degraded: torch.full_like(x_t, 9.0), clip=False).restore(photographs(4, 4), ["a"])
    assert torch.equal(found, torch.ones(1, 3, 4, 4))


def test_low_precision_applies_to_the_network_and_not_to_the_state(network):
    given = photographs(16, 24)
    exact = restorer(network, multiple=network.size_multiple).restore(given, ["a"])
    dtypes = set()

    def spy(x_t, t, degraded):
        dtypes.add((x_t.dtype, torch.is_autocast_enabled("cpu")))
        return network(x_t, t, degraded)

    found = restorer(spy, multiple=network.size_multiple, precision="bfloat16").restore(given, ["a"])
    assert dtypes == {(torch.float32, True)}
    assert 0 < (found - exact).abs().max() < 0.02


@in_tiles_or_whole
def test_non_finite_values_are_repeated_in_float32_with_a_warning(tiling, caplog):
    def overflows(x_t, t, degraded):
        return pointwise(x_t, t, degraded) + (torch.nan if torch.is_autocast_enabled("cpu") else 0)

    with caplog.at_level(logging.WARNING):
        found = restorer(overflows, tiling, precision="float16").restore(photographs(20, 20), ["night.png"])
    assert torch.equal(found, restorer(pointwise, tiling).restore(photographs(20, 20), ["night.png"]))
    assert "float16 gave non-finite values; again in float32: night.png" in caplog.text


def test_non_finite_values_in_float32_are_an_error():
    with pytest.raises(FloatingPointError, match="not finite: a"):
        restorer(lambda x_t, t, degraded: x_t * torch.nan).restore(photographs(4, 4), ["a"])


def test_the_result_is_an_ordinary_tensor_and_the_input_unchanged():
    given = photographs(6, 6)
    found = restorer(no_residual).restore(given, ["a"])
    assert not found.is_inference()
    found.mul_(0)
    assert torch.equal(given, photographs(6, 6))


@pytest.mark.parametrize(
    ("degraded", "names", "message"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ["a"], "floating point, got .* torch.uint8"),
        (torch.zeros(3, 4, 4), ["a"], r"got \(3, 4, 4\)"),
        (torch.zeros(1, 3, 0, 4), ["a"], r"got \(1, 3, 0, 4\)"),
        (torch.zeros(2, 3, 4, 4), ["a"], "2 images, 1 names"),
    ],
)
def test_malformed_input_is_refused(degraded, names, message):
    with pytest.raises(ValueError, match=message):
        restorer(no_residual).restore(degraded, names)


def test_settings_that_do_not_fit_are_refused_before_any_image():
    with pytest.raises(ValueError, match="float32, bfloat16, float16, got 'half'"):
        restorer(no_residual, precision="half")
    with pytest.raises(ValueError, match="tile_size_px=16 must be a multiple of 32"):
        restorer(no_residual, TILES, multiple=32)
