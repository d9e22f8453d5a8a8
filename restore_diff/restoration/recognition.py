"""Detect the weather in an image before it is restored."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.diffusion.prediction import Predictor
from restore_diff.labels import decided
from restore_diff.randomness import generator
from restore_diff.restoration.tiling import pad_to, round_up
from restore_diff.tensors import Images, Timesteps, to_model_range

WINDOW_PX = 320
MAX_WINDOWS = 3
"""Along each axis. Weather covers the whole image, so a few windows of a large image suffice."""
MAX_LOGIT = 4.0
"""Clamp on a window's logits (98 %), so that one wrong and very confident window cannot outvote the others."""


class Recognition(NamedTuple):
    """Detects the weather of an image and returns the predictor to restore it with."""

    recognise: Callable[[Images, Timesteps, Images], Tensor]
    """(noise, last timestep, degraded) -> logits of the labels, (batch, num_labels)."""
    with_label: Callable[[Tensor], Predictor]
    """Label (1, num_labels), as `labels.decided` returns it, -> the predictor conditioned on it."""
    last_t: int
    size_multiple: int
    device: torch.device
    bfloat16: bool = False
    """Detect in bfloat16. float16 is not offered: an overflow would go unnoticed in a label."""

    def predictor(self, degraded: Images) -> Predictor:
        """Predictor for one image, (1, channels, height, width) in [0, 1]."""
        with torch.no_grad():
            return self.with_label(decided(self.logits(degraded)))

    def logits(self, degraded: Images) -> Tensor:
        """(1, num_labels): mean logits over windows of the image. Depends on its pixels only."""
        windows = torch.cat(self._windows(degraded))
        x_t = torch.randn(windows.shape[1:], generator=generator(0, "recognition")).to(windows)
        t = torch.full((len(windows),), self.last_t, device=self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            found = self.recognise(x_t.expand_as(windows), t, windows)
        return found.clamp(-MAX_LOGIT, MAX_LOGIT).mean(0, keepdim=True)

    def _windows(self, degraded: Images) -> list[Images]:
        """Windows spread evenly over the image, in [-1, 1], on the device."""
        side = round_up(WINDOW_PX, self.size_multiple)
        (tops, height), (lefts, width) = (_spread(length, side) for length in degraded.shape[-2:])
        padded = round_up(height, self.size_multiple), round_up(width, self.size_multiple)
        windows = [degraded[..., top : top + height, left : left + width] for top in tops for left in lefts]
        return [pad_to(to_model_range(window.to(self.device, torch.float32)), *padded) for window in windows]


def _spread(length: int, side: int) -> tuple[list[int], int]:
    """Starts and length of the windows along one axis: about as many as fit side by side."""
    if length <= side:
        return [0], length
    number = min(round(length / side), MAX_WINDOWS)
    if number == 1:
        return [(length - side) // 2], side
    return [round(k * (length - side) / (number - 1)) for k in range(number)], side
