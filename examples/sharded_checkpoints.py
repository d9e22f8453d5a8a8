"""Checkpoints of examples/train_sharded.py: each process writes its part as safetensors, without pickle."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from restore_diff.checkpoint import (
    MAX_STATE_BYTES,
    PARTIAL,
    DamagedCheckpoint,
    newest_kept,
    newest_valid,
    prune,
    read_at_most,
    tidy,
)
from restore_diff.config import ExperimentConfig, to_dict
from restore_diff.distributed import TrainingProcesses, TrainingStopped
from restore_diff.files import sync_folder, write_durably
from restore_diff.training.run import NullLog, RunLog, require_same_experiment

MANIFEST = "manifest.json"


class ShardedCheckpoints:
    """The checkpoints in a folder, one folder each. All processes must call each method except `kept`."""

    def __init__(self, folder: Path, config: ExperimentConfig, processes: TrainingProcesses):
        self._folder, self._config, self._processes = folder, config, processes

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write all parts; the first process publishes them by one rename. Raises TrainingStopped."""
        final = self._folder / f"{step:08d}"
        partial = self._folder / f"{PARTIAL}{final.name}"
        try:
            if self._processes.is_first:
                partial.mkdir(parents=True)
            self._processes.wait()
            # The only writer of torch without pickle.
            save(tensors, storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True))
            if self._processes.is_first:
                manifest = {"step": step, "config": to_dict(self._config), "files": _sizes(partial)}
                write_durably(partial / MANIFEST, json.dumps(manifest, indent=1).encode())
                sync_folder(partial)
                partial.rename(final)
                sync_folder(self._folder)
                prune(self._folder, self._config.training.num_checkpoints_kept, best_step=None)
        except (OSError, CheckpointException) as error:
            reason = f"checkpoint {final.name} not saved: {_reason(error)}; {self.kept()}"
            raise TrainingStopped(step, reason) from error
        self._processes.wait()

    def newest(self, log: RunLog | NullLog) -> tuple[int, str]:
        """Return the step of the newest complete checkpoint, 0 without one, and the changes of its config.

        Raises ConfigChanged for changes that are not allowed, NoIntactCheckpoint where all checkpoints are damaged.
        """
        found = newest_valid(self._folder, read_manifest, log.line) if self._processes.is_first else None
        manifest = self._processes.gather(found)[0]
        if not manifest:
            return 0, ""
        changes = require_same_experiment(manifest["config"], to_dict(self._config), to_dict(ExperimentConfig()))
        return manifest["step"], changes

    def load(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Fill the tensors in place, from any number of saved parts. Raises DamagedCheckpoint."""
        path = self._folder / f"{step:08d}"
        try:
            load(tensors, storage_reader=HuggingFaceStorageReader(str(path)))
        except CheckpointException as error:
            raise DamagedCheckpoint(path, "a part", _reason(error)) from error

    def tidy(self, step: int, log: RunLog | NullLog) -> None:
        """Remove partial and later checkpoints before resuming from `step`."""
        if self._processes.is_first:
            tidy(self._folder, step, log.line)

    def kept(self) -> str:
        """Describe the newest checkpoint for an error message."""
        return newest_kept(self._folder)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Raise DamagedCheckpoint where a file is missing or has another length; contents have no checksums."""
    try:
        manifest = json.loads(read_at_most(checkpoint / MANIFEST, MAX_STATE_BYTES))
        if manifest["files"] != _sizes(checkpoint) or manifest["step"] != int(checkpoint.name):
            raise ValueError("files or their lengths differ from the saved ones")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(checkpoint, MANIFEST, error) from error
    return manifest


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(checkpoint.glob("*.safetensors"))}


def _reason(error: Exception | CheckpointException) -> str:
    cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
    return str(cause).partition("\n")[0]
