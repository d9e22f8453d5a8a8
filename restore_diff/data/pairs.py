"""Whole pairs of images, for validation and test."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from restore_diff.data.finding import PairList
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.listing import DataError
from restore_diff.data.names import PairPath
from restore_diff.data.weather.config import Weather
from restore_diff.randomness import mix
from restore_diff.tensors import Images

Renderer = Callable[[Images, Sequence[int], Sequence[Weather | None]], Images]
"""(clean (B,3,H,W) in [0, 1], for each image a seed, and its weather or None for any) -> degraded, likewise.

Each image depends on its own seed and weather alone.
"""


class Pair(NamedTuple):
    """An image and what is to be made of it: float32 (3,H,W) in [0, 1]."""

    clean: Tensor
    degraded: Tensor
    name: str


def require_degraded(pairs: PairList, render: Renderer | None) -> None:
    """DataError for clean photographs without a way to degrade them."""
    if render is None and any(pair.degraded is None for pair in pairs.pairs):
        raise DataError(
            f"{pairs.name} holds clean photographs only: say what to render on them, e.g. data.weather=rain"
        )


class PairedImageDataset(Dataset[Pair]):
    """Whole images for validation and test, the same ones each time.

    Where there is no degraded file, `render` makes it from the clean image, by a seed of (seed, name) alone.
    """

    def __init__(self, pairs: PairList, render: Renderer | None, seed: int):
        require_degraded(pairs, render)
        self.pairs = pairs
        self.render = render
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs.pairs)

    def __getitem__(self, index: int) -> Pair:
        """ImageError for a file that cannot be read, DataError for a pair of different sizes."""
        pair = self.pairs.pairs[index]
        clean = read_rgb_uint8(pair.clean).float() / 255
        if pair.degraded is not None:
            degraded = read_rgb_uint8(pair.degraded).float() / 255
            if degraded.shape != clean.shape:
                if not self.pairs.crop_to_min:
                    raise DataError(different_sizes(pair, degraded.shape[1:], clean.shape[1:]))
                degraded, clean = crop_to_min(degraded, clean)
        else:
            assert self.render is not None
            rendered = self.render(clean[None], [mix(self.seed, "weather", pair.name)], [pair.weather])[0]
            degraded = (rendered * 255).round() / 255  # as a file would hold it
        return Pair(clean, degraded, pair.name)


def crop_to_min(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two images (C,H,W), cut at the right and at the bottom to the size that they share."""
    height, width = (min(sides) for sides in zip(first.shape[1:], second.shape[1:], strict=True))
    return first[:, :height, :width], second[:, :height, :width]


def different_sizes(pair: PairPath, degraded: Sequence[int], clean: Sequence[int]) -> str:
    """The message for a pair whose (height, width) differ."""
    return (
        f"{pair.degraded} is {degraded[1]}x{degraded[0]}, {pair.clean} is {clean[1]}x{clean[0]}: a pair needs one size"
    )
