"""The run folder: config, log, status, and whether a changed config may resume."""

import io
import itertools
import json
import math
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from restore_diff.checkpoint import without_retired
from restore_diff.environment import environment
from restore_diff.errors import UserError
from restore_diff.files import printable, remove_abandoned, replace_atomically

# Whether a changed config may resume from a checkpoint.

HARMLESS = (
    "name",
    "data.root",
    "data.num_workers",
    "data.cache_mib",
    "data.on_bad",
    "training.num_steps",
    "training.compile",
    "training.num_micro_batches",
    "training.log_every_steps",
    "training.validate_every_steps",
    "training.save_every_steps",
    "training.num_checkpoints_kept",
    "sampler",
    "tiling",
    "evaluation",
    "plugins",  # where the files are; `versions` records their hashes, and a resumed run reports a change
)
"""Keys or sections that change speed, length or reports, but not the result of a training step beyond rounding.

`training.num_steps` stretches a cosine rate, which then follows the new length from the resumed step on: allowed,
because users ask for longer training; the log reports it.
"""


class ConfigChanged(UserError):
    """The config differs from that of the run in a way that changes the experiment."""


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ, e.g. `model.base_channels`, including keys of only one of the two."""
    before, after = _flat(json.loads(json.dumps(old))), _flat(json.loads(json.dumps(new)))
    absent = object()
    return sorted(key for key in before | after if before.get(key, absent) != after.get(key, absent))


def refused_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The changed keys that are not harmless."""
    return [key for key in changed_keys(old, new) if not any(key == h or key.startswith(f"{h}.") for h in HARMLESS)]


def describe_changes(keys: list[str], old: dict[str, Any], new: dict[str, Any]) -> str:
    """`model.base_channels 64 -> 96, seed 0 -> 1`; at most ten keys."""
    before, after = _flat(old), _flat(new)
    told = [f"{key} {_shown(before.get(key, 'absent'))} -> {_shown(after.get(key, 'absent'))}" for key in keys[:10]]
    return ", ".join(told) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")


