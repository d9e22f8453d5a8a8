"""state.json of a checkpoint: what is not a tensor, and the checksums of the files beside it and of itself."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from restore_diff.schema import settings

TensorsName = Literal["model.safetensors", "ema.safetensors", "optimizer.safetensors"]
TENSORS: tuple[TensorsName, ...] = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
STATE = "state.json"
MAX_STATE_BYTES = 2**20


class DamagedCheckpoint(ValueError):
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
