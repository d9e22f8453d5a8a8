"""Which pictures of which photographs are to be rendered, where they go, and with what settings they were."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from restore_diff.commands.contact_sheet import sections_of
from restore_diff.config import ExperimentConfig, to_dict
from restore_diff.data.listing import DataError, list_images
from restore_diff.provenance import environment
from restore_diff.training.changes import changed_keys, describe_changes

RECORD = "render.json"
"""In the output folder: what its pictures were rendered with."""


class Picture(NamedTuple):
    """A degraded picture: its name, on which its weather depends, and where it goes."""

    name: str
    path: Path


class Job(NamedTuple):
    """A photograph and those of its pictures that are wanted still."""

    name: str
    source: Path
    target: Path
    pictures: list[Picture]


def find_photographs(source: Path) -> dict[str, Path]:
    """Photographs by the name that their pictures get: of a folder all below it. DataError where there is none."""
    if not source.exists():
        raise DataError(f"no such file or folder: {source}")
    return list_images(source) if source.is_dir() else {source.stem: source}


def check_places(source: Path, output: Path) -> None:
    """DataError where the next run would render on these pictures, or where they would replace photographs."""
    inside, outside = Path(os.path.realpath(source)), Path(os.path.realpath(output))
    if outside.is_relative_to(inside):
        raise DataError(f"{output} lies in {source}: choose an -o outside of the photographs")
    if any(inside.is_relative_to(outside / side) for side in ("input", "target")):
        raise DataError(f"{source} is where {output} has its pictures: choose another -o")


def plan_pictures(photographs: Mapping[str, Path], output: Path, copies: int, overwrite: bool) -> tuple[list[Job], int]:
    """The photographs with pictures to render, and how many pictures are there already, with their target.

    Several copies share a target and are called after it, which is how they are found to be its partners.
    """
    jobs, num_skipped = [], 0
    for name, source in photographs.items():
        target = output / "target" / f"{name}.png"
        names = [name] if copies == 1 else [f"{name}_{copy}" for copy in range(copies)]
        pictures = [Picture(each, output / "input" / f"{each}.png") for each in names]
        wanted = [p for p in pictures if overwrite or not (p.path.exists() and target.exists())]
        num_skipped += len(pictures) - len(wanted)
        if wanted:
            jobs.append(Job(name, source, target, wanted))
    return jobs, num_skipped


def describe(config: ExperimentConfig, copies: int, depth: Path | None) -> dict[str, Any]:
    """What the pictures depend on, besides the photographs, as plain values."""
    data = to_dict(config)["data"]
    used = {section: data[section] for section in (*sections_of(config.data.weather), "camera")}
    settings = {"seed": config.seed, "copies": copies, "weather": data["weather"], **used}
    settings["depth"] = "" if depth is None else os.path.realpath(depth)
    return {"settings": settings, "environment": environment()}


def check_record(output: Path, record: Mapping[str, Any]) -> None:
    """DataError where the folder holds what would not have been written with `record`: pictures are never mixed."""
    path = output / RECORD
    if not path.exists():
        if taken := [side for side in ("input", "target") if (output / side).exists()]:
            raise DataError(f"{output / taken[0]} is there, but no {RECORD} beside it: choose a new -o")
        return
    try:
        old = json.loads(path.read_bytes())["settings"]
        keys = changed_keys(old, record["settings"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged; choose a new -o") from error
    if keys:
        changes = describe_changes(keys, old, record["settings"])
        raise DataError(f"{output} holds pictures of other settings ({changes}): choose a new -o")
