"""One optimizer step: averaged weights, Muon, optimizer state, finite checks, loss and gradients."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW, Optimizer

from restore_diff.diffusion.loss import GaussianDiffusion, draw_noise, draw_timesteps
from restore_diff.diffusion.prediction import Predictor
from restore_diff.distributed import ALONE, TrainingProcesses
from restore_diff.labels import LABELS, hints_with_dropout
from restore_diff.randomness import mix
from restore_diff.settings import TrainingConfig
from restore_diff.tensors import IDENTITY, Codec, Images, Timesteps


class ExponentialMovingAverage:
    """Follows the weights of a model, which is on its device already: average += (1 - decay_n) (weight - average).

    Buffers are copied. decay_n = min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not dominated
    by its random start (the `num_updates` rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        """By the names of the model's state_dict."""
        parameters = {name for name, _ in model.named_parameters()}
        followed = model.state_dict()
        self._averages = [self.weights[name] for name in followed if name in parameters]
        self._parameters = [followed[name] for name in followed if name in parameters]
        self._copied = [(self.weights[name], followed[name]) for name in followed if name not in parameters]

    def decay_after(self, num_updates: int) -> float:
        """decay_n, for n >= 1 optimizer steps done."""
        return min(self.decay, (1 + num_updates) / (10 + num_updates))

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Average in the model's weights after `num_updates` optimizer steps."""
        step = 1 - self.decay_after(num_updates)
        torch._foreach_lerp_(self._averages, self._parameters, step)  # pyright: ignore[reportPrivateImportUsage]
        for copy, buffer in self._copied:
            copy.copy_(buffer)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Load saved averages. Raises ValueError if names or shapes differ."""
        _copy_into(self.weights, weights)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Inside, the model has the averaged weights; its own are restored on leaving."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        _copy_into(model.state_dict(), self.weights)
        try:
            yield model
        finally:
            _copy_into(model.state_dict(), own)


@torch.no_grad()
def _copy_into(targets: dict[str, Tensor], sources: dict[str, Tensor]) -> None:
    if targets.keys() != sources.keys():
        names = [name[:100] for name in sorted(targets.keys() ^ sources.keys())[:3]]
        raise ValueError(f"names of weights differ: {', '.join(names)}, ...")
    for name, target in targets.items():
        if target.shape != sources[name].shape:
            raise ValueError(f"{name}: shape {tuple(sources[name].shape)} where the model has {tuple(target.shape)}")
        target.copy_(sources[name])


# Muon (Jordan et al., 2024): orthogonalised momentum for the matrices inside a network, AdamW for the rest.

MOMENTUM = 0.95
NUM_ITERATIONS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Quintic of Jordan et al.: it moves singular values quickly to between 0.7 and 1.2, not exactly to 1."""
UPDATE_RMS = 0.2
"""RMS of AdamW's updates in units of the rate, so that both use one rate; Liu et al. (2025, arXiv 2502.16982)."""
ENDS = ("conv_in.", "conv_out.", "weather_embedding.", "weather_head.")
"""Layers that read or write images or hints; their matrices are not between features."""


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon updates this parameter: a matrix between features, not a depthwise convolution."""
    return parameter.ndim >= 2 and parameter.shape[1] > 1 and not name.startswith(ENDS)


class Muon(AdamW):
    """Muon for the inner matrices of a model, fused AdamW for its other parameters, both at the same rate.

    A convolution's weight is the matrix (out, in * height * width). As the fused AdamW does, it leaves parameters and
    state alone where `found_inf` is 1, without waiting for the device. `dtype` is that of the iterations. step() uses
    the gradients of the matrices up.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, dtype: torch.dtype):
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        matrices = [parameter for name, parameter in named.items() if is_inner_matrix(name, parameter)]
        others = [parameter for name, parameter in named.items() if not is_inner_matrix(name, parameter)]
        groups = [{"params": others, "orthogonal": False}, {"params": matrices, "orthogonal": True}]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters."""
        found_inf = getattr(self, "found_inf", None)
        for group in self.param_groups:
            if not group["orthogonal"]:
                continue
            for matrices in _by_shape(group["params"]):
                done = torch.ones((), device=matrices[0].device) if found_inf is None else 1 - found_inf
                self._update(matrices, done, group["lr"], group["weight_decay"])
                for matrix in matrices:
                    matrix.grad = None  # AdamW skips these
        super().step(closure)

    def _update(self, matrices: list[nn.Parameter], done: Tensor, lr: float, weight_decay: float) -> None:
        """Update matrices of one shape. `done`: 0 to leave all as it is, else 1."""
        directions = []
        for matrix in matrices:
            assert matrix.grad is not None
            state = self.state[matrix]
            if not state:
                state.update(step=torch.zeros((), device=matrix.device), exp_avg=torch.zeros_like(matrix))
            state["step"] += done
            gradient = torch.where(done > 0, matrix.grad, 0)
            state["exp_avg"].lerp_(gradient, (1 - MOMENTUM) * done)
            directions.append(gradient.lerp(state["exp_avg"], MOMENTUM).flatten(1))  # Nesterov's
        rows, columns = directions[0].shape
        length = lr * UPDATE_RMS * max(rows, columns) ** 0.5 * done
        for matrix, direction in zip(matrices, orthogonalised(torch.stack(directions).to(self._dtype)), strict=True):
            matrix.mul_(1 - lr * weight_decay * done)
            matrix.sub_(direction.to(matrix.dtype).reshape(matrix.shape) * length)


def orthogonalised(matrices: Tensor) -> Tensor:
    """(number, rows, columns): the same singular vectors, with singular values near 1, by a Newton-Schulz iteration."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        square = wide @ wide.mT
        square = torch.baddbmm(square, square, square, beta=b, alpha=c)
        wide = torch.baddbmm(wide, square, wide, beta=a)
    return wide.mT if is_tall else wide


