"""Guidance of one's own: pull the mean colour of each estimate towards a target, by gradient through the network."""

import torch
from pydantic import Field

from restore_diff import GUIDANCE
from restore_diff.diffusion.prediction import Estimate, implied_epsilon
from restore_diff.settings import settings


@settings
class BrightnessSettings:
    target: float = Field(default=0.0, description="mean of the clean image, in [-1, 1]")
    scale: float = Field(default=1.0, ge=0, description="step along the gradient")


class Brightness:
    Settings = BrightnessSettings

    def __init__(self, options: BrightnessSettings):
        self.options = options

    def __call__(self, estimate, x_t, level, denoise):
        with torch.enable_grad():
            leaf = x_t.detach().requires_grad_()
            distance = (denoise(leaf).clean.mean(dim=(1, 2, 3)) - self.options.target).square().sum()
            (gradient,) = torch.autograd.grad(distance, leaf)
        pixels = x_t[0].numel()
        clean = estimate.clean - self.options.scale * pixels / 2 * gradient
        return Estimate(clean, implied_epsilon(clean, x_t, level.signal, level.noise))


GUIDANCE["brightness"] = Brightness
