"""The training samples of a run by their position: a crop, turned and degraded, for any position at the same cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.data.config import DataConfig
from restore_diff.data.decoded_images import DecodedImages
from restore_diff.data.images import ImageError
from restore_diff.data.names import PairPath
from restore_diff.data.order import Order
from restore_diff.data.pairs import Renderer
from restore_diff.data.transforms import augment, pad_to
from restore_diff.data.weather.config import Weather
from restore_diff.data.weather.renderer import WeatherRenderer
from restore_diff.randomness import generator, mix
from restore_diff.tensors import Images

MOST_REPLACED = 1000
"""Damaged pairs in a row, after which the search for a whole one is given up."""


class Batch(NamedTuple):
    """Crops for one forward pass of one process: a row of neighbours among all samples that the run ever draws."""

    clean: Images
    """float32 (B,3,h,w) in [0, 1]; `degraded` likewise."""
    degraded: Images
    positions: list[int]
    names: list[str]
    weathers: Sequence[Weather | None] = ()
    """What was rendered on each; None where its own degraded picture was read."""
    damaged: tuple[str, ...] = ()
    """What is wrong with the files whose pairs others have replaced here."""


class _Read(NamedTuple):
    pair: PairPath
    images: list[Tensor]
    """uint8 (3,H,W): clean, and degraded if there is a file."""
    damaged: list[str]


@dataclass(frozen=True)
class Samples:
    """Sample k for any k."""

    order: Order
    images: DecodedImages
    render: Renderer | None
    config: DataConfig
    seed: int

    def batch(self, positions: list[int]) -> Batch:
        """The samples at these positions of the run; neighbours that share an image read it once. Raises ImageError."""
        crops: list[list[Tensor]] = []
        pairs: list[PairPath] = []
        damaged: list[str] = []
        for place, group in groupby(positions, lambda position: position // self.config.crops_per_image):
            read = self._read(place)
            damaged += read.damaged
            for position in group:
                draw = generator(self.seed, "augment", position)
                crops.append(augment(read.images, self.config.crop_size_px, self.config.augmentation, draw))
                pairs.append(read.pair)
        clean = torch.stack([crop[0] for crop in crops]).float() / 255
        degraded = torch.stack([crop[-1] for crop in crops]).float() / 255
        rendered = [row for row, crop in enumerate(crops) if len(crop) == 1]
        weathers: list[Weather | None] = [None] * len(crops)
        if rendered:
            assert self.render is not None
            seeds = [mix(self.seed, "weather", positions[row]) for row in rendered]
            kinds: Sequence[Weather | None] = [pairs[row].weather for row in rendered]
            if isinstance(self.render, WeatherRenderer):
                kinds = self.render.kinds(seeds, kinds)
            degraded[rendered] = self.render(clean[rendered], seeds, kinds)
            for row, kind in zip(rendered, kinds, strict=True):
                weathers[row] = kind
        names = [pair.name for pair in pairs]
        return Batch(clean, degraded, positions, names, weathers, tuple(damaged))

    def _read(self, place: int) -> _Read:
        """The pair at this place of the order; if damaged files are skipped, the next one whose files are whole."""
        damaged: list[str] = []
        for candidate in range(place, place + MOST_REPLACED):
            pair = self.order.pair(candidate)
            try:
                images = [self.images[path] for path in (pair.clean, pair.degraded) if path is not None]
            except ImageError as error:
                if self.config.on_bad == "error":
                    raise
                damaged.append(str(error))
                continue
            if self.config.on_small == "pad":
                images = [pad_to(image, self.config.crop_size_px) for image in images]
            return _Read(pair, images, damaged)
        raise ImageError(f"{damaged[-1]}; so are the {MOST_REPLACED - 1} pairs before it")