def _by_shape(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Matrices with a gradient, grouped by shape: small matrices one by one would leave a device idle."""
    found: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            found.setdefault(parameter.shape, []).append(parameter)
    return list(found.values())


# Optimizer state as plain tensors named after the parameters, so that its file needs no pickle.

ADAMW_KEYS = {"step", "exp_avg", "exp_avg_sq"}
MUON_KEYS = {"step", "exp_avg"}
"""State per parameter of AdamW, and per matrix of Muon."""


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """State by names such as `conv_in.weight/exp_avg`. Rates are not part of it: they follow from config and step."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def load_optimizer_tensors(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load `optimizer_tensors`. Raises ValueError for a name, shape or type that the model does not have."""
    parameters = dict(model.named_parameters())
    state: dict[str, dict[str, Tensor]] = {}
    for path, saved in tensors.items():
        name, _, key = path.rpartition("/")
        if name not in parameters:
            raise ValueError(f"optimizer state of {(name or path)[:100]}, which the model does not have")
        state.setdefault(name, {})[key] = _like(parameters[name], path, key, saved)
    # load_state_dict places the step counters on the device that this optimizer needs.
    names = {id(parameter): name for name, parameter in parameters.items()}
    indexed: dict[int, dict[str, Tensor]] = {}
    number = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if name in state:
                indexed[number] = _complete(name, state[name], MUON_KEYS if group.get("orthogonal") else ADAMW_KEYS)
            number += 1
    optimizer.load_state_dict({"state": indexed, "param_groups": optimizer.state_dict()["param_groups"]})


def _complete(name: str, values: dict[str, Tensor], keys: set[str]) -> dict[str, Tensor]:
    if values.keys() != keys:
        wrong = ", ".join(sorted(values.keys() ^ keys))
        raise ValueError(f"optimizer state of {name} has not what this optimizer keeps, or more: {wrong[:100]}")
    return values


def _like(parameter: Tensor, path: str, key: str, saved: Tensor) -> Tensor:
    """A copy with the strides of the parameter: fused kernels need them equal, and files do not keep them."""
    wanted = torch.Size() if key == "step" else parameter.shape
    if saved.shape != wanted:
        raise ValueError(f"optimizer state {path} has shape {tuple(saved.shape)}, the model {tuple(wanted)}")
    if saved.dtype != torch.float32:
        raise ValueError(f"optimizer state {path} is {saved.dtype}, not float32")
    if key == "step":
        return saved.clone()
    return torch.empty_like(parameter).copy_(saved)


# Loss and gradient statistics, gathered on the device without a host sync.

MAX_OVERFLOWS_IN_A_ROW = 20


class NonFinite(NamedTuple):
    step: int
    loss: float
    gradient_norm: float
    ranks: list[int]
    """Ranks whose part of the loss was not finite; empty if only the gradient was not."""

    def __str__(self) -> str:
        name, value = ("gradient norm", self.gradient_norm) if abs(self.loss) < float("inf") else ("loss", self.loss)
        return f"{name} is {value} at step {self.step}"


class FiniteGuard:
    """Decides on the device whether to skip an update, and records the reason.

    After the first loss or gradient that is not finite, every update is skipped: the weights stay those before it until
    somebody looks. Only with float16 is a gradient that overflows ordinary: that one update is skipped.
    """

    def __init__(self, device: torch.device, overflow_is_ordinary: bool, num_processes: int):
        self._overflow_is_ordinary = overflow_is_ordinary
        self._step = torch.full((), -1, dtype=torch.int64, device=device)
        self._values = torch.zeros(2, device=device)  # loss, gradient norm
        self._losses = torch.zeros(num_processes, device=device)
        self._overflows_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._overflows = torch.zeros((), dtype=torch.int64, device=device)

    def skip(self, step: int, losses: Tensor, gradient_norm: Tensor) -> Tensor:
        """1.0 if the update of step `step` must be skipped, else 0.0; float32 scalar on the device.

        `losses` are the parts that the processes computed, by rank.
        """
        values = torch.stack([losses.sum(), gradient_norm])
        loss_is_finite, gradient_is_finite = values.isfinite()
        broken = ~loss_is_finite if self._overflow_is_ordinary else ~(loss_is_finite & gradient_is_finite)
        first = broken & (self._step < 0)
        self._step = torch.where(first, step, self._step)
        self._values = torch.where(first, values, self._values)
        self._losses = torch.where(first, losses, self._losses)

        overflow = ~gradient_is_finite
        self._overflows_in_a_row = (self._overflows_in_a_row + 1) * overflow
        self._overflows += overflow
        return ((self._step >= 0) | overflow).to(values.dtype)

    def found(self) -> NonFinite | None:
        """The first step that was not finite. Waits for the device."""
        step = int(self._step)
        if step < 0:
            return None
        ranks = (~self._losses.isfinite()).nonzero().flatten().tolist()
        loss, gradient_norm = self._values.tolist()
        return NonFinite(step, loss, gradient_norm, ranks)

    def overflows(self) -> tuple[int, int]:
        """Updates skipped for a float16 overflow: in a row, and in total. Waits for the device."""
        return int(self._overflows_in_a_row), int(self._overflows)


class Meter:
    """Means of loss and gradient norm over the updates since the last reading."""

    def __init__(self, device: torch.device):
        self._totals = torch.zeros(3, device=device)  # loss, gradient norm, number of updates

    def add(self, loss: Tensor, gradient_norm: Tensor, skipped: Tensor) -> None:
        values = torch.stack([loss, gradient_norm, torch.ones_like(loss)])
        self._totals += torch.where(skipped > 0, 0, values)

    def read(self) -> tuple[float, float]:
        """Mean loss and mean gradient norm, nan without any update; then resets. Waits for the device."""
        loss, gradient_norm, num_updates = self._totals.tolist()
        self._totals.zero_()
        return (loss / num_updates, gradient_norm / num_updates) if num_updates else (float("nan"), float("nan"))

    def totals(self) -> tuple[float, float, float]:
        """State from which a resumed run logs the same means. Waits for the device."""
        loss, gradient_norm, num_updates = self._totals.tolist()
        return loss, gradient_norm, num_updates

    def load(self, totals: tuple[float, float, float]) -> None:
        self._totals.copy_(torch.tensor(totals))


# One optimizer step: batch -> loss -> backward -> clip -> step -> ema.

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingBatch(Protocol):
    """The part of a global batch that is computed at once, on the CPU, in [0, 1]."""

    @property
    def clean(self) -> Images: ...
    @property
    def degraded(self) -> Images | None: ...
    @property
    def positions(self) -> list[int]:
        """Position of each sample in the run: step * batch_size + place in the global batch; consecutive."""
        ...

    @property
    def names(self) -> list[str]: ...
    @property
    def weathers(self) -> Sequence[str | None]:
        """Weather of each, None where it is unknown."""
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
    """The optimizer of the config, for a model on its device. It skips an update if its `found_inf` is 1."""
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
        processes: TrainingProcesses = ALONE,
        codec: Codec = IDENTITY,
    ):
        self._memory_format = torch.contiguous_format if device.type == "mps" else torch.channels_last
        self._takes_hints = getattr(model, "weather_embedding", None) is not None
        config_of_model: Any = getattr(model, "config", None)
        self._labels: Sequence[str] = config_of_model.labels if self._takes_hints else LABELS
        self._codec = codec
        weights = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.model = model.to(device, memory_format=weights).train()  # type: ignore[call-overload]
        if (head := getattr(model, "weather_head", None)) is not None:
            head.requires_grad_(False)  # trained apart: this loss does not use it
        # Before the averages are copied: wrap_ddp replaces the weights by those of the first process.
        self._network = processes.wrap_ddp(torch.compile(model) if config.compile else model)  # type: ignore[arg-type]
        self.ema = ExponentialMovingAverage(model, config.ema_decay)
        self.optimizer = new_optimizer(model, config)
        self.scaler = GradScaler(device.type, enabled=config.precision == "float16")
        self.guard = FiniteGuard(device, self.scaler.is_enabled(), processes.num)
        self.meter = Meter(device)
        self._diffusion, self._config, self._seed, self.device = diffusion, config, seed, device
        self.processes = processes

    def advance(self, num_steps_done: int, batches: Iterator[TrainingBatch]) -> list[TrainingBatch]:
        """Do one optimizer step on the next `num_micro_batches` batches, and return the batches."""
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
            with nullcontext() if is_last else self.processes.without_sync(self._network):
                part = self.loss(num_steps_done, batch)
                self.scaler.scale(part).backward()
            loss += part.detach()
        return loss

    def loss(self, num_steps_done: int, batch: TrainingBatch) -> Tensor:
        """The part of the global batch's mean loss that comes from these samples."""
        clean = self._on_device(batch.clean)
        degraded = None if batch.degraded is None else self._on_device(batch.degraded)
        total = self._config.batch_size
        first, num = batch.positions[0] - num_steps_done * total, len(batch.positions)
        assert 0 <= first <= total - num, f"sample {batch.positions[0]} is not of step {num_steps_done}"
        kind, num_timesteps = self._diffusion.config.timesteps, self._diffusion.schedule.num_timesteps
        t = draw_timesteps(kind, first, num, total, num_timesteps, self._seed, num_steps_done)
        epsilon = draw_noise(clean, batch.positions, self._seed)
        predict = self._predictor(batch)
        return self._diffusion.loss(predict, clean, degraded, self._on(t), epsilon, batch.weathers).sum() / total

    def _predictor(self, batch: TrainingBatch) -> Predictor:
        """The network, with the weather labels of some samples if it takes any."""
        condition = {}
        if self._takes_hints:
            positions, dropout = batch.positions, self._config.hint_dropout
            condition["weather"] = self._on(
                hints_with_dropout(batch.weathers, positions, dropout, self._seed, self._labels)
            )

        def predict(x_t: Images, t: Timesteps, degraded: Images | None) -> Images:
            with self._autocast():
                return self._network(x_t, t, degraded, **condition).float()

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
        with torch.no_grad():
            return self._codec.encode(images)
