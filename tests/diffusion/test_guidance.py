"""Guided samples of Gaussian images have the mean and variance that mathematics gives them."""

import math

import pytest
import torch
import torch.nn.functional as F

from restore_diff.diffusion.guidance import (
    GUIDANCE,
    ClassifierFree,
    ClassifierFreeSettings,
    DynamicThreshold,
    DynamicThresholdSettings,
    PosteriorSampling,
    PosteriorSettings,
    Projection,
    ProjectionSettings,
    ScoreGuidance,
    chain,
    classifier_score,
    semantic_score,
)
from restore_diff.diffusion.operators import operator_of
from restore_diff.diffusion.prediction import Estimate
from restore_diff.diffusion.samplers import SAMPLERS, Denoiser
from restore_diff.diffusion.schedule import Level, NoiseSchedule
from restore_diff.registry import make
from restore_diff.restoration.tiling import TiledPredictor
from restore_diff.settings import SamplerConfig, ScheduleConfig, TilingConfig

SCHEDULE = NoiseSchedule(ScheduleConfig())
MEAN, SPREAD = 0.2, 0.5
LABELLED = -0.4  # mean of the images with the label
LEVEL = Level(t=499, signal=0.6, noise=0.8)
TASKS = ["inpaint", "sr:2", "sr:3", "deblur:0.8", "colorize"]


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Gaussian:
    """The ideal network for independent pixels from N(mean, spread^2); with `weather`, from N(LABELLED, spread^2)."""

    def __init__(self, mean=MEAN, spread=SPREAD):
        self.mean, self.spread = mean, spread

    def __call__(self, x_t, t, degraded, weather=None):
        mean = self.mean if weather is None else LABELLED
        signal, noise = SCHEDULE.signal(t, x_t), SCHEDULE.noise(t, x_t)
        gain = signal * self.spread**2 / (signal**2 * self.spread**2 + noise**2)
        return mean + gain * (x_t - signal * mean)


def sample(guidance, predictor, x_T, degraded=None, name="ddim", num_steps=1000, clip=False):
    sampler = SAMPLERS[name](SCHEDULE, "clean", SamplerConfig(name=name, num_steps=num_steps, clip=clip))
    return sampler.sample(predictor, degraded, lambda draw: x_T, guidance=guidance)


def assert_gaussian(found, x_T, mean, spread):
    """The flow from N(0, 1) to N(mean, spread^2) is affine: the samples tell both."""
    slope = (found - found.mean()).mul(x_T - x_T.mean()).sum() / (x_T - x_T.mean()).square().sum()
    assert slope.item() == pytest.approx(spread, abs=0.01)
    assert (found - slope * x_T).mean().item() == pytest.approx(mean, abs=0.01)


def labelled(x_t, t, degraded, weather="rain"):
    return Gaussian()(x_t, t, degraded, weather)


def example(task, batch=2, side=6):
    """Clean images, and the measured image of others."""
    clean, other = draws(batch, 3, side, side), draws(batch, 3, side, side, seed=1)
    if task == "inpaint":
        return clean, other.masked_fill(draws(batch, 1, side, side, seed=2) > 0, torch.nan)
    if task.startswith("sr"):
        factor = int(task[3:])
        squares = F.avg_pool2d(other, factor)
        return clean, squares.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    if task == "colorize":
        return clean, other[:, :1].repeat(1, 3, 1, 1)
    return clean, -operator_of(task).residual(other, torch.zeros_like(other))  # blurred


def denoise_at(level, predictor, degraded):
    return Denoiser(predictor, "clean", False, level, degraded)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_classifier_free_guidance_moves_the_mean_by_its_scale(scale):
    x_T = draws(1, 1, 4, 8)
    found = sample(ClassifierFree(ClassifierFreeSettings(scale=scale)), labelled, x_T)
    assert_gaussian(found, x_T, LABELLED + scale * (LABELLED - MEAN), SPREAD)


