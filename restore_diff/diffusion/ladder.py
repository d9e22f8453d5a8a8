"""The noise levels that a sampler visits, from noisy to clean."""

from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.diffusion.config import SamplerConfig, Spacing
from restore_diff.diffusion.schedule import NoiseSchedule

KARRAS_RHO = 7.0
"""Karras et al. (2022), eq. 5: steps are even in sigma^(1/rho)."""


class Level(NamedTuple):
    """x_t = signal * clean + noise * epsilon."""

    t: int
    signal: float
    noise: float


NO_NOISE_LEFT = Level(t=-1, signal=1.0, noise=0.0)
"""Where every ladder ends: the clean image itself. No network is asked there."""


def levels(schedule: NoiseSchedule, config: SamplerConfig) -> list[Level]:
    """What a sampler visits: num_steps levels or, where stop_t cuts them short, fewer, then NO_NOISE_LEFT.

    ValueError when there are fewer timesteps than steps, up to start_t where it is given.
    """
    num_timesteps = config.start_t + 1 if config.start_t else schedule.num_timesteps
    if num_timesteps > schedule.num_timesteps:
        raise ValueError(f"start_t must be less than num_timesteps={schedule.num_timesteps}, got {config.start_t}")
    if config.spacing in ("logsnr", "karras"):
        ladder = snr_ladder(config.spacing, config.num_steps, schedule.alpha_bar[:num_timesteps])
    else:
        ladder = timestep_ladder(config.spacing, config.num_steps, num_timesteps)
    last = next((place for place, t in enumerate(ladder) if t <= config.stop_t), len(ladder) - 1)
    visited = ladder[: last + 1]
    alpha_bar = schedule.alpha_bar[visited]
    signals, noises = alpha_bar.sqrt().tolist(), (1 - alpha_bar).sqrt().tolist()
    return [*map(Level, visited, signals, noises), NO_NOISE_LEFT]


def timestep_ladder(spacing: Spacing, num_steps: int, num_timesteps: int) -> list[int]:
    """The num_steps different timesteps of an even spacing, falling; Lin et al. (2023), table 2.

    Trailing starts at the last timestep, leading ends at 0 (as WeatherDiffusion's does), linspace does both.
    ValueError when num_steps is more than num_timesteps or less than 1, for linspace 2.
    """
    _check(spacing, num_steps, num_timesteps, least=2 if spacing == "linspace" else 1)
    match spacing:
        case "trailing":
            return [round(num_timesteps * left / num_steps) - 1 for left in range(num_steps, 0, -1)]
        case "leading":
            return [num_timesteps // num_steps * left for left in reversed(range(num_steps))]
        case "linspace":
            return [round((num_timesteps - 1) * left / (num_steps - 1)) for left in reversed(range(num_steps))]
        case _:
            raise ValueError(f"{spacing} spacing depends on the schedule: see snr_ladder")


def snr_ladder(spacing: Spacing, num_steps: int, alpha_bar: Tensor) -> list[int]:
    """The num_steps different timesteps nearest to even steps of a function of the noise level, falling.

    With sigma = sqrt(1 / alpha_bar - 1): "logsnr" is even in log sigma, as DPM-Solver has it (Lu et al., 2022),
    "karras" in sigma^(1/7). ValueError as `timestep_ladder`.
    """
    _check(spacing, num_steps, len(alpha_bar), least=1)
    sigma = (1 / alpha_bar - 1).sqrt()
    position = sigma.log() if spacing == "logsnr" else sigma ** (1 / KARRAS_RHO)
    wanted = torch.linspace(position[-1].item(), position[0].item(), num_steps, dtype=position.dtype)
    nearest = (position[None] - wanted[:, None]).abs().argmin(1).tolist()
    for place in range(1, num_steps):  # Equal neighbours move apart, down to where there is room.
        nearest[place] = min(nearest[place], nearest[place - 1] - 1)
    return [max(t, left) for t, left in zip(nearest, reversed(range(num_steps)), strict=True)]


def _check(spacing: str, num_steps: int, num_timesteps: int, least: int) -> None:
    if not least <= num_steps <= num_timesteps:
        rule = f"must be between {least} and num_timesteps={num_timesteps}"
        raise ValueError(f"num_steps of {spacing} spacing {rule}, got {num_steps}")
