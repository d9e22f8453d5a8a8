"""Names for the shapes of tensors, and the only two conversions between value ranges."""

from typing import TypeAlias

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
