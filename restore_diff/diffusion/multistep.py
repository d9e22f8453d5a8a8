"""Samplers that remember the estimate of the step before: order 2 at one network call a step.

Both solve the probability flow in lambda = log(signal / noise), from estimates of the clean image, and take their first
and last steps at order 1: there is no step before the first, and the last goes to lambda = infinity.
"""

import math
from itertools import pairwise

import torch

from restore_diff.diffusion.config import Prediction, SamplerConfig
from restore_diff.diffusion.denoiser import Denoiser, NoiseSource
from restore_diff.diffusion.ladder import Level, levels
from restore_diff.diffusion.prediction import Predictor
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.tensors import Images


class DPMSolverSampler:
    """DPM-Solver++(2M), Lu et al. (2022), arXiv 2211.01095, algorithm 2."""

    def __init__(self, schedule: NoiseSchedule, prediction: Prediction, config: SamplerConfig) -> None:
        self.denoise = Denoiser(prediction, config)
        self.levels = levels(schedule, config)

    @torch.inference_mode()
    def sample(self, predictor: Predictor, degraded: Images | None, noise: NoiseSource) -> Images:
        """As `samplers.Sampler.sample`."""
        x_t = self.denoise.start(self.levels[0], degraded, noise)
        before: tuple[Level, Images] | None = None
        for level, following in pairwise(self.levels):
            clean = self.denoise(predictor, x_t, level, degraded).clean
            target = clean
            if before is not None and following.noise > 0:
                target = clean + (clean - before[1]) / (2 * _ratio(before[0], level, following))
            x_t = _towards(target, x_t, level, following)
            before = level, clean
        return x_t


class UniPCSampler:
    """UniPC of order 2 with B(h) = exp(h) - 1, Zhao et al. (2023), arXiv 2302.04867, algorithms 1 and 2.

    Each new estimate also corrects the step that led to it, at no further network call.
    """

    def __init__(self, schedule: NoiseSchedule, prediction: Prediction, config: SamplerConfig) -> None:
        self.denoise = Denoiser(prediction, config)
        self.levels = levels(schedule, config)

    @torch.inference_mode()
    def sample(self, predictor: Predictor, degraded: Images | None, noise: NoiseSource) -> Images:
        """As `samplers.Sampler.sample`."""
        x_t = self.denoise.start(self.levels[0], degraded, noise)
        past: list[tuple[Level, Images]] = []  # the last two levels left behind, and the clean images estimated there
        left = x_t  # x_t at the last of them
        for level, following in pairwise(self.levels):
            clean = self.denoise(predictor, x_t, level, degraded).clean
            if past:
                x_t = _corrected(left, past, level, clean)
            past, left = [*past[-1:], (level, clean)], x_t
            x_t = _predicted(x_t, past, following)
        return x_t


def _predicted(x_t: Images, past: list[tuple[Level, Images]], following: Level) -> Images:
    """UniP: the step from the newest of `past`."""
    level, clean = past[-1]
    if len(past) == 1 or following.noise == 0:
        return _towards(clean, x_t, level, following)
    (level_before, clean_before), shrink = past[0], math.expm1(-_log_snr_gap(level, following))
    change = (clean - clean_before) / _ratio(level_before, level, following)
    return _towards(clean, x_t, level, following) - following.signal * shrink * change / 2


def _corrected(left: Images, past: list[tuple[Level, Images]], level: Level, clean: Images) -> Images:
    """UniC: the step from the newest of `past` to `level`, again, now that the estimate there is known."""
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
    """The exact step if the clean image were `target` all along: DDIM's."""
    kept = following.noise / level.noise
    return kept * x_t + (following.signal - kept * level.signal) * target


def _log_snr_gap(level: Level, following: Level) -> float:
    """h = lambda(following) - lambda(level)."""
    return math.log(following.signal / following.noise * level.noise / level.signal)


def _ratio(before: Level, level: Level, following: Level) -> float:
    """The length of the step before over that of this one, in lambda."""
    return _log_snr_gap(before, level) / _log_snr_gap(level, following)
