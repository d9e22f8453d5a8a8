"""The folder of one run: held by one process at a time, with all that the run depended on."""

import fcntl
import itertools
import json
import os
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import torch

from restore_diff.files import remove_abandoned, replace_atomically
from restore_diff.provenance import environment

LOCK = ".lock"
RunState = Literal["running", "finished", "preempted", "failed"]


class RunFolderError(ValueError):
    """The folder cannot be used."""


class RunFolder:
    """runs/NAME/, locked within `with` by this process; the lock dies with the process, however it ends.

    config.yaml  command.txt  environment.json  data.json  status.json  log.txt  metrics.jsonl  tb/  samples/
    checkpoints/
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"

    def __enter__(self) -> Self:
        with self._writing():
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            holder = self._lock.read(200).strip() or "another process"
            self._lock.close()
            raise RunFolderError(f"{self.path} is in use by {holder}") from error
        # A worker process that outlives a killed trainer must not go on holding the lock.
        os.register_at_fork(after_in_child=self._lock.close)
        with self._writing():
            self._lock.truncate(0)
            self._lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
            self._lock.flush()
            remove_abandoned([self.path, self.checkpoints, self.path / "samples"])
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def set_aside(self) -> Path | None:
        """Move an earlier run's files to previous-001/, so that a new one can begin. None where there were none."""
        old = [entry for entry in self.path.iterdir() if entry.name != LOCK and not entry.name.startswith("previous-")]
        if not any(entry.is_file() or any(entry.iterdir()) for entry in old):
            return None
        taken = {entry.name for entry in self.path.glob("previous-*")}
        name = next(name for number in itertools.count(1) if (name := f"previous-{number:03d}") not in taken)
        previous = self.path / name
        previous.mkdir()
        for entry in old:
            entry.rename(previous / entry.name)
        self.checkpoints.mkdir()
        return previous

    def record_start(self, config_text: str, command: Sequence[str], device: torch.device) -> None:
        """Keep the resolved config, the command (one line per start) and the environment. Raises RunFolderError."""
        with self._writing():
            replace_atomically(self.path / "config.yaml", config_text.encode())
            with (self.path / "command.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{shlex.join(command)}\n")
            self.write_json("environment.json", environment() | {"device": str(device)})

    def write_status(self, state: RunState, step: int, reason: str = "") -> None:
        """Tell watchers how the run stands: `step` optimizer steps are done."""
        self.write_json("status.json", {"state": state, "step": step, "reason": reason})

    def write_json(self, name: str, values: dict[str, object]) -> None:
        """Write a file of the run folder, whole or not at all."""
        replace_atomically(self.path / name, json.dumps(values, indent=1, allow_nan=False).encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(f"cannot write the run folder {self.path}: {error.strerror}") from error
