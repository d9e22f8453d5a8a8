"""What the weather is like in one image."""

import torch
from torch import Tensor

from restore_diff.data.weather.config import RainConfig, RaindropConfig, SnowConfig
from restore_diff.data.weather.ranges import range_names


def draw_scene(config: RainConfig | SnowConfig | RaindropConfig, random: torch.Generator) -> dict[str, Tensor]:
    """Draw a value of each range of the settings, uniformly; scalars on the CPU."""
    names = range_names(config)
    low, high = torch.tensor([getattr(config, name) for name in names]).unbind(1)
    return dict(zip(names, torch.lerp(low, high, torch.rand(len(names), generator=random)), strict=True))
