"""Random draws and mist shared by the kinds of weather."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from restore_diff.randomness import generator
from restore_diff.settings import RainConfig, RaindropConfig, SnowConfig, range_names
from restore_diff.tensors import Images

Scene: TypeAlias = dict[str, Tensor]
"""One value per range of the settings, by name; scalars on the CPU."""


def check_seeds(clean: Images, seeds: Sequence[int]) -> None:
    """Raise ValueError when there is no image, or not one seed per image."""
    if not 0 < len(clean) == len(seeds):
        raise ValueError(f"expected one seed per image, got {len(clean)} images and {len(seeds)} seeds")


def draw_scenes(
    config: RainConfig | SnowConfig | RaindropConfig, kind: str, seeds: Sequence[int]
) -> tuple[list[Scene], list[torch.Generator]]:
    """Draw a scene per seed, uniformly; return them with the generators, which depend on (seed, kind) alone."""
    randoms = [generator(seed, kind) for seed in seeds]
    names = range_names(config)
    low, high = torch.tensor([getattr(config, name) for name in names]).unbind(1)
    values = (torch.lerp(low, high, torch.rand(len(names), generator=random)) for random in randoms)
    return [dict(zip(names, drawn, strict=True)) for drawn in values], randoms


def add_veil(images: Images, scenes: Sequence[Scene]) -> Images:
    """Add the mist of each scene: I (1 - veil) + airlight * veil, in [0, 1]."""
    named = ([scene[name] for scene in scenes] for name in ("veil", "airlight"))
    veil, airlight = (torch.stack(values).to(images).view(-1, 1, 1, 1) for values in named)
    return (images * (1 - veil) + airlight * veil).clamp(0, 1)
