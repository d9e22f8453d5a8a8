"""Looking at an image to see what weather it shows, before it is restored."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.diffusion.prediction import Predictor
from restore_diff.labels import decided
from restore_diff.randomness import generator
from restore_diff.restoration.tiling import pad_to
from restore_diff.tensors import Images, Timesteps, to_model_range

WINDOW_PX = 320
MOST_WINDOWS = 3
"""Along each axis. Weather is seen everywhere: of a large image a few windows tell enough."""
SUREST = 4.0
"""The largest logit that a window may give, 98 %: or one that is wrong and quite sure would outvote all others."""


class Recognition(NamedTuple):
    """What weather an image shows decides by which predictor it is restored."""

    recognise: Callable[[Images, Timesteps, Images], Tensor]
    """(noise, the last t, degraded) -> logits of the kinds, (batch, number of kinds)."""
    told: Callable[[Tensor], Predictor]
    """Hints, (1, number of kinds), as `hints.decided` makes them, to a predictor that knows them."""
    last_t: int
    size_multiple: int
    device: torch.device
    bfloat16: bool = False
    """Whether it looks in that. Never in float16, which may overflow: unlike an image, a hint would not show it."""

    def predictor(self, degraded: Images) -> Predictor:
        """For one image, (1, channels, height, width) in [0, 1]."""
        with torch.no_grad():
            return self.told(decided(self.logits(degraded)))

    def logits(self, degraded: Images) -> Tensor:
        """(1, number of kinds), the mean of the votes of windows of the image; depends on its pixels alone."""
        windows = torch.cat(self._windows(degraded))
        x_t = torch.randn(windows.shape[1:], generator=generator(0, "recognition")).to(windows)
        t = torch.full((len(windows),), self.last_t, device=self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            votes = self.recognise(x_t.expand_as(windows), t, windows)
        return votes.clamp(-SUREST, SUREST).mean(0, keepdim=True)

    def _windows(self, degraded: Images) -> list[Images]:
        """Evenly spread over the image, in [-1, 1], on the device."""
        side = -(-WINDOW_PX // self.size_multiple) * self.size_multiple
        (tops, height), (lefts, width) = (_spread(length, side) for length in degraded.shape[-2:])
        padded = [-(-length // self.size_multiple) * self.size_multiple for length in (height, width)]
        windows = [degraded[..., top : top + height, left : left + width] for top in tops for left in lefts]
        return [pad_to(to_model_range(window.to(self.device, torch.float32)), *padded) for window in windows]


def _spread(length: int, side: int) -> tuple[list[int], int]:
    """Where windows begin, and how long they are: as many as fit, or a little more or less, side by side."""
    if length <= side:
        return [0], length
    number = min(round(length / side), MOST_WINDOWS)
    if number == 1:
        return [(length - side) // 2], side
    return [round(k * (length - side) / (number - 1)) for k in range(number)], side