def require_same_experiment(old: dict[str, Any], new: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Raise ConfigChanged where `new` may not continue `old`; otherwise describe the harmless changes, "" for none.

    A key that `old` lacks, because its program did not know it yet, has the value of `defaults`: what it did then.
    """
    old = _filled(without_retired(old), defaults)
    refused = refused_keys(old, new)
    if refused:
        changes = describe_changes(refused, old, new)
        raise ConfigChanged(f"this run was started with another config: {changes}. Start anew with --fresh")
    changed = changed_keys(old, new)
    text = describe_changes(changed, old, new)
    if "training.num_steps" in changed and new.get("training", {}).get("learning_rate_decay") == "cosine":
        text += "; the cosine rate follows the new length from here on"
    return text


def _filled(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Fill in missing keys, also inside sections; existing values stay, even empty ones."""
    filled = defaults | values
    for key, default in defaults.items():
        if isinstance(default, dict) and default and isinstance(filled[key], dict):
            filled[key] = _filled(filled[key], default)
    return filled


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


# The folder of one run: locked by one process, with everything that the run depended on.

LOCK = ".lock"
HOLDER = ".holder"
"""Text file that names the process with the lock."""
RunState = Literal["running", "finished", "preempted", "failed"]


class RunFolderError(UserError):
    """The run folder cannot be used."""


class RunFolder:
    """runs/NAME/, locked within `with` by this process; the lock ends with the process, however that ends.

    config.yaml  command.txt  environment.json  data.json  status.json  log.txt  metrics.jsonl  tb/  samples/
    checkpoints/
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"

    def __enter__(self) -> Self:
        with self._writing():
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            # Forked workers do not hold it: one that outlives a killed trainer must not block the next.
            self._lock = FileLock(self.path / LOCK)
            try:
                self._lock.acquire(blocking=False)
            except Timeout as error:
                raise RunFolderError(f"{self.path} is in use by {self._holder()}") from error
            (self.path / HOLDER).write_text(f"pid {os.getpid()} on {socket.gethostname()}")
            remove_abandoned([self.path, self.checkpoints, self.path / "samples"])
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _holder(self) -> str:
        try:
            return (self.path / HOLDER).read_text()[:200].strip() or "another process"
        except OSError:
            return "another process"

    def set_aside(self) -> Path | None:
        """Move an earlier run's files to previous-001/, so that a new one can begin. None if there were none."""
        old = [
            entry
            for entry in self.path.iterdir()
            if entry.name not in (LOCK, HOLDER) and not entry.name.startswith("previous-")
        ]
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
        """Write status.json: the state, and `step` optimizer steps done."""
        self.write_json("status.json", {"state": state, "step": step, "reason": reason})

    def write_json(self, name: str, values: dict[str, object]) -> None:
        """Write a file of the run folder atomically."""
        replace_atomically(self.path / name, json.dumps(values, indent=1, allow_nan=False).encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(f"cannot write the run folder {self.path}: {error.strerror}") from error


# The log of a run: console, log.txt, metrics.jsonl, TensorBoard, samples.

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class NullLog:
    """The log of processes other than the first: discards every line."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class RunLog:
    """Writes under the run folder and to the console: a progress bar on a terminal, else one line per log interval.

    metrics.jsonl holds no clock time, so that a resumed run writes the same lines as an uninterrupted one. Close it, or
    use it in `with`.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._text: TextIO | None = (folder / "log.txt").open("a", encoding="utf-8")
        self._board: SummaryWriter | None = None
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._text is not None:
            self._text.close()

    def line(self, text: str) -> None:
        """One line on the console and in log.txt, with control characters escaped."""
        tqdm.write(printable(text))
        sys.stdout.flush()
        self.note(text)

    def note(self, text: str) -> None:
        """One line in log.txt only. A failing disk causes one warning."""
        if self._text is None:
            return
        try:
            self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {printable(text)}\n")
            self._text.flush()
        except OSError as error:
            self._text = None
            self.line(f"warning: no more lines in log.txt ({error.strerror})")

    def begin(self, step: int, num_steps: int, batch_size: int) -> None:
        """Continue after `step` steps: lines of later steps by an earlier process are cut off."""
        self._num_steps, self._batch_size = num_steps, batch_size
        metrics = self._folder / "metrics.jsonl"
        replace_atomically(metrics, _lines_up_to(metrics, step))
        self._metrics = metrics.open("a", encoding="utf-8")
        self._on_board(lambda: self._open_board(step))
        self._bar = tqdm(total=num_steps, initial=step, disable=None, unit="step", dynamic_ncols=True)
        self._begin_step, self._begin_time = step, time.monotonic()
        self.restart_clock(step)

    def restart_clock(self, step: int) -> None:
        """Exclude the time since the last call, e.g. of a validation, from the next speed."""
        self._clock_step, self._clock_time = step, time.monotonic()

    def step_done(self) -> None:
        assert self._bar is not None
        self._bar.update()

    def training(self, step: int, loss: float, learning_rate: float, gradient_norm: float) -> None:
        """Means over the steps since the last call."""
        assert self._bar is not None
        values = {"loss": loss, "learning_rate": learning_rate, "gradient_norm": gradient_norm}
        self._record(step, values)
        rate = (step - self._clock_step) / max(time.monotonic() - self._clock_time, 1e-9)
        images_per_second = rate * self._batch_size
        self._scalars(
            step, {f"training/{k}": v for k, v in values.items()} | {"training/images_per_s": images_per_second}
        )

        self._bar.set_postfix_str(f"loss {loss:.4f}, lr {learning_rate:.1e}, {speed(images_per_second, 'image')}")
        means = f"step {step}/{self._num_steps}  loss {loss:.4f}  lr {learning_rate:.1e}"
        line = f"{means}  {speed(rate, 'it')}  eta {self._eta(step)}"
        if self._bar.disable:
            self.line(line)
        else:
            self.note(line)

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Scores of the averaged weights after `step` steps."""
        values = {f"validation/{name}": score for name, score in scores.items()}
        self._record(step, values)
        self._scalars(step, values)
        self.line(f"validation {step}: {'  '.join(f'{name} {score:.4g}' for name, score in scores.items())}")

    def image(self, step: int, image: Tensor, content: str) -> None:
        """Keep a picture, (3, height, width) in [0, 1], as samples/step_000400.png and in TensorBoard.

        Print its path and `content`, e.g. "degraded | restored | clean".
        """
        pixels = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
        encoded = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(encoded, "png")
        path = self._folder / "samples" / f"step_{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        replace_atomically(path, encoded.getvalue())
        self._on_board(lambda: self._board and self._board.add_image("samples", pixels, step))
        self.line(f"picture {path}: {content}")

    def flush(self) -> None:
        """Sync the metrics to disk: no checkpoint may be newer than the lines before it."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        self._on_board(lambda: self._board and self._board.flush())

    def end(self) -> None:
        """End the progress bar; `line` still works."""
        if self._bar is not None:
            self._bar.close()
            self._metrics.close()
            self._on_board(lambda: self._board and self._board.close())
        self._bar = self._board = None

    def _record(self, step: int, values: dict[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._metrics.write(json.dumps({"step": step} | finite) + "\n")
        self._metrics.flush()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._on_board(lambda name=name, value=value: self._board and self._board.add_scalar(name, value, step))

    def _open_board(self, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(self._folder / "tb"), purge_step=step + 1)

    def _on_board(self, action: Callable[[], object]) -> None:
        """Training continues after an error of TensorBoard, with one warning."""
        try:
            action()
        except Exception as error:
            self._board = None
            self.line(f"warning: TensorBoard is off from here on ({type(error).__name__}: {error})")

    def _eta(self, step: int) -> str:
        """Speed since the start, including validation and saving."""
        per_step = (time.monotonic() - self._begin_time) / max(step - self._begin_step, 1)
        minutes, seconds = divmod(round(per_step * (self._num_steps - step)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def speed(per_second: float, unit: str) -> str:
    """Return a speed such as `2.5 it/s`; below one a second its inverse, `4.0 s/it`, as tqdm does."""
    return f"{per_second:.1f} {unit}/s" if per_second >= 1 else f"{1 / per_second:.1f} s/{unit}"


def _lines_up_to(metrics: Path, step: int) -> bytes:
    """The complete lines of steps up to `step`; a truncated last line is dropped."""
    if not metrics.exists():
        return b""
    return b"".join(line for line in metrics.read_bytes().splitlines(keepends=True) if _step_of(line) <= step)


def _step_of(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