@pytest.mark.parametrize("width", [0.2, 0.6])
def test_a_gaussian_classifier_gives_the_posterior(width):
    """p(c | x_0) = N(c; x_0, width^2), so that p(c | x_t) is Gaussian too."""
    wanted = 0.9

    def score(x_t, level, denoise):
        return -(denoise(x_t).clean - wanted).square().flatten(1).sum(1) / (2 * variance(level) + 2 * width**2)

    def variance(level):  # of x_0 given x_t
        return (level.noise * SPREAD) ** 2 / ((level.signal * SPREAD) ** 2 + level.noise**2)

    x_T = draws(1, 1, 4, 8)
    found = sample(ScoreGuidance(score), Gaussian(), x_T)
    precision = 1 / SPREAD**2 + 1 / width**2
    assert_gaussian(found, x_T, (MEAN / SPREAD**2 + wanted / width**2) / precision, precision**-0.5)


def test_a_score_moves_epsilon_by_its_gradient_times_scale_and_noise():
    x_t, clean = draws(2, 3, 4, 4), draws(2, 3, 4, 4, seed=1)
    estimate = Estimate(clean, (x_t - LEVEL.signal * clean) / LEVEL.noise)
    weights = draws(3, 4, 4, seed=2)
    guide = ScoreGuidance(lambda x, level, denoise: (x * weights).flatten(1).sum(1), scale=0.7)
    found = guide(estimate, x_t, LEVEL, denoise_at(LEVEL, Gaussian(), None))
    torch.testing.assert_close(found.epsilon, estimate.epsilon - 0.7 * LEVEL.noise * weights.expand(2, -1, -1, -1))
    torch.testing.assert_close(LEVEL.signal * found.clean + LEVEL.noise * found.epsilon, x_t)


def test_the_score_of_a_classifier_is_the_log_probability_of_the_label():
    x_t, weights = draws(2, 3, 2, 2), draws(12, 4, seed=1)
    seen = []

    def classifier(x_t, t):
        seen.append(t.tolist())
        return x_t.flatten(1) @ weights

    found = classifier_score(classifier, torch.tensor([3, 1]))(x_t, LEVEL, denoise_at(LEVEL, Gaussian(), None))
    probabilities = torch.softmax(x_t.flatten(1) @ weights, 1)
    torch.testing.assert_close(found, probabilities[[0, 1], [3, 1]].log())
    assert seen == [[499, 499]]


def test_semantic_guidance_brings_features_of_the_estimate_to_those_of_a_reference():
    """One feature, the mean colour: the others of an image's degrees of freedom stay as without guidance."""
    x_T, reference = draws(2, 3, 4, 4), torch.full((1, 3, 4, 4), 0.8, dtype=torch.float64)
    guide = ScoreGuidance(semantic_score(lambda images: images.mean((2, 3)), reference, spread=0.01))
    found, plain = (sample(guidance, Gaussian(), x_T, num_steps=200) for guidance in (guide, None))
    assert (plain.mean((2, 3)) - 0.8).abs().max() > 0.3
    assert (found.mean((2, 3)) - 0.8).abs().max() < 0.05
    without_mean = [images - images.mean((2, 3), keepdim=True) for images in (found, plain)]
    torch.testing.assert_close(*without_mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["inpaint", "sr:2"])
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_dps_samples_the_posterior_of_gaussian_images(task, noise):
    """Images of variance 1: what A measures has the posterior of Gauss, the rest stays N(mean, 1)."""
    x_T = draws(4, 3, 8, 8)
    if task == "inpaint":
        degraded, gain = torch.full_like(x_T, 0.7), 1.0
        degraded[..., 4:] = torch.nan
    else:
        degraded, gain = torch.full_like(x_T, 0.7), 0.5
    options = PosteriorSettings(task=task, noise=noise / 2)
    found = sample(PosteriorSampling(options), Gaussian(spread=1.0), x_T, degraded)
    precision = 1 + (gain / noise) ** 2
    mean = (MEAN + gain**2 / noise**2 * 0.7) / precision  # of the measured pixels, or of the squares
    if task == "inpaint":
        assert_gaussian(found[..., :4], x_T[..., :4], mean, precision**-0.5)
        assert_gaussian(found[..., 4:], x_T[..., 4:], MEAN, 1.0)
    else:
        means, means_T = F.avg_pool2d(found, 2), F.avg_pool2d(x_T, 2)
        assert_gaussian(means, means_T, mean, precision**-0.5)
        inside, inside_T = (i - F.interpolate(m, scale_factor=2) for i, m in ((found, means), (x_T, means_T)))
        assert_gaussian(inside, inside_T, 0.0, 1.0)


