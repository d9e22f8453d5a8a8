"""Samplers: from noise to a restored image, with any predictor."""

import math
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch

from restore_diff.diffusion.config import Prediction, SamplerConfig
from restore_diff.diffusion.denoiser import Denoiser, NoiseSource
from restore_diff.diffusion.ladder import Level, levels
from restore_diff.diffusion.multistep import DPMSolverSampler, UniPCSampler
from restore_diff.diffusion.prediction import Predictor
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.tensors import Images


class Sampler(Protocol):
    """Made as SAMPLERS[config.name](schedule, prediction, config); ValueError when the ladder does not exist."""

    def sample(self, predictor: Predictor, degraded: Images | None, noise: NoiseSource) -> Images:
        """Restore a batch: `degraded` in [-1, 1] -> clean, within [-1, 1] when clipped, about that otherwise.

        The state is float32, or float64 as the noise is, whatever the dtype of the predictor's output. Draw 0 is asked
        for at the start and draw k at step k, counted from 1, but only where eta adds noise. The result is an inference
        tensor: copy it before changing it in place. Errors: as `estimate`.
        """
        ...


class DDIMSampler:
    """DDIM, Song et al. (2021), eq. 12 and 16: deterministic at eta 0, ancestral DDPM at eta 1.

    Each step goes to the next entry of the ladder, and the last one to "no noise left", where x_t is the clean image.
    """

    def __init__(self, schedule: NoiseSchedule, prediction: Prediction, config: SamplerConfig) -> None:
        self.denoise = Denoiser(prediction, config)
        self.steps = [_step(*pair, config.eta) for pair in pairwise(levels(schedule, config))]

    @torch.inference_mode()
    def sample(self, predictor: Predictor, degraded: Images | None, noise: NoiseSource) -> Images:
        """As `Sampler.sample`."""
        x_t = self.denoise.start(self.steps[0].level, degraded, noise)
        for draw, step in enumerate(self.steps, start=1):
            clean, epsilon = self.denoise(predictor, x_t, step.level, degraded)
            x_t = (step.next_signal * clean).add_(epsilon, alpha=step.next_noise)  # in place: images may be very large
            if step.fresh_noise > 0:
                x_t = x_t + step.fresh_noise * noise(draw).to(x_t.dtype)
        return x_t


class HeunSampler:
    """Heun's method on the probability flow, Karras et al. (2022), alg. 1 without churn: order 2, in sigma.

    Two network calls a step, but one at the last: 2 * num_steps - 1 in all.
    """

    def __init__(self, schedule: NoiseSchedule, prediction: Prediction, config: SamplerConfig) -> None:
        self.denoise = Denoiser(prediction, config)
        self.levels = levels(schedule, config)

    @torch.inference_mode()
    def sample(self, predictor: Predictor, degraded: Images | None, noise: NoiseSource) -> Images:
        """As `Sampler.sample`."""
        x_t = self.denoise.start(self.levels[0], degraded, noise)
        for level, following in pairwise(self.levels):
            clean, epsilon = self.denoise(predictor, x_t, level, degraded)
            euler = following.signal * clean + following.noise * epsilon
            if following.noise > 0:
                later = self.denoise(predictor, euler, following, degraded).epsilon
                slope = following.noise / following.signal - level.noise / level.signal
                euler = following.signal * (x_t / level.signal + slope * (epsilon + later) / 2)
            x_t = euler
        return x_t


SAMPLERS = {"ddim": DDIMSampler, "dpm++2m": DPMSolverSampler, "unipc": UniPCSampler, "heun": HeunSampler}


class _Step(NamedTuple):
    """What the estimates at `level` become: next_signal * clean + next_noise * epsilon + fresh_noise * draw."""

    level: Level
    next_signal: float
    next_noise: float
    fresh_noise: float


def _step(level: Level, following: Level, eta: float) -> _Step:
    alpha_bar, next_alpha_bar = level.signal**2, following.signal**2
    fresh_variance = eta**2 * following.noise**2 / level.noise**2 * (1 - alpha_bar / next_alpha_bar)
    return _Step(
        level=level,
        next_signal=following.signal,
        next_noise=math.sqrt(max(following.noise**2 - fresh_variance, 0.0)),  # below 0 by rounding only
        fresh_noise=math.sqrt(fresh_variance),
    )
