"""Between a running optimisation and a checkpoint of it."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from restore_diff.provenance import versions
from restore_diff.training.changes import ConfigChanged
from restore_diff.training.checkpoint import Checkpoint, on_cpu
from restore_diff.training.checkpoint_state import Best, LossScale, Progress
from restore_diff.training.optimisation import Optimisation
from restore_diff.training.optimizer_state import load_optimizer_tensors, optimizer_tensors


def take_snapshot(optimisation: Optimisation, step: int, best: Best | None, config: dict[str, Any]) -> Checkpoint:
    """All that the steps after `step` depend on. The tensors are those in use, not copies."""
    scaler = optimisation.scaler.state_dict()  # empty unless float16
    loss_scale = LossScale(scale=scaler["scale"], growth_tracker=scaler["_growth_tracker"]) if scaler else None
    totals = optimisation.meter.totals()
    return Checkpoint(
        progress=Progress(step=step, best=best, loss_scale=loss_scale, meter_totals=totals),
        config=config,
        versions=versions(),
        model=optimisation.model.state_dict(),
        ema=optimisation.ema.weights,
        optimizer=optimizer_tensors(optimisation.model, optimisation.optimizer),
    )


def digests(checkpoint: Checkpoint) -> dict[str, str]:
    """Of the weights, their averages and the optimizer's state: equal where all bits are."""
    parts = {"weights": checkpoint.model, "averages": checkpoint.ema, "optimizer": checkpoint.optimizer}
    return {name: _digest(on_cpu(tensors)) for name, tensors in parts.items()}


def restore_snapshot(optimisation: Optimisation, checkpoint: Checkpoint) -> None:
    """Go on from a checkpoint as if nothing had happened. Raises ConfigChanged where names, shapes or types differ."""
    _require_same_shapes(checkpoint.model, optimisation.model.state_dict())
    optimisation.model.load_state_dict(checkpoint.model)
    try:
        optimisation.ema.load(checkpoint.ema)
        load_optimizer_tensors(optimisation.model, optimisation.optimizer, checkpoint.optimizer)
    except ValueError as error:
        raise ConfigChanged(f"the checkpoint is not of this model: {error}") from error
    scale = checkpoint.progress.loss_scale
    if scale is not None and optimisation.scaler.is_enabled():
        saved = {"scale": scale.scale, "_growth_tracker": scale.growth_tracker}
        optimisation.scaler.load_state_dict(optimisation.scaler.state_dict() | saved)
    optimisation.meter.load(checkpoint.progress.meter_totals)


def _require_same_shapes(saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    common = saved.keys() & wanted.keys()
    reshaped = sorted(name for name in common if _kind(saved[name]) != _kind(wanted[name]))
    unknown, missing = sorted(saved.keys() - common), sorted(wanted.keys() - common)
    kinds = {"of another shape or type": reshaped, "not in the model": unknown, "not in the checkpoint": missing}
    if found := [f"{len(names)} {kind}, e.g. {names[0][:100]}" for kind, names in kinds.items() if names]:
        raise ConfigChanged(f"the checkpoint is not of this model of {len(wanted)} tensors: {'; '.join(found)}")


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} ".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