@pytest.mark.parametrize(
    ("task", "name"), [*((task, "ddim") for task in TASKS), *(("sr:2", name) for name in SAMPLERS)]
)
def test_a_projected_sample_agrees_with_the_measured_image(task, name):
    x_T, degraded = example(task)
    guide = Projection(ProjectionSettings(task=task, noise=0))
    found = sample(guide, Gaussian(), x_T, degraded, name, num_steps=20)
    assert operator_of(task).residual(found, degraded).abs().max() < (1e-2 if task.startswith("deblur") else 1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_a_projection_changes_only_what_is_measured(task):
    operator = operator_of(task)
    clean, degraded = example(task)
    correction = operator.correction(operator.residual(clean, degraded), math.inf)
    again = operator.correction(operator.residual(clean + correction, degraded), math.inf)
    assert again.abs().max() < 1e-9
    assert correction.abs().max() > 0.1
    if task == "inpaint":
        assert torch.equal(correction[degraded.isnan()], torch.zeros(int(degraded.isnan().sum()), dtype=torch.float64))
    if task == "colorize":
        torch.testing.assert_close(correction[:, :1].expand(-1, 3, -1, -1), correction)
    if task.startswith("sr"):
        factor = int(task[3:])
        torch.testing.assert_close(correction, F.interpolate(F.avg_pool2d(correction, factor), scale_factor=factor))


@pytest.mark.parametrize("task", TASKS)
def test_a_noisy_measurement_counts_as_little_as_ddrm_says(task):
    """By singular value s: the whole pseudo-inverse where noise / s is below the noise of x_t, else its share."""
    operator = operator_of(task)
    clean, degraded = example(task)
    residual = operator.residual(clean, degraded)
    exact = operator.correction(residual, math.inf)
    gain = operator.gain if task.startswith("sr") else 1.0
    if task.startswith("deblur"):
        torch.testing.assert_close(operator.correction(residual, 0.5), 0.5 * residual)  # 1 / s is above 0.5 throughout
    else:
        torch.testing.assert_close(operator.correction(residual, 0.25 / gain), 0.25 * exact)
        torch.testing.assert_close(operator.correction(residual, 2 / gain), exact)


def test_projection_reads_the_noise_of_the_measured_image_in_unit_range():
    clean, degraded = example("inpaint")
    x_t = draws(2, 3, 6, 6, seed=3)
    level = Level(t=10, signal=1.0, noise=0.1)
    estimate = Estimate(clean, (x_t - clean) / 0.1)
    guide = Projection(ProjectionSettings(task="inpaint", noise=0.1))  # 0.2 in [-1, 1]: twice the noise of x_t
    found = guide(estimate, x_t, level, denoise_at(level, Gaussian(), degraded))
    known = ~degraded.isnan()
    torch.testing.assert_close(found.clean[known], (clean + degraded.nan_to_num())[known] / 2)
    torch.testing.assert_close(found.clean[~known], clean[~known])


@pytest.mark.parametrize("task", ["inpaint", "sr:2", "colorize", "deblur:1.0"])
def test_gain_is_the_largest_singular_value(task):
    operator, side = operator_of(task), 6
    basis = torch.eye(3 * side**2, dtype=torch.float64).view(-1, 3, side, side)
    columns = -operator.residual(basis, torch.zeros_like(basis)).flatten(1)
    assert torch.linalg.svdvals(columns)[0].item() == pytest.approx(operator.gain, rel=1e-9)


def test_deblurring_inverts_a_gaussian_blur():
    operator, image = operator_of("deblur:1.5"), torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    image[..., 15, 15] = 1
    blurred = -operator.residual(image, torch.zeros_like(image))
    distance = torch.arange(31, dtype=torch.float64) - 15
    line = torch.exp(-(distance**2) / (2 * 1.5**2))
    torch.testing.assert_close(blurred[0, 0], line[:, None] * line / line.sum() ** 2, rtol=0, atol=1e-6)
    edge = -operator.residual(torch.ones_like(image), torch.zeros_like(image))
    torch.testing.assert_close(edge, torch.ones_like(edge))  # no dark border


@pytest.mark.parametrize("name", SAMPLERS)
def test_scale_zero_is_bit_equal_to_no_guidance(name):
    x_T, degraded = example("inpaint")
    plain = sample(None, labelled, x_T, degraded, name, num_steps=5, clip=True)
    for guide in (
        ClassifierFree(ClassifierFreeSettings(scale=0)),
        ScoreGuidance(lambda x_t, level, denoise: denoise(x_t).clean.flatten(1).sum(1), scale=0),
        PosteriorSampling(PosteriorSettings(task="inpaint", scale=0)),
        chain(),
    ):
        assert torch.equal(sample(guide, labelled, x_T, degraded, name, num_steps=5, clip=True), plain)


GUIDES = {
    "classifier_free": ClassifierFree(ClassifierFreeSettings(scale=1.5)),
    "score": ScoreGuidance(lambda x_t, level, denoise: -denoise(x_t).clean.square().flatten(1).sum(1)),
    "dps": PosteriorSampling(PosteriorSettings(task="sr:2")),
    "projection": Projection(ProjectionSettings(task="deblur:1.0")),
    "dynamic_threshold": DynamicThreshold(DynamicThresholdSettings(share=0.9)),
}


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
@pytest.mark.parametrize("grid", ["overlapping", "shifted"])
def test_guidance_sees_the_whole_image_through_tiles(guide, grid):
    x_T, degraded = (draws(1, 3, 20, 24, seed=seed).float() for seed in (0, 1))
    tiling = TilingConfig(tile_size_px=8, tile_overlap_px=4, tiles_per_batch=3, grid=grid)
    whole = sample(guide, labelled, x_T, degraded, num_steps=4)
    tiled = sample(guide, TiledPredictor(labelled, tiling, 1), x_T, degraded, num_steps=4)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-3)  # deblurring raises rounding errors
    assert (whole - sample(None, labelled, x_T, degraded, num_steps=4)).abs().max() > 0.01


