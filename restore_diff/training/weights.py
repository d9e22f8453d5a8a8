"""Weights for others: one safetensors file with the config in its metadata; and the averaged weights of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from restore_diff.files import replace_atomically
from restore_diff.settings import settings
from restore_diff.training.checkpoint import (
    MAX_STATE_BYTES,
    STATE,
    best_checkpoint,
    newest_valid,
    on_cpu,
    read_state,
    read_tensors,
    require_finite,
)

METADATA_KEY = "restore_diff"


class WeightsError(ValueError):
    """A path does not lead to weights of this project."""


class Weights(NamedTuple):
    tensors: dict[str, Tensor]
    """By the names of the model's state_dict."""
    config: dict[str, Any]
    """Of the experiment that trained them."""
    step: int
    """Optimizer steps done."""


@settings
class Metadata:
    config: dict[str, Any]
    step: int = Field(ge=0)


def save_weights(
    path: Path, model_state: dict[str, Tensor], config: dict[str, Any], step: int, half: bool = False, card: str = ""
) -> None:
    """Write one safetensors file, whole or not at all; `half`: its numbers in float16. `card`: a text for readers.

    Raises NotFinite for weights that are not finite, or that float16 cannot hold.
    """
    if half:
        model_state = {name: t.half() if t.is_floating_point() else t for name, t in model_state.items()}
    require_finite(model_state)
    # Loaders of other projects look for "format": "pt".
    metadata = {"format": "pt", METADATA_KEY: json.dumps({"config": config, "step": step}, allow_nan=False)}
    if card:
        metadata["model_card"] = card
    replace_atomically(path, safetensors.torch.save(on_cpu(model_state), metadata))


def load_weights(path: Path) -> Weights:
    """Read what `save_weights` wrote, float16 as float32. Raises WeightsError, naming the path."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise WeightsError(f"{path}: neither a file nor a folder")
    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            text = (file.metadata() or {}).get(METADATA_KEY, "")
            if not 0 < len(text) <= MAX_STATE_BYTES:
                raise WeightsError(f"{path}: its metadata holds no config of this project")
            metadata = TypeAdapter(Metadata).validate_json(text)
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in stored.items()}
        require_finite(tensors)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a safetensors file ({str(error)[:200]}); pickles are never opened") from error
    except ValidationError as error:
        raise WeightsError(f"{path}: its metadata is damaged ({error.errors()[0]['msg']})") from error
    except ValueError as error:
        raise error if isinstance(error, WeightsError) else WeightsError(f"{path}: {error}") from error
    return Weights(tensors, metadata.config, metadata.step)


def load_checkpoint_weights(path: Path, report: Callable[[str], None] = print) -> Weights:
    """The averaged weights of a weights file, of a checkpoint, or of the best (else the newest) checkpoint of a run.

    Only what is read is verified. A damaged newest checkpoint is reported, and the one before it used. Raises
    WeightsError, DamagedCheckpoint or NoIntactCheckpoint, all of them ValueError.
    """
    if not path.is_dir():
        return load_weights(path)
    if (path / STATE).exists():
        return _read_averaged(path)
    best = best_checkpoint(path / "checkpoints")
    weights = _read_averaged(best) if best else newest_valid(path / "checkpoints", _read_averaged, report)
    if weights is None:
        raise WeightsError(f"{path}: holds neither {STATE} nor checkpoints")
    return weights


def _read_averaged(checkpoint: Path) -> Weights:
    state = read_state(checkpoint)
    return Weights(read_tensors(checkpoint, state, "ema.safetensors"), state.config, state.progress.step)
