"""The story of rendering: the contact sheet, then each photograph with its pictures, and what failed."""

import argparse
import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from restore_diff import build
from restore_diff.commands.console import (
    BAD_USAGE,
    OK,
    SOME_FAILED,
    USER_ERRORS,
    complain,
    lines_of,
    logging_to_console,
    say,
)
from restore_diff.commands.contact_sheet import draw_contact_sheet, sections_of
from restore_diff.commands.render import PROGRAM
from restore_diff.config import ConfigError, ExperimentConfig, to_dict
from restore_diff.data.images import ImageError, read_image, read_rgb_uint8, write_image
from restore_diff.data.names import DataError, list_images
from restore_diff.environment import environment, is_out_of_memory
from restore_diff.files import replace_atomically
from restore_diff.randomness import mix
from restore_diff.training.run import changed_keys, describe_changes
from restore_diff.weather.haze import render_haze
from restore_diff.weather.renderer import WeatherRenderer

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


@dataclass
class Tally:
    """What became of the pictures, and the photographs that failed, each with its reason."""

    num_skipped: int
    num_rendered: int = 0
    failed: list[str] = field(default_factory=list)
    disk_full: bool = False


@dataclass(frozen=True)
class Renderers:
    """What renders on a photograph: the same on all, unless haze follows depth maps, by the photographs' names."""

    usual: WeatherRenderer
    config: ExperimentConfig
    depth_maps: Mapping[str, Path] | None

    def of(self, name: str, clean: Tensor) -> WeatherRenderer:
        """DataError where the photograph (3,H,W) has no depth map of its size; ImageError for a bad file."""
        if self.depth_maps is None:
            return self.usual
        if name not in self.depth_maps:
            raise DataError(f"{name}: it has no depth map")
        depth = read_image(self.depth_maps[name]).pixels[:1]
        if depth.shape[1:] != clean.shape[1:]:
            sizes = " and ".join(f"{each.shape[2]}x{each.shape[1]}" for each in (clean, depth))
            raise DataError(f"{name}: the photograph and its depth map have different sizes, {sizes}")
        usual, haze = self.usual, self.config.data.haze
        layers = {**usual.layers, "haze": lambda images, seeds: render_haze(images, haze, seeds, depth[None])}
        return WeatherRenderer(usual.mixture, layers, usual.camera)


def render(config: ExperimentConfig, args: argparse.Namespace) -> int:
    """Draw the contact sheet and write the pairs that `args` asks for; return the exit code."""
    try:
        with logging_to_console():
            return _render(config, args)
    except USER_ERRORS as error:
        complain(PROGRAM, error)
        return BAD_USAGE


def _render(config: ExperimentConfig, args: argparse.Namespace) -> int:
    device = build.select_device(args.device)
    renderer = build.renderer(config.data)
    if renderer is None:
        raise ConfigError(["say what to render, e.g. --weather rain"])
    photographs = find_photographs(args.input) if args.input else {}
    if args.contact_sheet is not None and not args.dry_run:
        draw_contact_sheet(args.contact_sheet, config, next(iter(photographs.values()), None), device)
        if not args.quiet:
            say(f"contact sheet -> {args.contact_sheet}")
    if args.output is None:
        return OK
    check_places(args.input, args.output)
    renderers = Renderers(renderer, config, _depth_maps(config, args.depth))
    record = describe(config, args.copies, args.depth)
    check_record(args.output, record)
    chosen = dict(list(photographs.items())[: args.limit])
    jobs, num_skipped = plan_pictures(chosen, args.output, args.copies, args.overwrite)
    if args.dry_run:
        return _show(jobs, num_skipped)
    replace_atomically(_with_folder(args.output / RECORD), json.dumps(record, indent=2, allow_nan=False).encode())
    tally = Tally(num_skipped)
    _render_all(jobs, renderers, device, args.quiet, tally)
    return _conclude(tally, args)


def _depth_maps(config: ExperimentConfig, folder: Path | None) -> dict[str, Path] | None:
    if folder is None:
        return None
    if "haze" not in sections_of(config.data.weather):
        raise ConfigError(["--depth is for haze, and none is rendered"])
    if not folder.is_dir():
        raise DataError(f"no such folder of depth maps: {folder}")
    return list_images(folder)


def _render_all(jobs: list[Job], renderers: Renderers, device: torch.device, quiet: bool, tally: Tally) -> None:
    with tqdm(total=sum(len(job.pictures) for job in jobs), unit="image", disable=quiet or None) as bar:
        for job in jobs:
            try:
                for _ in _written(job, renderers, device):
                    tally.num_rendered += 1
                    bar.update()
            except (ImageError, DataError, OSError, RuntimeError, MemoryError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    tally.disk_full = True
                    return
                tally.failed.append(_reason(job, error))


def _written(job: Job, renderers: Renderers, device: torch.device) -> Iterator[Path]:
    """Write a photograph's pictures, and before the first of them the target, which is their partner."""
    clean = read_rgb_uint8(job.source).float() / 255
    renderer = renderers.of(job.name, clean)
    for picture in job.pictures:
        seed = mix(renderers.config.seed, "weather", picture.name)
        degraded = renderer(clean[None].to(device), [seed], [None])[0]
        if picture is job.pictures[0]:
            write_image(_with_folder(job.target), clean)
        write_image(_with_folder(picture.path), degraded)
        yield picture.path


def _reason(job: Job, error: Exception) -> str:
    """One line; a RuntimeError that is no lack of memory is a mistake of ours, and goes on."""
    if is_out_of_memory(error):
        return f"{job.source}: out of memory; make it smaller"
    if isinstance(error, RuntimeError):
        raise error
    return " ".join(lines_of(error))


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _show(jobs: list[Job], num_skipped: int) -> int:
    wanted = [(job.source, picture.path) for job in jobs for picture in job.pictures]
    say(*(f"{source} -> {path}" for source, path in wanted))
    say(f"would render {len(wanted)}, skip {num_skipped} that are there")
    return OK


def _conclude(tally: Tally, args: argparse.Namespace) -> int:
    """Print what became of the photographs, and return the exit code that says it."""
    if tally.failed:
        complain(PROGRAM, "\n".join(["failed:", *(f"  {line}" for line in tally.failed)]))
    if tally.disk_full:
        complain(PROGRAM, "stopped, the disk is full: make room, then the same command goes on from here")
    if not args.quiet:
        counts = f"rendered {tally.num_rendered}, skipped {tally.num_skipped}, failed {len(tally.failed)}"
        say(f"{counts} -> {args.output}")
    return SOME_FAILED if tally.failed or tally.disk_full else OK
