"""Noise schedules, and the noise levels that a sampler visits."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.registry import make
from restore_diff.settings import SamplerConfig, ScheduleConfig, Spacing
from restore_diff.tensors import Images, Timesteps

# The noise schedule: how much of the clean image and how much noise x_t holds at each t.


class NoiseSchedule:
    """The levels of the forward process q(x_t | x_0) = N(signal * x_0, noise^2 I), Ho et al. (2020), eq. 4.

    alpha_bar_t is the product of 1 - beta up to t; signal^2 = alpha_bar, and noise^2 = 1 - alpha_bar. `alpha_bar` is
    (num_timesteps,), float64, on the CPU, and falls strictly from below 1 to above 0.
    ValueError when the settings make a beta of 1 or more, as linear ends do for a small num_timesteps.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        betas = make(SCHEDULES, config.name, "schedule.name", config.options, config)
        if betas.max() >= 1:
            raise ValueError(
                f"every beta must lie below 1, got {betas.max():.3g} from {config}: "
                "raise num_timesteps, or lower beta_start and beta_end, which are scaled by 1000 / num_timesteps"
            )
        self.num_timesteps = config.num_timesteps
        self.alpha_bar = torch.cumprod(1 - betas, dim=0)
        self._signal = self.alpha_bar.sqrt()
        self._noise = (1 - self.alpha_bar).sqrt()
        self._snr = self.alpha_bar / (1 - self.alpha_bar)

    def signal(self, t: Timesteps, like: Images) -> Tensor:
        """sqrt(alpha_bar_t) as (batch, 1, .., 1), with the number of axes, dtype and device of `like`."""
        return _at(self._signal, t, like)

    def noise(self, t: Timesteps, like: Images) -> Tensor:
        """sqrt(1 - alpha_bar_t), the standard deviation of the noise in x_t; otherwise as `signal`."""
        return _at(self._noise, t, like)

    def snr(self, t: Timesteps, like: Images) -> Tensor:
        """alpha_bar_t / (1 - alpha_bar_t), the signal-to-noise ratio of x_t; otherwise as `signal`."""
        return _at(self._snr, t, like)


def linear_betas(config: ScheduleConfig) -> Tensor:
    """Equal steps of beta, Ho et al. (2020), section 4."""
    start, end = _scaled_ends(config)
    return torch.linspace(start, end, config.num_timesteps, dtype=torch.float64)


def quadratic_betas(config: ScheduleConfig) -> Tensor:
    """Equal steps of sqrt(beta), the "quad" of Song et al. (2021, DDIM) and "scaled linear" of latent diffusion."""
    start, end = _scaled_ends(config)
    return torch.linspace(start**0.5, end**0.5, config.num_timesteps, dtype=torch.float64).square()


def cosine_betas(config: ScheduleConfig) -> Tensor:
    """alpha_bar = cos^2(pi / 2 (time + s) / (1 + s)), s = 0.008, over its start, Nichol and Dhariwal (2021), eq. 17."""
    return _betas_of(lambda time: torch.cos((time + 0.008) / 1.008 * math.pi / 2).square(), config.num_timesteps)


def sigmoid_betas(config: ScheduleConfig) -> Tensor:
    """alpha_bar falls as a sigmoid from -3 to 3 at temperature 1, Jabri et al. (2022, arXiv 2212.11972)."""
    low, high = torch.tensor([-3.0, 3.0], dtype=torch.float64).sigmoid()
    return _betas_of(lambda time: (high - (6 * time - 3).sigmoid()) / (high - low), config.num_timesteps)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "linear": linear_betas,
    "quadratic": quadratic_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
}
"""beta_t of each schedule by name: (config[, options]) -> (num_timesteps,), float64."""


def _scaled_ends(config: ScheduleConfig) -> tuple[float, float]:
    """The ends meant for T = 1000, scaled so that any T ends at about the same noise."""
    scale = 1000 / config.num_timesteps
    return scale * config.beta_start, scale * config.beta_end


def _betas_of(alpha_bar: Callable[[Tensor], Tensor], num_timesteps: int) -> Tensor:
    """The betas that make `alpha_bar` over time 0 .. 1, capped at 0.999 because it ends at 0."""
    levels = alpha_bar(torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64))
    return (1 - levels[1:] / levels[:-1]).clamp(max=0.999)


def _at(levels: Tensor, t: Timesteps, like: Images) -> Tensor:
    # Blocking, this copy would make the host wait for all that the device still has to do.
    table = levels.to(like.dtype).to(like.device, non_blocking=True)
    return table[t].reshape(-1, *[1] * (like.ndim - 1))


KARRAS_RHO = 7.0
"""Karras et al. (2022), eq. 5: steps are even in sigma^(1/rho)."""


class Level(NamedTuple):
    """x_t = signal * clean + noise * epsilon."""

    t: int
    signal: float
    noise: float


NO_NOISE_LEFT = Level(t=-1, signal=1.0, noise=0.0)
"""The end of every ladder: the clean image itself. No network is called there."""


def levels(schedule: NoiseSchedule, config: SamplerConfig) -> list[Level]:
    """The levels that a sampler visits: num_steps or, where stop_t cuts them short, fewer, then NO_NOISE_LEFT.

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
