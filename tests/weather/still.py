"""Photographs, settings without chance, and shapes found in rendered pictures."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from skimage.measure import label, regionprops
from torch import Tensor

T = TypeVar("T")


def photographs(num_images: int, height: int = 40, width: int = 56) -> Tensor:
    return torch.rand(num_images, 3, height, width, generator=torch.Generator().manual_seed(1))


def fixed(kind: type[T], values: Mapping[str, float | tuple[float, float]]) -> T:
    """Settings of a kind of weather, with ranges of one value for numbers."""
    return kind(**{name: value if isinstance(value, tuple) else (value, value) for name, value in values.items()})


def whole_regions(pictures: Tensor, threshold: float) -> list:
    """Regions brighter than the threshold that lie inside of their picture, (pictures, height, width)."""
    size = pictures.shape[-1]
    regions = [r for p in pictures for r in regionprops(label((p > threshold).numpy()), p.numpy())]
    return [r for r in regions if min(r.bbox) > 0 and max(r.bbox) < size]
