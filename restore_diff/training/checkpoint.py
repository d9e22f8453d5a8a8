"""A checkpoint: a folder of safetensors and JSON that exists whole or not at all, with checksums. No pickle.

00000400/ holds model.safetensors, ema.safetensors, optimizer.safetensors and state.json.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from restore_diff.files import sync_folder, write_durably
from restore_diff.training.checkpoint_state import (
    STATE,
    TENSORS,
    DamagedCheckpoint,
    FileRecord,
    Progress,
    State,
    TensorsName,
    encode_state,
    read_at_most,
    read_state,
    sha256,
)

PARTIAL = ".partial-"


class NotFinite(ValueError):
    """A tensor that is to be kept holds a nan or an infinity."""


class CheckpointNotSaved(OSError):
    """The disk refused a checkpoint; nothing of it was left, and older ones were not touched."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All that a run consists of. Tensors by the names of the model's state_dict, the optimizer's as `name/key`."""

    progress: Progress
    config: dict[str, Any]
    versions: dict[str, str]
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor.nbytes for group in (self.model, self.ema, self.optimizer) for tensor in group.values())


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint beside, read it back, then publish it by one rename as e.g. `folder`/00000400.

    Raises CheckpointNotSaved where the disk does not take it, NotFinite.
    """
    final = folder / f"{checkpoint.progress.step:08d}"
    partial = folder / f"{PARTIAL}{final.name}"
    try:
        partial.mkdir(parents=True)
        _write_files(partial, checkpoint)
        verify_checkpoint(partial)
        partial.rename(final)
        sync_folder(folder)
    except (OSError, DamagedCheckpoint) as error:
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free
        reason = error.strerror if isinstance(error, OSError) else error
        sizes = f"it needs {checkpoint.num_bytes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        raise CheckpointNotSaved(f"checkpoint {final.name} not saved: {reason}; {sizes}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify all of it. Raises DamagedCheckpoint."""
    state = read_state(path)
    model, ema, optimizer = (read_tensors(path, state, name) for name in TENSORS)
    return Checkpoint(state.progress, state.config, state.versions, model, ema, optimizer)


def verify_checkpoint(path: Path) -> None:
    """Raise DamagedCheckpoint where a byte is not what it was."""
    state = read_state(path)
    for name in TENSORS:
        _read_verified(path, state, name)


def read_tensors(path: Path, state: State, name: TensorsName) -> dict[str, Tensor]:
    """Read one of the tensor files of a checkpoint, verified. Raises DamagedCheckpoint."""
    data = _read_verified(path, state, name)
    try:
        tensors = safetensors.torch.load(data)
        require_finite(tensors)
    except (SafetensorError, ValueError) as error:
        raise DamagedCheckpoint(path, name, error) from error
    return tensors


def require_finite(tensors: dict[str, Tensor]) -> None:
    """Raise NotFinite, naming the tensor."""
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise NotFinite(f"{key} is not finite")


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous, as files keep them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    files: dict[TensorsName, FileRecord] = {}
    for name, tensors in zip(TENSORS, (checkpoint.model, checkpoint.ema, checkpoint.optimizer), strict=True):
        require_finite(tensors)
        data = safetensors.torch.save(on_cpu(tensors))
        files[name] = FileRecord(num_bytes=len(data), sha256=sha256(data))
        write_durably(folder / name, data)
    state = State(
        format=1, progress=checkpoint.progress, config=checkpoint.config, versions=checkpoint.versions, files=files
    )
    write_durably(folder / STATE, encode_state(state))
    sync_folder(folder)


def _read_verified(path: Path, state: State, name: TensorsName) -> bytes:
    record = state.files[name]
    try:
        data = read_at_most(path / name, record.num_bytes)
        if len(data) < record.num_bytes:
            raise ValueError(f"{len(data)} of {record.num_bytes} bytes")
        if sha256(data) != record.sha256:
            raise ValueError("checksum differs")
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(path, name, error) from error
    return data
