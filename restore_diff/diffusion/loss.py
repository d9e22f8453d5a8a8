"""Gaussian diffusion in training: the forward process, losses and their weighting, the draws of a batch."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from restore_diff.diffusion.prediction import Estimate, Predictor, epsilon_error, estimate
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.randomness import generator
from restore_diff.registry import make
from restore_diff.settings import DiffusionConfig, TimestepDraw
from restore_diff.tensors import Images, Timesteps


class LossBatch(NamedTuple):
    """The images of one training batch, in model range, and the weather labels of each."""

    clean: Images
    degraded: Images | None
    labels: Sequence[str | None] = ()


class NoiseLevel(NamedTuple):
    """The levels of a batch: x_t = signal * clean + noise * epsilon. Each is (batch, 1, .., 1), but t (batch,)."""

    t: Timesteps
    signal: Tensor
    noise: Tensor
    weight: Tensor
    """Weight on the squared error of epsilon, from `weighting`. That of the clean image is SNR times as much."""


class TrainingEstimate:
    """The network's estimate at x_t, with gradients; each part is computed when it is first read."""

    def __init__(self, kind: str, output: Images, batch: LossBatch, epsilon: Images, level: NoiseLevel) -> None:
        self._kind, self._output, self._batch, self._epsilon, self._level = kind, output, batch, epsilon, level

    @cached_property
    def epsilon_error(self) -> Images:
        """True minus estimated epsilon, without loss of digits."""
        (clean, degraded, _), (_, signal, noise, _) = self._batch, self._level
        return epsilon_error(self._kind, self._output, clean, self._epsilon, signal, noise, degraded)

    @cached_property
    def _estimate(self) -> Estimate:
        (clean, degraded, _), (_, signal, noise, _) = self._batch, self._level
        return estimate(self._kind, self._output, signal * clean + noise * self._epsilon, signal, noise, degraded)

    @property
    def clean(self) -> Images:
        return self._estimate.clean

    @property
    def epsilon(self) -> Images:
        return self._estimate.epsilon


Loss: TypeAlias = Callable[[TrainingEstimate, LossBatch, NoiseLevel], Tensor]
"""(estimate, batch, level) -> the loss of each sample, (batch,): the mean over its other axes."""


def _squared(config: DiffusionConfig) -> Loss:
    """weight * (epsilon - estimate)^2, Ho et al. (2020), eq. 14 where the weight is 1."""
    return lambda estimate, batch, level: _mean((level.weight.sqrt() * estimate.epsilon_error).square())


def _huber(config: DiffusionConfig) -> Loss:
    """Huber (1964) of e = sqrt(weight) (epsilon - estimate): e^2 / 2 up to d = huber_delta, then d (|e| - d / 2)."""

    def loss(estimate: TrainingEstimate, batch: LossBatch, level: NoiseLevel) -> Tensor:
        error = level.weight.sqrt() * estimate.epsilon_error
        return _mean(F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=config.huber_delta))

    return loss


LOSSES: dict[str, Callable[..., Loss]] = {"squared": _squared, "huber": _huber}
"""Losses by name: (config[, options]) -> Loss."""


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


class GaussianDiffusion:
    """The forward process of a schedule, and the loss that trains a predictor to undo it.

    Samples have a batch axis and any others. Pass float32 or wider: the loss has the dtype of `clean`, whatever that
    of the predictor's output. Raises ValueError for a loss that does not exist.
    """

    def __init__(self, schedule: NoiseSchedule, config: DiffusionConfig) -> None:
        self.schedule = schedule
        self.config = config
        self._loss: Loss = make(LOSSES, config.loss, "diffusion.loss", config.options, config)

    def add_noise(self, clean: Images, t: Timesteps, epsilon: Images) -> Images:
        """x_t = signal * clean + noise * epsilon, Ho et al. (2020), eq. 4: a sample of q(x_t | x_0) for normal epsilon.

        `clean` is in [-1, 1]; t is (batch,).
        """
        return self.schedule.signal(t, clean) * clean + self.schedule.noise(t, clean) * epsilon

    def loss(
        self,
        predictor: Predictor,
        clean: Images,
        degraded: Images | None,
        t: Timesteps,
        epsilon: Images,
        labels: Sequence[str | None] = (),
    ) -> Tensor:
        """The loss of each sample, (batch,), of images in [-1, 1]: that of the config.

        With a relative floor, it is divided by relative_floor + mean (degraded - clean)^2. Errors: as `estimate`.
        """
        output = predictor(self.add_noise(clean, t, epsilon), t, degraded)
        level = NoiseLevel(t, self.schedule.signal(t, clean), self.schedule.noise(t, clean), self._weight(t, clean))
        batch = LossBatch(clean, degraded, labels)
        loss = self._loss(TrainingEstimate(self.config.prediction, output, batch, epsilon, level), batch, level)
        if not self.config.relative_floor or degraded is None:
            return loss
        return loss / (self.config.relative_floor + _mean((degraded - clean).square()))

    def _weight(self, t: Timesteps, like: Images) -> Tensor:
        """(batch, 1, .., 1): the weight on epsilon's squared error; the clean image's is SNR times as much."""
        snr = self.schedule.snr(t, like)
        match self.config.weighting:
            case "none":
                return torch.ones_like(snr)
            case "snr_clamp":  # clamp(SNR) of the clean image: Hang et al. (2023, min-SNR), and a floor
                return snr.clamp(self.config.snr_min, self.config.snr_max) / snr
            case "p2":  # 1 / (k + SNR)^gamma, Choi et al. (2022)
                return (self.config.p2_k + snr) ** -self.config.p2_gamma


def draw_timesteps(
    kind: TimestepDraw, first: int, num: int, total: int, num_timesteps: int, seed: int, step: int
) -> Timesteps:
    """Draw t for the samples first .. first + num - 1 of a training step's batch of `total`; (num,), on the CPU.

    The batch depends on (seed, step) alone, so that the parts that processes and micro-batches draw make up the whole.
    Every sample's t is uniform, except with `late`. ValueError when the part is not within the batch.
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
