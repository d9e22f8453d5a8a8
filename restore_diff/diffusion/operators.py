"""Linear operators A of images: what a measured image y = A x + noise shows of the clean image x."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from restore_diff.registry import choose
from restore_diff.tensors import Images


class Operator(Protocol):
    """A linear operator A. Images are in [-1, 1]; the measured image has the shape of x."""

    gain: float
    """Largest singular value of A."""

    def residual(self, clean: Images, degraded: Images) -> Tensor:
        """y - A x, differentiable in x = `clean`."""
        ...

    def correction(self, residual: Tensor, ratio: float) -> Images:
        """V min(s ratio, 1) / s U^T residual, with A = U s V^T: the pseudo-inverse where `ratio` is infinite."""
        ...


class Inpaint:
    """Known pixels; the unknown ones are NaN in the measured image. The file of the mask is read elsewhere."""

    gain = 1.0

    def __init__(self, value: str = ""):
        self.mask = value

    def residual(self, clean: Images, degraded: Images) -> Tensor:
        return torch.where(degraded.isnan(), torch.zeros_like(clean), degraded.nan_to_num() - clean)

    def correction(self, residual: Tensor, ratio: float) -> Images:
        return min(ratio, 1.0) * residual


class SuperResolve:
    """Means of squares of `factor` px; in the measured image each square has the value of its mean."""

    def __init__(self, value: str):
        if value not in map(str, range(2, 17)):
            raise ValueError(f"sr:FACTOR: the factor must be a whole number from 2 to 16, got {value!r}")
        self.factor = int(value)
        self.gain = 1 / self.factor

    def residual(self, clean: Images, degraded: Images) -> Tensor:
        means = F.avg_pool2d(degraded - clean, self.factor, ceil_mode=True)
        squares = means.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return squares[..., : clean.shape[-2], : clean.shape[-1]] / self.factor  # as long as the means themselves

    def correction(self, residual: Tensor, ratio: float) -> Images:
        return min(ratio * self.gain, 1.0) * self.factor * residual


class Deblur:
    """Gaussian blur with a standard deviation in px; beyond its border, the image is mirrored."""

    gain = 1.0
    LEAST = 1e-3
    """Frequencies that are damped to less are lost."""

    def __init__(self, value: str):
        try:
            self.sigma = float(value)
        except ValueError:
            self.sigma = math.nan
        if not 0.1 <= self.sigma <= 50:
            raise ValueError(f"deblur:SIGMA: the standard deviation must be from 0.1 to 50 px, got {value!r}")

    def residual(self, clean: Images, degraded: Images) -> Tensor:
        return degraded - filtered(clean, lambda damping: damping, self.sigma)

    def correction(self, residual: Tensor, ratio: float) -> Images:
        def inverse(damping: Tensor) -> Tensor:
            return torch.where(damping > self.LEAST, (1 / damping).clamp(max=ratio), torch.zeros_like(damping))

        return filtered(residual, inverse, self.sigma)


class Colorize:
    """Luma of BT.601; the measured image is grey. Colours are kept by the correction: all channels rise alike."""

    LUMA = (0.299, 0.587, 0.114)
    gain = math.hypot(*LUMA)

    def __init__(self, value: str = ""):
        if value:
            raise ValueError(f"colorize takes no value, got {value!r}")

    def residual(self, clean: Images, degraded: Images) -> Tensor:
        return torch.einsum("bchw,c->bhw", degraded - clean, clean.new_tensor(self.LUMA))[:, None]

    def correction(self, residual: Tensor, ratio: float) -> Images:
        return min(ratio, 1.0) * residual.expand(-1, 3, -1, -1)


OPERATORS: dict[str, Callable[[str], Operator]] = {
    "inpaint": Inpaint,
    "sr": SuperResolve,
    "deblur": Deblur,
    "colorize": Colorize,
}
"""Operators by the name before the colon of a task; called with the text after it."""


def operator_of(task: str) -> Operator:
    """The operator of a task such as "sr:4". Raises ValueError for an unknown name or a value that does not fit."""
    name, _, value = task.partition(":")
    return choose(OPERATORS, name, "zero-shot task")(value)


def filtered(images: Images, response: Callable[[Tensor], Tensor], sigma: float) -> Images:
    """Multiply the spectrum by `response` of a Gaussian blur's damping; mirrored at the borders, so without seams."""
    height, width = images.shape[-2:]
    mirrored = torch.cat([images, images.flip(-2)], -2)
    mirrored = torch.cat([mirrored, mirrored.flip(-1)], -1)
    rows = torch.fft.fftfreq(2 * height, dtype=images.dtype, device=images.device)[:, None]
    columns = torch.fft.rfftfreq(2 * width, dtype=images.dtype, device=images.device)
    damping = torch.exp(-2 * (math.pi * sigma) ** 2 * (rows**2 + columns**2))
    spectrum = torch.fft.rfft2(mirrored) * response(damping)
    return torch.fft.irfft2(spectrum, s=mirrored.shape[-2:])[..., :height, :width]
