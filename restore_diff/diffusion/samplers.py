"""Samplers: from noise to a restored image, with any predictor. They share where they start and how they estimate.

A sampler visits falling noise levels. At each level x_t = signal * clean + noise * epsilon, the network estimates both
parts, and the sampler moves to the following level; the last is the clean image itself, signal 1 and noise 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import torch

from restore_diff.diffusion.prediction import Estimate, Predictor, estimate, implied_epsilon
from restore_diff.diffusion.schedule import Level, NoiseSchedule, levels
from restore_diff.settings import SamplerConfig
from restore_diff.tensors import Images

NoiseSource: TypeAlias = Callable[[int], Images]
"""Draw k -> standard normal noise in the sampled shape, on the device to sample on. Draw 0 is for the start."""

Callback: TypeAlias = Callable[[int, Images, Estimate], None]
"""(step, counted from 1, x_t, the estimate there): called once in each step, before x_t moves on."""


@dataclass(frozen=True)
class Denoiser:
    """The network as an estimator of the clean image and the noise, for one batch at one noise level."""

    predictor: Predictor
    prediction: str
    clip: bool
    level: Level
    degraded: Images | None
    """The degraded image of the sampler, in [-1, 1]."""

    def __call__(self, x_t: Images, **condition: Any) -> Estimate:
        """Estimate by one network call; with gradients inside torch.enable_grad().

        A clipped clean image is in [-1, 1], and epsilon is what it then implies. `condition`: keywords for the network
        instead of its own, e.g. weather=None: without its label. Errors: as `prediction.estimate`.
        """
        t = torch.full((len(x_t),), self.level.t, device=x_t.device)
        levels = self.level.signal, self.level.noise
        # The output gets no name that keeps it: it is as large as the image, as is an epsilon that clipping replaces.
        clean, epsilon = estimate(
            self.prediction, partial(self.predictor, **condition)(x_t, t, self.degraded), x_t, *levels, self.degraded
        )
        if self.clip:
            del epsilon
            clean = clean.clamp(-1, 1)
            epsilon = implied_epsilon(clean, x_t, *levels)
        return Estimate(clean, epsilon)


Guidance: TypeAlias = Callable[[Estimate, Images, Level, Denoiser], Estimate]
"""(estimate, x_t, level, denoise) -> the estimate that the sampler uses instead. `denoise(x)`: a network call."""

EstimateAt: TypeAlias = Callable[[Images, Level], Estimate]
"""(x_t, level) -> the estimate there, clipped and guided."""

Move: TypeAlias = Callable[[int, Level, Level, Images, Estimate], Images]
"""(step, counted from 1, level, following level, x_t, the estimate at level) -> x_t at the following level."""


class LadderSampler:
    """Estimates at each level of the ladder, then moves to the next, the last of which is free of noise.

    A subclass gives the move: DDIM, multistep, Heun, or one of your own. Made as
    SAMPLERS[config.name](schedule, prediction, config[, options]); ValueError when no ladder exists.
    """

    def __init__(self, schedule: NoiseSchedule, prediction: str, config: SamplerConfig) -> None:
        self.prediction = prediction
        self.config = config
        self.levels = levels(schedule, config)

    def solver(self, denoise: EstimateAt, noise: NoiseSource) -> Move:
        """The move of one batch, called once a step; it may keep what it needs of earlier steps."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self,
        predictor: Predictor,
        degraded: Images | None,
        noise: NoiseSource,
        callback: Callback | None = None,
        guidance: Guidance | None = None,
    ) -> Images:
        """Restore a batch: `degraded` in [-1, 1] -> clean, within [-1, 1] when clipped, about that otherwise.

        The state is float32, or float64 as the noise is, whatever the dtype of the predictor's output. Draw 0 is used
        at the start and draw k at step k, counted from 1, but only where eta adds noise. Errors: as
        `prediction.estimate`, and ValueError when start_t is to start from a degraded image and there is none.
        """

        def denoise(x_t: Images, level: Level) -> Estimate:
            denoiser = Denoiser(predictor, self.prediction, self.config.clip, level, degraded)
            found = denoiser(x_t)
            return found if guidance is None else guidance(found, x_t, level, denoiser)

        x_t, move = self._start(degraded, noise(0)), self.solver(denoise, noise)
        for step, (level, following) in enumerate(pairwise(self.levels), start=1):
            found = denoise(x_t, level)
            if callback is not None:
                callback(step, x_t, found)
            x_t = move(step, level, following, x_t, found)
        return x_t

    def _start(self, degraded: Images | None, epsilon: Images) -> Images:
        """x_t at the first level: noise alone, or the degraded image noised to it (Meng et al., 2022, SDEdit)."""
        epsilon = epsilon.to(torch.promote_types(epsilon.dtype, torch.float32))
        if not self.config.start_t:
            return epsilon
        if degraded is None:
            raise ValueError("start_t starts from the degraded image, but degraded is None")
        first = self.levels[0]
        return first.signal * degraded.to(epsilon.dtype) + first.noise * epsilon


Sampler: TypeAlias = LadderSampler
"""Or any class with its `sample`."""


class DDIMSampler(LadderSampler):
    """DDIM, Song et al. (2021), eq. 12 and 16: deterministic at eta 0, ancestral DDPM at eta 1.

    x' = signal' clean + sqrt(noise'^2 - v) epsilon + sqrt(v) fresh noise, where ' is the following level and
    v = eta^2 noise'^2 / noise^2 (1 - signal^2 / signal'^2).
    """

    def solver(self, denoise: EstimateAt, noise: NoiseSource) -> Move:
        """One network call a step, and one draw of noise where eta adds it."""

        def move(step: int, level: Level, following: Level, x_t: Images, found: Estimate) -> Images:
            fresh_variance = self.config.eta**2 * following.noise**2 / level.noise**2
            fresh_variance *= 1 - level.signal**2 / following.signal**2
            along = math.sqrt(max(following.noise**2 - fresh_variance, 0.0))  # below 0 by rounding only
            x_t = (following.signal * found.clean).add_(found.epsilon, alpha=along)  # in place: images may be large
            return x_t + math.sqrt(fresh_variance) * noise(step).to(x_t.dtype) if fresh_variance > 0 else x_t

        return move


