"""A noise schedule of one's own: betas that grow by a constant factor."""

import torch
from pydantic import Field

from restore_diff import SCHEDULES
from restore_diff.settings import ScheduleConfig, settings


@settings
class Growth:
    growth: float = Field(default=100.0, gt=1, description="last beta over the first")


class Geometric:
    Settings = Growth

    def __new__(cls, config: ScheduleConfig, options: Growth):
        last = min(0.5, 20 / config.num_timesteps)
        exponents = torch.linspace(-1, 0, config.num_timesteps, dtype=torch.float64)
        return last * options.growth**exponents


SCHEDULES["geometric"] = Geometric
