"""Guidance: change each estimate of a sampler towards a label, a score, or a measured image, without training anew.

All images are in [-1, 1]. x_t = signal * clean + noise * epsilon stays as it is, so that a change of the clean image by
d changes epsilon by -d * signal / noise.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore_diff.diffusion.operators import operator_of
from restore_diff.diffusion.prediction import Estimate, implied_epsilon
from restore_diff.diffusion.samplers import Denoiser, Guidance
from restore_diff.diffusion.schedule import Level
from restore_diff.settings import settings
from restore_diff.tensors import Images, Timesteps

# Towards a label or any differentiable score.


@settings
class ClassifierFreeSettings:
    scale: float = Field(default=1.0, ge=0, description="w of Ho and Salimans; 0: the label as it is, without guidance")
    condition: str = Field(default="weather", description="keyword of the network that is left out")


class ClassifierFree:
    """Classifier-free guidance, Ho & Salimans (2022), eq. 6: epsilon = (1 + w) epsilon(label) - w epsilon(no label).

    Two network calls a step. Needs a network that is trained with label dropout (`training.hint_dropout`); without a
    label it changes nothing. Large scales leave [-1, 1]: see DynamicThreshold.
    """

    Settings = ClassifierFreeSettings

    def __init__(self, options: ClassifierFreeSettings):
        self.options = options

    def __call__(self, estimate: Estimate, x_t: Images, level: Level, denoise: Denoiser) -> Estimate:
        if not self.options.scale:
            return estimate
        without = denoise(x_t, **{self.options.condition: None})
        return _with_clean(torch.lerp(without.clean, estimate.clean, 1 + self.options.scale), x_t, level)


Score: TypeAlias = Callable[[Images, Level, Denoiser], Tensor]
"""(x_t, level, denoise) -> (batch,): log-probability, up to a constant, of what is wanted given x_t; differentiable."""


class ScoreGuidance:
    """Guidance along the gradient of a score, Dhariwal & Nichol (2021), alg. 2: epsilon -= scale * noise * gradient.

    A scale of 1 samples from p(x) exp(score) where the score is exact at each level; 0 changes nothing.
    """

    def __init__(self, score: Score, scale: float = 1.0):
        self.score = score
        self.scale = scale

    def __call__(self, estimate: Estimate, x_t: Images, level: Level, denoise: Denoiser) -> Estimate:
        if not self.scale:
            return estimate
        with torch.enable_grad():
            leaf = x_t.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.score(leaf, level, denoise).sum(), leaf)
        return _with_clean(estimate.clean + self.scale * level.noise**2 / level.signal * gradient, x_t, level)


def classifier_score(classifier: Callable[[Images, Timesteps], Tensor], labels: Tensor) -> Score:
    """Score of a classifier of noisy images, (x_t, t) -> logits (batch, classes), for `labels` (batch,), int64."""

    def score(x_t: Images, level: Level, denoise: Denoiser) -> Tensor:
        t = torch.full((len(x_t),), level.t, device=x_t.device)
        return -F.cross_entropy(classifier(x_t, t), labels, reduction="none")

    return score


def semantic_score(features: Callable[[Images], Tensor], reference: Images, spread: float = 1.0) -> Score:
    """Score of an image in [-1, 1] with the features of `reference`: -distance^2 / (2 spread^2), Liu et al. (2023).

    Features are those of the clean estimate (Bansal et al., 2023), so that they need no training on noise.
    """
    wanted = features(reference).detach()

    def score(x_t: Images, level: Level, denoise: Denoiser) -> Tensor:
        distance = (features(denoise(x_t).clean) - wanted).flatten(1)
        return -distance.square().sum(1) / (2 * spread**2)

    return score


# Towards a measured image y = A x + noise, with a linear operator A. The measured image is `denoise.degraded`.


@settings
class ProjectionSettings:
    task: str = Field(description="inpaint, inpaint:MASK, sr:FACTOR, deblur:SIGMA or colorize")
    noise: float = Field(default=0.005, ge=0, description="standard deviation of the noise of y, of values in [0, 1]")


class Projection:
    """Replace what A sees of the estimate by the measured image: DDNM, Wang et al. (2023), eq. 13, for noise 0.

    With noise, singular values that are measured worse than x_t knows them count less: DDRM, Kawar et al. (2022), eq. 8
    with eta_b = 1. No further network call.
    """

    Settings = ProjectionSettings

    def __init__(self, options: ProjectionSettings):
        self.task = options.task
        self.operator = operator_of(options.task)
        self.noise = 2 * options.noise

    def __call__(self, estimate: Estimate, x_t: Images, level: Level, denoise: Denoiser) -> Estimate:
        ratio = level.noise / level.signal / self.noise if self.noise else math.inf
        residual = self.operator.residual(estimate.clean, _measured(denoise))
        return _with_clean(estimate.clean + self.operator.correction(residual, ratio), x_t, level)


@settings
class PosteriorSettings(ProjectionSettings):
    scale: float = Field(default=1.0, ge=0, description="factor of the gradient; 0: none")


class PosteriorSampling:
    """DPS, Chung et al. (2023), eq. 16: guidance along the gradient of log p(y | clean estimate) through the network.

    Its variance is noise^2 + (gain * noise of x_t)^2, Song et al. (2023, pseudo-inverse guidance), eq. 7 and 8: exact
    for Gaussian images of variance 1 and an A with equal singular values. The step is at most as long as the way to an
    image that fits y, because a network's gradient is not reliable in much noise. Two network calls and a gradient.
    """

    Settings = PosteriorSettings

    def __init__(self, options: PosteriorSettings):
        self.task = options.task
        self.operator = operator_of(options.task)
        self.noise = 2 * options.noise
        self.scale = options.scale

    def __call__(self, estimate: Estimate, x_t: Images, level: Level, denoise: Denoiser) -> Estimate:
        if not self.scale:
            return estimate
        variance = self.noise**2 + (self.operator.gain * level.noise) ** 2

        def score(x_t: Images, level: Level, denoise: Denoiser) -> Tensor:
            residual = self.operator.residual(denoise(x_t).clean, _measured(denoise))
            return -residual.flatten(1).square().sum(1) / (2 * variance)

        step = ScoreGuidance(score, self.scale)(estimate, x_t, level, denoise).clean - estimate.clean
        limit = _length(self.operator.residual(estimate.clean, _measured(denoise))) / self.operator.gain
        share = (limit / _length(step).clamp(min=1e-12)).clamp(max=1).view(-1, *[1] * (x_t.ndim - 1))
        return _with_clean(estimate.clean + share * step, x_t, level)


# Bounds, and several at once.


@settings
class DynamicThresholdSettings:
    share: float = Field(default=0.995, gt=0, le=1, description="share of the values that stay below the threshold")


class DynamicThreshold:
    """Dynamic thresholding, Saharia et al. (2022, Imagen), section 2.3: in place of `sampler.clip`, which must be off.

    The threshold is a quantile of the absolute values of each clean image, at least 1; the image is clipped to it and
    divided by it.
    """

    Settings = DynamicThresholdSettings

    def __init__(self, options: DynamicThresholdSettings):
        self.options = options

    def __call__(self, estimate: Estimate, x_t: Images, level: Level, denoise: Denoiser) -> Estimate:
        values = estimate.clean.abs().flatten(1)
        rank = math.ceil(self.options.share * values.shape[1])
        threshold = values.kthvalue(rank, dim=1).values.clamp(min=1).view(-1, *[1] * (x_t.ndim - 1))
        return _with_clean(estimate.clean.clamp(-threshold, threshold) / threshold, x_t, level)


def chain(*parts: Guidance) -> Guidance:
    """Several kinds of guidance, one after the other: chain(ClassifierFree(...), DynamicThreshold(...))."""

    def guide(estimate: Estimate, x_t: Images, level: Level, denoise: Denoiser) -> Estimate:
        for part in parts:
            estimate = part(estimate, x_t, level, denoise)
        return estimate

    return guide


GUIDANCE: dict[str, Callable[..., Guidance]] = {
    "classifier_free": ClassifierFree,
    "projection": Projection,
    "dps": PosteriorSampling,
    "dynamic_threshold": DynamicThreshold,
}
"""Guidance by the name in `sampler.guidance`: an entry is called with its own options, if it declares `Settings`."""


def _with_clean(clean: Images, x_t: Images, level: Level) -> Estimate:
    return Estimate(clean, implied_epsilon(clean, x_t, level.signal, level.noise))


def _length(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def _measured(denoise: Denoiser) -> Images:
    if denoise.degraded is None:
        raise ValueError("guidance by a measured image needs a degraded image, but degraded is None")
    return denoise.degraded