class HeunSampler(LadderSampler):
    """Heun's method on the probability flow, Karras et al. (2022), alg. 1 without churn: order 2.

    d (x_t / signal) = epsilon d sigma with sigma = noise / signal: the mean epsilon of both ends of an Euler step makes
    the step. Two network calls a step, but one at the last: 2 * num_steps - 1 in all.
    """

    def solver(self, denoise: EstimateAt, noise: NoiseSource) -> Move:
        """Two network calls a step: `denoise` is the second, at the following level."""

        def move(step: int, level: Level, following: Level, x_t: Images, found: Estimate) -> Images:
            euler = following.signal * found.clean + following.noise * found.epsilon
            if not following.noise > 0:
                return euler
            later = denoise(euler, following).epsilon
            slope = following.noise / following.signal - level.noise / level.signal
            return following.signal * (x_t / level.signal + slope * (found.epsilon + later) / 2)

        return move


# DPM-Solver++ and UniPC remember the estimate of the step before: order 2 at one network call a step. Both solve the
# probability flow in lambda = log(signal / noise), from estimates of the clean image, and take their first and last
# steps at order 1: there is no step before the first, and the last goes to lambda = infinity.


class DPMSolverSampler(LadderSampler):
    """DPM-Solver++(2M), Lu et al. (2022), arXiv 2211.01095, algorithm 2: DDIM's step to clean + (clean - before) / 2r.

    r is the length of the step before over that of this one, in lambda.
    """

    def solver(self, denoise: EstimateAt, noise: NoiseSource) -> Move:
        """One network call a step; keeps the estimate of the step before."""

        past: list[tuple[Level, Images]] = []  # the level before, and the clean image estimated there

        def move(step: int, level: Level, following: Level, x_t: Images, found: Estimate) -> Images:
            target = found.clean
            if past and following.noise > 0:
                before, clean = past[0]
                target = target + (target - clean) / (2 * _ratio(before, level, following))
            past[:] = [(level, found.clean)]
            return _towards(target, x_t, level, following)

        return move


class UniPCSampler(LadderSampler):
    """UniPC of order 2 with B(h) = exp(h) - 1, Zhao et al. (2023), arXiv 2302.04867, algorithms 1 and 2.

    Each new estimate also corrects the step that led to it, at no further network call.
    """

    def solver(self, denoise: EstimateAt, noise: NoiseSource) -> Move:
        """One network call a step; keeps the estimates of two steps, and x_t."""

        past: list[tuple[Level, Images]] = []  # the last two levels left behind, and the clean images estimated there
        left: list[Images] = []  # x_t at the last of them

        def move(step: int, level: Level, following: Level, x_t: Images, found: Estimate) -> Images:
            if past:
                x_t = _corrected(left[0], past, level, found.clean)
            past[:], left[:] = [*past[-1:], (level, found.clean)], [x_t]
            return _predicted(x_t, past, following)

        return move


def _predicted(x_t: Images, past: list[tuple[Level, Images]], following: Level) -> Images:
    """UniP: the step from the newest of `past`, towards its clean image plus half a change, (clean - before) / r."""
    level, clean = past[-1]
    if len(past) == 1 or following.noise == 0:
        return _towards(clean, x_t, level, following)
    (level_before, clean_before), shrink = past[0], math.expm1(-_log_snr_gap(level, following))
    change = (clean - clean_before) / _ratio(level_before, level, following)
    return _towards(clean, x_t, level, following) - following.signal * shrink * change / 2


def _corrected(left: Images, past: list[tuple[Level, Images]], level: Level, clean: Images) -> Images:
    """UniC: the step from the newest of `past` to `level` again, now that the clean image there is known."""
    (start, clean_start), gap = past[-1], -_log_snr_gap(past[-1][0], level)
    shrink = math.expm1(gap)
    base = _towards(clean_start, left, start, level)
    if len(past) == 1:
        return base - level.signal * shrink * (clean - clean_start) / 2
    level_before, clean_before = past[0]
    ratio = -_ratio(level_before, start, level)
    first = (shrink / gap - 1) / shrink
    second = 2 * ((shrink / gap - 1) / gap - 0.5) / shrink
    weight_before = (first - second) / (1 - ratio)
    change = weight_before * (clean_before - clean_start) / ratio + (first - weight_before) * (clean - clean_start)
    return base - level.signal * shrink * change


def _towards(target: Images, x_t: Images, level: Level, following: Level) -> Images:
    """DDIM's step, exact if the clean image were `target` all along: x' = k x_t + (signal' - k signal) target.

    k = noise' / noise, and signal' - k signal = signal' (1 - exp(-h)).
    """
    kept = following.noise / level.noise
    return kept * x_t + (following.signal - kept * level.signal) * target


def _log_snr_gap(level: Level, following: Level) -> float:
    """h = lambda(following) - lambda(level)."""
    return math.log(following.signal / following.noise * level.noise / level.signal)


def _ratio(before: Level, level: Level, following: Level) -> float:
    """The length of the step before over that of this one, in lambda."""
    return _log_snr_gap(before, level) / _log_snr_gap(level, following)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": DDIMSampler,
    "dpm++2m": DPMSolverSampler,
    "unipc": UniPCSampler,
    "heun": HeunSampler,
}
"""Samplers by name."""
