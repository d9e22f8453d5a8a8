"""Checkpoints and weights files: safetensors and JSON with checksums, written whole or not at all. No pickle.

A checkpoint is a folder such as 00000400/ with model.safetensors, ema.safetensors, optimizer.safetensors, state.json.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from restore_diff.errors import UserError
from restore_diff.files import replace_atomically, sync_folder, write_durably
from restore_diff.settings import settings

TensorsName = Literal["model.safetensors", "ema.safetensors", "optimizer.safetensors"]
TENSORS: tuple[TensorsName, ...] = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
STATE = "state.json"
MAX_STATE_BYTES = 2**20


class DamagedCheckpoint(UserError):
    """A checkpoint is not what was saved."""

    def __init__(self, path: Path, name: str, error: Exception | str):
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).partition("\n")[0]
        reason = reason if len(reason) <= 200 else f"{reason[:197]}..."  # parsers quote what they choke on
        super().__init__(f"checkpoint {path.name} damaged ({name}: {reason})")


@settings
class Best:
    step: int = Field(ge=0)
    metric: str
    score: float = Field(allow_inf_nan=False, description="higher is better")


@settings
class LossScale:
    scale: float = Field(gt=0, allow_inf_nan=False)
    growth_tracker: int = Field(ge=0)


@settings
class Progress:
    """What a resumed run needs besides its tensors and its config."""

    step: int = Field(ge=0, le=10**12, description="optimizer steps done")
    best: Best | None
    loss_scale: LossScale | None = Field(description="of float16")
    meter_totals: tuple[float, float, float] = Field(description="of the log line that is under way")


@settings
class FileRecord:
    num_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


@settings
class State:
    """state.json. It lists files by names that are fixed here, never by paths."""

    format: Literal[1]
    progress: Progress
    config: dict[str, Any]
    versions: dict[str, str]
    files: dict[TensorsName, FileRecord]


def encode_state(state: State) -> bytes:
    """JSON, with its own checksum among the values."""
    values = json.loads(_canonical(dataclasses.asdict(state)))  # type: ignore[call-overload]
    return json.dumps(values | {"sha256": sha256(_canonical(values))}, indent=1).encode()


def read_state(checkpoint: Path) -> State:
    """Read and check the state.json of a checkpoint. Raises DamagedCheckpoint."""
    try:
        values = json.loads(read_at_most(checkpoint / STATE, MAX_STATE_BYTES), parse_constant=_refuse_constant)
        checksum = values.pop("sha256", None) if isinstance(values, dict) else None
        if checksum != sha256(_canonical(values)):
            raise ValueError("checksum differs")
        state = TypeAdapter(State).validate_python(values)
        if state.files.keys() != set(TENSORS):
            raise ValueError(f"does not list {', '.join(sorted(set(TENSORS) - state.files.keys()))}")
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpoint(checkpoint, STATE, error) from error
    return state


def read_at_most(path: Path, max_bytes: int) -> bytes:
    """The contents of a regular file. Raises ValueError where it is absent or longer, before reading it."""
    if not path.is_file():
        raise ValueError("missing")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path.stat().st_size} bytes where at most {max_bytes} belong")
    return path.read_bytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, allow_nan=False).encode()


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


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


# The checkpoints of one run: which is newest, which is best, which may go.

Content = TypeVar("Content")
BEST = "best.json"
MAX_BEST_BYTES = 4096


class NoIntactCheckpoint(UserError):
    """There are checkpoints, and each of them is damaged."""


def list_checkpoints(folder: Path) -> list[Path]:
    """The published checkpoints, oldest first, damaged ones included."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = [entry for entry in entries if re.fullmatch(r"\d{8,12}", entry.name) and entry.is_dir()]
    return sorted(found, key=lambda entry: int(entry.name))


def newest_kept(folder: Path) -> str:
    """`checkpoint 00000400 kept`: what there is to go on from after a stop."""
    newest = list_checkpoints(folder)[-1:]
    return f"checkpoint {newest[0].name} kept" if newest else "no checkpoint yet"


def newest_valid(folder: Path, load: Callable[[Path], Content], report: Callable[[str], None]) -> Content | None:
    """What `load` makes of the newest checkpoint that is not damaged; None where there are no checkpoints at all.

    Damaged ones are reported by name. Raises NoIntactCheckpoint, listing each, where all are.
    """
    complaints: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            content = load(path)
        except DamagedCheckpoint as error:
            complaints.append(str(error))
            continue
        for complaint in complaints:
            report(f"{complaint}; using {path.name}")
        return content
    if complaints:
        raise NoIntactCheckpoint(f"no intact checkpoint in {folder}: {'; '.join(complaints)}")
    return None


def tidy(folder: Path, resumed_step: int, report: Callable[[str], None]) -> None:
    """Before a run goes on: remove what a killed process left half written, and set damaged newer checkpoints aside.

    These would be in the way of the checkpoints to come; they are kept as e.g. 00000400.damaged.
    """
    for orphan in sorted(folder.glob(f"{PARTIAL}*")):
        shutil.rmtree(orphan)
        report(f"removed {orphan.name}, which a killed process had left")
    for path in list_checkpoints(folder):
        if int(path.name) > resumed_step:
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def prune(folder: Path, num_kept: int, best_step: int | None) -> None:
    """Remove all but the `num_kept` newest checkpoints and the best."""
    for path in list_checkpoints(folder)[:-num_kept]:
        if int(path.name) != best_step:
            # By its new name, half of a checkpoint is never taken for one.
            doomed = path.rename(path.with_name(f"{PARTIAL}{path.name}"))
            shutil.rmtree(doomed)


def mark_best(folder: Path, best: Best | None) -> None:
    """Keep which checkpoint is best in best.json, which unlike a link survives every kind of copy."""
    if best is None:
        (folder / BEST).unlink(missing_ok=True)
    else:
        replace_atomically(folder / BEST, json.dumps(dataclasses.asdict(best)).encode())  # type: ignore[call-overload]


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that best.json names; None where there is none, or it is gone. Raises ValueError if damaged."""
    if not (folder / BEST).exists():
        return None
    try:
        best = TypeAdapter(Best).validate_json(read_at_most(folder / BEST, MAX_BEST_BYTES))
    except ValueError:
        raise ValueError(f"{folder / BEST} is damaged; remove it to use the newest checkpoint") from None
    path = folder / f"{best.step:08d}"
    return path if path.is_dir() else None


METADATA_KEY = "restore_diff"


class WeightsError(UserError):
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


RETIRED = {"model": ("mid_blocks",), "training": ("part",)}
"""Settings of earlier versions that mean nothing any more: dropped when a checkpoint is read."""


def without_retired(values: dict[str, Any]) -> dict[str, Any]:
    """The config of a checkpoint without retired settings."""
    kept = dict(values)
    for section, keys in RETIRED.items():
        if isinstance(kept.get(section), dict):
            kept[section] = {key: value for key, value in kept[section].items() if key not in keys}
    return kept


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
