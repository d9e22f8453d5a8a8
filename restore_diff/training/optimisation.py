"""One optimizer step after the other: batch -> loss -> backward -> clip -> step -> ema."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW

from restore_diff.diffusion.gaussian import GaussianDiffusion, draw_noise, draw_timesteps
from restore_diff.diffusion.prediction import Predictor
from restore_diff.hints import hints, hints_with_dropout
from restore_diff.randomness import mix
from restore_diff.tensors import Images, Timesteps, to_model_range
from restore_diff.training.config import TrainingConfig
from restore_diff.training.distributed import ALONE, Processes
from restore_diff.training.ema import ExponentialMovingAverage
from restore_diff.training.muon import Muon
from restore_diff.training.recogniser import Recogniser, all_but_recognition
from restore_diff.training.watch import FiniteGuard, Meter

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingBatch(Protocol):
    """The part of a global batch that is computed at once, on the CPU, in [0, 1]."""

    @property
    def clean(self) -> Images: ...
    @property
    def degraded(self) -> Images: ...
    @property
    def positions(self) -> list[int]:
        """Of each sample in the whole run: step * batch_size + place in the global batch; consecutive."""
        ...

    @property
    def names(self) -> list[str]: ...
    @property
    def weathers(self) -> Sequence[str | None]:
        """What each shows, where that is known."""
        ...


def learning_rate(config: TrainingConfig, num_steps_done: int) -> float:
    """Rate of the next update: a linear warm-up, then constant, or half a cosine to 0 (Loshchilov & Hutter, 2017)."""
    if num_steps_done < config.warmup_steps:
        return config.learning_rate * (num_steps_done + 1) / config.warmup_steps
    if config.learning_rate_decay == "constant":
        return config.learning_rate
    progress = (num_steps_done - config.warmup_steps) / (config.num_steps - config.warmup_steps)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def new_optimizer(model: nn.Module, config: TrainingConfig) -> AdamW:
    """That of the config, for a model on its device. It leaves all as it is where its `found_inf` is 1."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "muon":
        return Muon(model, rate, decay, torch.float32 if config.precision == "float32" else torch.bfloat16)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return AdamW(trained, lr=rate, weight_decay=decay, fused=True)


class Optimisation:
    """A network on its device with its optimizer, averaged weights and loss scale. No step waits for the device.

    A step is a function of (weights, seed, number of steps done, images) alone: noise levels and noise are drawn by
    sample position, dropout by step and process, the rate follows from the step. Several processes that each take a
    part of the batch do the step of one, but for the order of sums, and for dropout.
    """

    def __init__(
        self,
        model: nn.Module,
        diffusion: GaussianDiffusion,
        config: TrainingConfig,
        seed: int,
        device: torch.device,
        processes: Processes = ALONE,
    ):
        self._memory_format = torch.contiguous_format if device.type == "mps" else torch.channels_last
        self._takes_hints = getattr(model, "weather_embedding", None) is not None
        weights = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.model = model.to(device, memory_format=weights).train()  # type: ignore[call-overload]
        network = Recogniser(model) if config.part == "recognition" else all_but_recognition(model)
        # Before the averages are copied from the weights, because all start from the first process's.
        self._network = processes.sharing_gradients(torch.compile(network) if config.compile else network)  # type: ignore[arg-type]
        self.ema = ExponentialMovingAverage(model, config.ema_decay)
        self.optimizer = new_optimizer(model, config)
        self.scaler = GradScaler(device.type, enabled=config.precision == "float16")
        self.guard = FiniteGuard(device, self.scaler.is_enabled(), processes.num)
        self.meter = Meter(device)
        self._diffusion, self._config, self._seed, self.device = diffusion, config, seed, device
        self.processes = processes

    def advance(self, num_steps_done: int, batches: Iterator[TrainingBatch]) -> list[TrainingBatch]:
        """Do one optimizer step on the next `num_micro_batches` batches, and return these."""
        used = list(islice(batches, self._config.num_micro_batches))
        torch.manual_seed(mix(self._seed, "dropout", num_steps_done, self.processes.rank))
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.processes.all_losses(self.add_gradients(num_steps_done, used))
        self.scaler.unscale_(self.optimizer)
        gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_gradient_norm)
        skip = self.guard.skip(num_steps_done + 1, losses, gradient_norm)
        self._update(num_steps_done, skip)
        self.ema.update(num_steps_done + 1)
        self.meter.add(losses.sum(), gradient_norm, skip)
        return used

    def add_gradients(self, num_steps_done: int, batches: Sequence[TrainingBatch]) -> Tensor:
        """Compute the gradients of one step, summed over the processes; returns this process's part of the loss."""
        loss = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches, start=1):
            is_last = number == len(batches)
            with nullcontext() if is_last else self.processes.keeping_gradients(self._network):
                part = self.loss(num_steps_done, batch)
                self.scaler.scale(part).backward()
            loss += part.detach()
        return loss

    def loss(self, num_steps_done: int, batch: TrainingBatch) -> Tensor:
        """The part of the global batch's mean loss that comes from these samples."""
        clean, degraded = self._on_device(batch.clean), self._on_device(batch.degraded)
        total = self._config.batch_size
        first, num = batch.positions[0] - num_steps_done * total, len(batch.positions)
        assert 0 <= first <= total - num, f"sample {batch.positions[0]} is not of step {num_steps_done}"
        kind, num_timesteps = self._diffusion.config.timesteps, self._diffusion.schedule.num_timesteps
        t = draw_timesteps(kind, first, num, total, num_timesteps, self._seed, num_steps_done)
        epsilon = draw_noise(clean, batch.positions, self._seed)
        if self._config.part == "recognition":
            last = torch.full_like(t, num_timesteps - 1)
            return self._recognition_loss(batch, epsilon, self._on(last), degraded).sum() / total
        predict = self._predictor(batch)
        return self._diffusion.loss(predict, clean, degraded, self._on(t), epsilon).sum() / total

    def _recognition_loss(self, batch: TrainingBatch, noise: Images, last: Timesteps, degraded: Images) -> Tensor:
        """(batch,): the cross-entropy of each kind of weather, their mean, where it is known; else 0."""
        known = self._on(torch.tensor([weather is not None for weather in batch.weathers]))
        with self._autocast():
            logits = self._network(noise, last, degraded)
        errors = F.binary_cross_entropy_with_logits(logits, self._on(hints(batch.weathers)), reduction="none")
        return errors.mean(1) * known

    def _predictor(self, batch: TrainingBatch) -> Predictor:
        """The network, told the weather of some samples where it can be told."""
        told = {}
        if self._takes_hints:
            positions, dropout = batch.positions, self._config.hint_dropout
            told["weather"] = self._on(hints_with_dropout(batch.weathers, positions, dropout, self._seed))

        def predict(x_t: Images, t: Timesteps, degraded: Images | None) -> Images:
            with self._autocast():
                return self._network(x_t, t, degraded, **told).float()

        return predict

    def _autocast(self) -> AbstractContextManager[object]:
        if self._config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self._config.precision])

    def _update(self, num_steps_done: int, skip: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._config, num_steps_done)
        # The fused kernel leaves parameters, moments and its own step count alone where found_inf is 1.
        self.optimizer.found_inf = skip  # type: ignore[attr-defined]
        self.optimizer.step()
        self.scaler.update()

    def _on(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _on_device(self, images: Images) -> Images:
        images = images.to(self.device, non_blocking=True, memory_format=self._memory_format)
        return to_model_range(images)