def test_dynamic_thresholding_divides_by_the_quantile_of_each_image():
    clean = torch.linspace(-2, 2, 401, dtype=torch.float64).repeat(2, 1).view(2, 1, 1, 401)
    clean[1] /= 4
    x_t = draws(2, 1, 1, 401)
    guide = DynamicThreshold(DynamicThresholdSettings(share=0.75))
    found = guide(Estimate(clean, clean), x_t, LEVEL, denoise_at(LEVEL, Gaussian(), None)).clean
    torch.testing.assert_close(found[0], clean[0].clamp(-1.5, 1.5) / 1.5, rtol=0.01, atol=0)
    torch.testing.assert_close(found[1], clean[1])  # never below 1


def test_chained_guidance_applies_its_parts_in_order():
    x_t, clean = draws(1, 3, 4, 4), draws(1, 3, 4, 4, seed=1)
    estimate, denoise = Estimate(clean, clean), denoise_at(LEVEL, labelled, None)
    scale, threshold = ClassifierFree(ClassifierFreeSettings(scale=5)), DynamicThreshold(DynamicThresholdSettings())
    found = chain(scale, threshold)(estimate, x_t, LEVEL, denoise)
    expected = threshold(scale(estimate, x_t, LEVEL, denoise), x_t, LEVEL, denoise)
    assert torch.equal(found.clean, expected.clean)
    assert found.clean.abs().max() <= 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("projection", {"task": "sr:1"}, r"sr:FACTOR: the factor must be a whole number from 2 to 16, got '1'"),
        ("projection", {"task": "sr:2.5"}, r"whole number from 2 to 16, got '2.5'"),
        ("dps", {"task": "deblur:x"}, r"deblur:SIGMA: the standard deviation must be from 0.1 to 50 px, got 'x'"),
        ("projection", {"task": "deblur:nan"}, r"from 0.1 to 50 px, got 'nan'"),
        ("projection", {"task": "colorise"}, r"unknown name 'colorise'; did you mean colorize"),
        ("projection", {"task": "colorize:2"}, r"colorize takes no value, got '2'"),
        ("projection", {}, r"sampler.guidance_options.task"),
        ("classifier_free", {"scale": -1}, r"sampler.guidance_options.scale"),
        ("dynamic_threshold", {"shares": 1}, r"did you mean share"),
    ],
)
def test_mistakes_in_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(GUIDANCE, name, "sampler.guidance", options)


def test_a_measured_image_is_required():
    with pytest.raises(ValueError, match="needs a degraded image"):
        sample(Projection(ProjectionSettings(task="colorize")), Gaussian(), draws(1, 3, 4, 4), num_steps=2)
