"""What all samplers share: where they start, and how they read a network's output on the way."""

from collections.abc import Callable
from typing import TypeAlias

import torch

from restore_diff.diffusion.config import Prediction, SamplerConfig
from restore_diff.diffusion.ladder import Level
from restore_diff.diffusion.prediction import Estimate, Predictor, estimate, implied_epsilon
from restore_diff.tensors import Images

NoiseSource: TypeAlias = Callable[[int], Images]
"""Draw k -> standard normal noise in the sampled shape, on the device to sample on. Draw 0 is of the start."""


class Denoiser:
    """Turns (x_t, level) into estimates of the clean image and of the noise."""

    def __init__(self, prediction: Prediction, config: SamplerConfig):
        self.prediction: Prediction = prediction
        self.clip = config.clip
        self.starts_from_degraded = config.start_t > 0

    def start(self, level: Level, degraded: Images | None, noise: NoiseSource) -> Images:
        """x_t at the first level: noise alone, or the degraded image noised to it (Meng et al., 2022, SDEdit).

        float32, or float64 as the noise is. ValueError when the degraded image is to be the start and there is none.
        """
        x_t = noise(0)
        x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        if not self.starts_from_degraded:
            return x_t
        if degraded is None:
            raise ValueError("start_t starts from the degraded image, but degraded is None")
        return level.signal * degraded.to(x_t.dtype) + level.noise * x_t

    def __call__(self, predictor: Predictor, x_t: Images, level: Level, degraded: Images | None) -> Estimate:
        """Ask the network once. A clipped clean image is in [-1, 1], and the noise is what it then implies."""
        t = torch.full((len(x_t),), level.t, device=x_t.device)
        levels = level.signal, level.noise
        # Neither the output nor an epsilon before clipping gets a name that keeps it: each is as large as the image.
        if not self.clip:
            return estimate(self.prediction, predictor(x_t, t, degraded), x_t, *levels, degraded)
        clean = estimate(self.prediction, predictor(x_t, t, degraded), x_t, *levels, degraded).clean.clamp(-1, 1)
        return Estimate(clean, implied_epsilon(clean, x_t, *levels))
