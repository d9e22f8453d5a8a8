"""Between a running optimisation and a checkpoint of it."""

from typing import Any

from restore_diff.provenance import versions
from restore_diff.training.checkpoint import Checkpoint
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


def restore_snapshot(optimisation: Optimisation, checkpoint: Checkpoint) -> None:
    """Go on from a checkpoint as if nothing had happened. Raises ValueError where names or shapes differ."""
    try:
        optimisation.model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise ValueError(f"the checkpoint's weights do not fit the model: {first[0].strip()}") from error
    optimisation.ema.load(checkpoint.ema)
    load_optimizer_tensors(optimisation.model, optimisation.optimizer, checkpoint.optimizer)
    scale = checkpoint.progress.loss_scale
    if scale is not None and optimisation.scaler.is_enabled():
        saved = {"scale": scale.scale, "_growth_tracker": scale.growth_tracker}
        optimisation.scaler.load_state_dict(optimisation.scaler.state_dict() | saved)
    optimisation.meter.load(checkpoint.progress.meter_totals)
