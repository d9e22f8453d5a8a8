"""Random crops, flips and turns that treat the images of a pair alike. Images are (C,H,W) of any dtype."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

Augmentation = Literal["none", "flips", "flips_and_turns"]


def random_crops(images: Sequence[Tensor], size_px: int, generator: Generator) -> list[Tensor]:
    """The same square of every image, uniformly placed; ValueError where it does not fit."""
    height, width = images[0].shape[1:]
    if size_px > min(height, width):
        raise ValueError(f"a crop of {size_px} px does not fit into {width}x{height}")
    top = _draw(height - size_px + 1, generator)
    left = _draw(width - size_px + 1, generator)
    return [image[:, top : top + size_px, left : left + size_px] for image in images]


def pad_to(image: Tensor, size_px: int) -> Tensor:
    """Grow both sides to at least `size_px`, evenly at both ends: mirrored once, then the last pixel repeated."""
    rows, columns = (_mirrored(side, max(side, size_px)) for side in image.shape[1:])
    return image[:, rows][:, :, columns]


def random_flips(images: Sequence[Tensor], generator: Generator) -> list[Tensor]:
    """Each of left-right and top-bottom with probability 1/2."""
    axes = [axis for axis in (1, 2) if _draw(2, generator)]
    return [image.flip(axes) for image in images]


def random_turn(images: Sequence[Tensor], generator: Generator) -> list[Tensor]:
    """A quarter turn with probability 1/2; with both flips, each of the eight symmetries of a square is as likely."""
    turns = _draw(2, generator)
    return [torch.rot90(image, turns, (1, 2)) for image in images]


def augment(images: Sequence[Tensor], size_px: int, augmentation: Augmentation, generator: Generator) -> list[Tensor]:
    """Crop, then flip and turn as `augmentation` says."""
    images = random_crops(images, size_px, generator)
    if augmentation != "none":
        images = random_flips(images, generator)
    if augmentation == "flips_and_turns":
        images = random_turn(images, generator)
    return list(images)


def _mirrored(old: int, new: int) -> Tensor:
    """(new,) int64: for old=3, new=9 it is 2 2 1 0 1 2 1 0 0 -- mirrored about the edge pixels, then clamped."""
    at = torch.arange(new) - (new - old) // 2
    return torch.where(at < old, at.abs(), 2 * (old - 1) - at).clamp(0, old - 1)


def _draw(count: int, generator: Generator) -> int:
    """Uniform in 0..count - 1."""
    return int(torch.randint(count, (), generator=generator))
