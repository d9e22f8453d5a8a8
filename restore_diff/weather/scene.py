"""Random draws and mist shared by the kinds of weather."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from restore_diff.randomness import generator
from restore_diff.settings import HazeConfig, RainConfig, RaindropConfig, SnowConfig, range_names
from restore_diff.tensors import Images

WeatherConfig: TypeAlias = HazeConfig | RainConfig | RaindropConfig | SnowConfig

Scene: TypeAlias = dict[str, Tensor]
"""One value per range of the settings, by name; scalars on the CPU."""

EXTREMES: dict[str, tuple[dict[str, tuple[float, float]], ...]] = {
    "rain": (
        # a downpour: many faint streaks in mist
        {"density": (0.01, 0.04), "brightness": (0.1, 0.4), "depth": (5.0, 10.0), "veil": (0.1, 0.5)},
        # streaks close to the lens: few, long, wide
        {"density": (0.0002, 0.0015), "length_px": (120.0, 400.0), "width_px": (2.5, 9.0), "brightness": (0.1, 0.5)},
    ),
    "haze": (
        {"beta": (0.15, 0.7)},
        {"beta": (1.8, 4.0), "airlight": (0.5, 1.0)},
        # at night or in coloured light
        {"beta": (0.6, 2.5), "airlight": (0.2, 0.6), "tint": (0.05, 0.4)},
    ),
    "snow": (
        # flakes close to the lens: large, blurred
        {"cover": (0.03, 0.2), "size_px": (24.0, 70.0), "motion": (0.0, 1.0), "defocus": (0.5, 2.0)},
        # a storm: flakes drawn out to streaks
        {"cover": (0.05, 0.4), "size_px": (6.0, 24.0), "motion": (3.0, 10.0), "veil": (0.0, 0.4)},
        # small and sparse
        {"cover": (0.001, 0.02), "size_px": (6.0, 16.0)},
    ),
    "raindrop": ({"covered": (0.05, 0.35), "radius_px": (16.0, 48.0), "blur_px": (8.0, 40.0), "opacity": (0.4, 1.0)},),
}
"""Ranges that replace those of the settings in the share `extremes` of the images, one entry drawn for each image."""


def drawn_ranges(config: WeatherConfig, kind: str, seed: int) -> dict[str, tuple[float, float]]:
    """The ranges from which the image of this seed draws: those of the settings, or with an entry of EXTREMES."""
    ranges = {name: getattr(config, name) for name in range_names(config)}
    if config.extremes > 0:
        chance, place = torch.rand(2, generator=generator(seed, kind, "extremes")).tolist()
        if chance < config.extremes:
            ranges |= EXTREMES[kind][int(place * len(EXTREMES[kind]))]
    return ranges


def draw_scenes(
    clean: Images, config: WeatherConfig, kind: str, seeds: Sequence[int]
) -> tuple[list[Scene], list[torch.Generator]]:
    """Draw a scene per seed, uniformly; return them with the generators, which depend on (seed, kind) alone.

    Raises ValueError when there is no image, or not one seed per image.
    """
    if not 0 < len(clean) == len(seeds):
        raise ValueError(f"expected one seed per image, got {len(clean)} images and {len(seeds)} seeds")
    randoms = [generator(seed, kind) for seed in seeds]
    scenes = []
    for seed, random in zip(seeds, randoms, strict=True):
        ranges = drawn_ranges(config, kind, seed)
        low, high = torch.tensor(list(ranges.values())).unbind(1)
        drawn = torch.lerp(low, high, torch.rand(len(ranges), generator=random))
        scenes.append(dict(zip(ranges, drawn, strict=True)))
    return scenes, randoms


def uniform(seeds: Sequence[int], purpose: Sequence[str], size: Sequence[int]) -> Tensor:
    """Draw numbers from 0 to 1, (seeds, *size); row i depends on seeds[i] and the purpose alone."""
    return torch.stack([torch.rand(*size, generator=generator(seed, *purpose)) for seed in seeds])


def stacked(scenes: Sequence[Scene], images: Images) -> Scene:
    """Stack the values of all scenes, (B,1,1,1) float32 on the device of the images."""
    return {name: torch.stack([s[name] for s in scenes]).to(images.device).view(-1, 1, 1, 1) for name in scenes[0]}


def add_veil(images: Images, scene: Scene) -> Images:
    """Add the mist of stacked scenes: I (1 - veil) + airlight * veil, in [0, 1]."""
    veil, airlight = scene["veil"].to(images.dtype), scene["airlight"].to(images.dtype)
    return (images * (1 - veil) + airlight * veil).clamp(0, 1)
