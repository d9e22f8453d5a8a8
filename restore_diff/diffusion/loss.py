"""Gaussian diffusion in training: the forward process, the loss and its weighting, what a batch draws."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from restore_diff.diffusion.prediction import Predictor, epsilon_error
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.randomness import generator
from restore_diff.settings import DiffusionConfig, TimestepDraw
from restore_diff.tensors import Images, Timesteps


class GaussianDiffusion:
    """The forward process of a schedule, and the loss that trains a predictor to undo it.

    Samples have a batch axis and any others. Pass float32 or wider: the loss has the dtype of `clean`, whatever that
    of the predictor's output.
    """

    def __init__(self, schedule: NoiseSchedule, config: DiffusionConfig) -> None:
        self.schedule = schedule
        self.config = config

    def add_noise(self, clean: Images, t: Timesteps, epsilon: Images) -> Images:
        """Sample x_t from q(x_t | x_0), Ho et al. (2020), eq. 4, with `epsilon` as its standard normal noise."""
        return self.schedule.signal(t, clean) * clean + self.schedule.noise(t, clean) * epsilon

    def loss(
        self, predictor: Predictor, clean: Images, degraded: Images | None, t: Timesteps, epsilon: Images
    ) -> Tensor:
        """The weighted loss of epsilon, (batch,): each sample's mean over its other axes, Ho et al. (2020), eq. 14.

        The error of epsilon times the root of its weight is penalised, either squared or by Huber (1964), which is
        half the square up to huber_delta. Errors: as `estimate`.
        """
        output = predictor(self.add_noise(clean, t, epsilon), t, degraded)
        signal, noise = self.schedule.signal(t, clean), self.schedule.noise(t, clean)
        error = epsilon_error(self.config.prediction, output, clean, epsilon, signal, noise, degraded)
        loss = self._penalty(self._weight(t, clean).sqrt() * error).flatten(1).mean(1)
        if not self.config.relative_floor or degraded is None:
            return loss
        return loss / (self.config.relative_floor + (degraded - clean).square().flatten(1).mean(1))

    def _weight(self, t: Timesteps, like: Images) -> Tensor:
        """The weight on the squared error of epsilon. That of the clean image has SNR times as much."""
        snr = self.schedule.snr(t, like)
        match self.config.weighting:
            case "none":
                return torch.ones_like(snr)
            case "snr_clamp":  # Hang et al. (2023, min-SNR), and a floor
                return snr.clamp(self.config.snr_min, self.config.snr_max) / snr
            case "p2":  # Choi et al. (2022)
                return (self.config.p2_k + snr) ** -self.config.p2_gamma

    def _penalty(self, error: Tensor) -> Tensor:
        match self.config.loss:
            case "squared":
                return error.square()
            case "huber":
                return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.config.huber_delta)


def draw_timesteps(
    kind: TimestepDraw, first: int, num: int, total: int, num_timesteps: int, seed: int, step: int
) -> Timesteps:
    """Draw t for the samples first .. first + num - 1 of a training step's batch of `total`; (num,), on the CPU.

    The batch depends on (seed, step) alone, so that the parts that processes and micro-batches draw make up the whole.
    Every sample's t is uniform, but that of `late`. ValueError when the part is not within the batch.
    """
    if not 0 <= first <= first + num <= total:
        raise ValueError(f"samples {first} to {first + num} are not a part of a batch of total={total}")
    stream = generator(seed, "timesteps", step)
    return TIMESTEP_DRAWS[kind](total, num_timesteps, stream)[first : first + num]


def draw_noise(like: Images, sample_positions: Sequence[int], seed: int) -> Images:
    """Draw standard normal noise in the shape and dtype of `like`, on its device.

    The noise of sample k depends on (seed, k), its shape, dtype and kind of device alone. ValueError when the number of
    positions is not that of the samples.
    """
    noise = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    for sample, position in zip(noise, sample_positions, strict=True):
        sample.normal_(generator=generator(seed, "noise", position, device=like.device))
    return noise


def _stratified(total: int, num_timesteps: int, stream: torch.Generator) -> Timesteps:
    """One t in each of `total` equal parts of the range, Kingma et al. (2021), dealt out at random."""
    offset = torch.rand((), dtype=torch.float64, generator=stream)
    strata = torch.randperm(total, generator=stream).double()
    return ((strata / total + offset) % 1 * num_timesteps).long()


def _antithetic(total: int, num_timesteps: int, stream: torch.Generator) -> Timesteps:
    """Neighbours t and num_timesteps - 1 - t, as WeatherDiffusion draws them; the last of an odd batch stays single."""
    t = torch.randint(num_timesteps, ((total + 1) // 2,), generator=stream)
    return torch.stack([t, num_timesteps - 1 - t], dim=1).flatten()[:total]


def _late(total: int, num_timesteps: int, stream: torch.Generator) -> Timesteps:
    """Half of a batch at the last t, where all samplers start and those of one step end; the others as stratified."""
    return _stratified(total, 2 * num_timesteps, stream).clamp(max=num_timesteps - 1)


TIMESTEP_DRAWS = {"stratified": _stratified, "antithetic": _antithetic, "late": _late}
