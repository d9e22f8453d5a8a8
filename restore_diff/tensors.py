"""Names for the shapes of tensors, and the only two conversions between value ranges."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor

Images: TypeAlias = Tensor
"""(batch, channels, height, width), floating point; in [0, 1] everywhere public, in [-1, 1] in diffusion and models."""

Timesteps: TypeAlias = Tensor
"""(batch,), int64, in 0 .. num_timesteps - 1; larger is noisier."""


def to_model_range(images: Images) -> Images:
    """Map [0, 1] to [-1, 1]."""
    return images * 2 - 1


def to_unit_range(images: Images) -> Images:
    """Map [-1, 1] to [0, 1]. Values outside stay outside; clamp where an image is written or scored."""
    return (images + 1) / 2


class Codec(Protocol):
    """What stands where [0, 1] becomes the range and shape that the network works on: pixels by default, or latents."""

    downscale: int
    """Pixels of an image per latent, along each side; 1 for the identity."""

    def encode(self, images: Images) -> Images:
        """(B,3,H,W) in [0, 1] -> (B,C,H/downscale,W/downscale), about [-1, 1]. H and W are multiples of downscale."""
        ...

    def decode(self, latents: Images) -> Images:
        """The inverse of `encode`, to about [0, 1]; not clamped."""
        ...


class Identity:
    """Pixels themselves, [0, 1] mapped to [-1, 1]."""

    downscale = 1

    def encode(self, images: Images) -> Images:
        return to_model_range(images)

    def decode(self, latents: Images) -> Images:
        return to_unit_range(latents)


IDENTITY = Identity()

CODECS: dict[str, Callable[..., Codec]] = {"identity": Identity}
"""Codecs by name; an entry is called with its own options, if it declares `Settings`, else without arguments."""
