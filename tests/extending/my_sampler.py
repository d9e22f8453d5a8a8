"""A sampler of one's own: Euler's method in sigma, twenty lines."""

from itertools import pairwise

import torch

from restore_diff import SAMPLERS
from restore_diff.diffusion.samplers import Denoiser
from restore_diff.diffusion.schedule import levels


class Euler:
    def __init__(self, schedule, prediction, config):
        self.denoise = Denoiser(prediction, config)
        self.levels = levels(schedule, config)

    @torch.no_grad()
    def sample(self, predictor, degraded, noise, callback=None, guidance=None):
        x_t = self.denoise.start(self.levels[0], degraded, noise)
        for step, (level, following) in enumerate(pairwise(self.levels), start=1):
            found = self.denoise(predictor, x_t, level, degraded, guidance)
            if callback is not None:
                callback(step, x_t, found)
            x_t = following.signal * found.clean + following.noise * found.epsilon
        return x_t


SAMPLERS["euler"] = Euler
