"""A sixth kind of weather: uniform smoke. Networks with a hint need it in model.labels."""

import torch
from pydantic import Field

from restore_diff import WEATHERS
from restore_diff.randomness import generator
from restore_diff.settings import settings
from restore_diff.weather.renderer import Kind


@settings
class SmokeSettings:
    density: tuple[float, float] = Field(default=(0.2, 0.6), description="share of the light that smoke adds")


def render_smoke(images, settings, seeds):
    """Blend each image with grey; image i depends on seed i alone."""
    low, high = settings.density
    draws = torch.stack([torch.rand((), generator=generator(seed, "smoke")) for seed in seeds])
    share = (low + (high - low) * draws).to(images)[:, None, None, None]
    return (1 - share) * images + share * 0.7


WEATHERS["smoke"] = Kind(render_smoke, SmokeSettings)
