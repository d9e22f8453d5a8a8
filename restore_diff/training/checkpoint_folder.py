"""The checkpoints of one run: which is newest, which is best, which may go."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from restore_diff.files import replace_atomically
from restore_diff.training.checkpoint import PARTIAL
from restore_diff.training.checkpoint_state import Best, DamagedCheckpoint, read_at_most

Content = TypeVar("Content")
BEST = "best.json"
MAX_BEST_BYTES = 4096


class NoIntactCheckpoint(ValueError):
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
