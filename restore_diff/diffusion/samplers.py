"""Samplers: from noise to a restored image, with any predictor."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch

from restore_diff.diffusion.config import Prediction, SamplerConfig, Spacing
from restore_diff.diffusion.prediction import Predictor, estimate, implied_epsilon
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.tensors import Images

NoiseSource: TypeAlias = Callable[[int], Images]
"""Draw k -> standard normal noise in the sampled shape, on the device to sample on. Draw 0 is x_T."""


class DDIMSampler:
    """DDIM, Song et al. (2021), eq. 12 and 16: deterministic at eta 0, ancestral DDPM at eta 1.

    Each step goes to the next entry of the ladder, and the last one to "no noise left", where x_t is the clean image.
    """

    def __init__(self, schedule: NoiseSchedule, prediction: Prediction, config: SamplerConfig) -> None:
        """ValueError when the schedule has too few timesteps for num_steps."""
        self.prediction: Prediction = prediction
        self.clip = config.clip
        ladder = timestep_ladder(config.spacing, config.num_steps, schedule.num_timesteps)
        levels = [*schedule.alpha_bar[ladder].tolist(), 1.0]
        self.steps = [_step(t, *pair, config.eta) for t, pair in zip(ladder, pairwise(levels), strict=True)]

    @torch.inference_mode()
    def sample(self, predictor: Predictor, degraded: Images | None, noise: NoiseSource) -> Images:
        """Restore a batch: `degraded` in [-1, 1] -> clean, within [-1, 1] when clipped, about that otherwise.

        The state is float32, or float64 as the noise is, whatever the dtype of the predictor's output. Draw 0 is asked
        for at the start and draw k at step k, counted from 1, but only where eta adds noise. The result is an inference
        tensor: copy it before changing it in place. Errors: as `estimate`.
        """
        x_t = noise(0)
        x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        for draw, step in enumerate(self.steps, start=1):
            t = torch.full((len(x_t),), step.t, device=x_t.device)
            output = predictor(x_t, t, degraded)
            clean, epsilon = estimate(self.prediction, output, x_t, step.signal, step.noise, degraded)
            if self.clip:
                clean = clean.clamp(-1, 1)
                epsilon = implied_epsilon(clean, x_t, step.signal, step.noise)
            x_t = step.next_signal * clean + step.next_noise * epsilon
            if step.fresh_noise > 0:
                x_t = x_t + step.fresh_noise * noise(draw).to(x_t.dtype)
        return x_t


SAMPLERS = {"ddim": DDIMSampler}


def timestep_ladder(spacing: Spacing, num_steps: int, num_timesteps: int) -> list[int]:
    """The num_steps different timesteps that a sampler visits, from noisy to clean; Lin et al. (2023), table 2.

    Trailing starts at the last timestep, leading ends at 0 (as WeatherDiffusion's does), linspace does both.
    ValueError when num_steps is more than num_timesteps or less than 1, for linspace 2.
    """
    least = 2 if spacing == "linspace" else 1
    if not least <= num_steps <= num_timesteps:
        raise ValueError(
            f"num_steps of {spacing} spacing must be between {least} and num_timesteps={num_timesteps}, got {num_steps}"
        )
    match spacing:
        case "trailing":
            return [round(num_timesteps * left / num_steps) - 1 for left in range(num_steps, 0, -1)]
        case "leading":
            return [num_timesteps // num_steps * left for left in reversed(range(num_steps))]
        case "linspace":
            return [round((num_timesteps - 1) * left / (num_steps - 1)) for left in reversed(range(num_steps))]


class _Step(NamedTuple):
    """signal * clean + noise * epsilon becomes next_signal * clean + next_noise * epsilon + fresh_noise * draw."""

    t: int
    signal: float
    noise: float
    next_signal: float
    next_noise: float
    fresh_noise: float


def _step(t: int, alpha_bar: float, next_alpha_bar: float, eta: float) -> _Step:
    fresh_variance = eta**2 * (1 - next_alpha_bar) / (1 - alpha_bar) * (1 - alpha_bar / next_alpha_bar)
    return _Step(
        t=t,
        signal=math.sqrt(alpha_bar),
        noise=math.sqrt(1 - alpha_bar),
        next_signal=math.sqrt(next_alpha_bar),
        next_noise=math.sqrt(max(1 - next_alpha_bar - fresh_variance, 0.0)),  # below 0 by rounding only
        fresh_noise=math.sqrt(fresh_variance),
    )
