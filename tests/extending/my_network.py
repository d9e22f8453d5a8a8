"""A backbone of one's own: any module (x_t, t, degraded) with a size_multiple."""

import torch
from pydantic import Field
from torch import nn

from restore_diff import MODELS
from restore_diff.settings import NetworkConfig, settings


@settings
class PlainSettings:
    width: int = Field(default=16, ge=1, description="channels")


class Plain(nn.Module):
    """Three convolutions; t is a constant plane."""

    Settings = PlainSettings
    size_multiple = 1

    def __init__(self, config: NetworkConfig, options: PlainSettings):
        super().__init__()
        channels = config.image_channels + config.condition_channels + 1
        self.layers = nn.Sequential(
            nn.Conv2d(channels, options.width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(options.width, options.width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(options.width, config.image_channels, 3, padding=1),
        )

    def forward(self, x_t, t, degraded):
        time = (t / 1000).to(x_t)[:, None, None, None].expand_as(x_t[:, :1])
        parts = [x_t, time] if degraded is None else [x_t, time, degraded]
        return self.layers(torch.cat(parts, dim=1))


MODELS["plain"] = Plain
