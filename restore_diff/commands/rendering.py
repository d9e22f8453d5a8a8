"""The story of rendering: the contact sheet, then each photograph with its pictures, and what failed."""

import argparse
import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from restore_diff import build
from restore_diff.commands.console import complain, lines_of, logging_to_console, say
from restore_diff.commands.contact_sheet import draw_contact_sheet, sections_of
from restore_diff.commands.errors import USER_ERRORS
from restore_diff.commands.exit_codes import BAD_USAGE, OK, SOME_FAILED
from restore_diff.commands.render import PROGRAM
from restore_diff.commands.render_plan import (
    RECORD,
    Job,
    check_places,
    check_record,
    describe,
    find_photographs,
    plan_pictures,
)
from restore_diff.config import ConfigError, ExperimentConfig
from restore_diff.data.images import ImageError, read_image, read_rgb_uint8, write_image
from restore_diff.data.listing import DataError, list_images
from restore_diff.data.weather.haze import render_haze
from restore_diff.data.weather.renderer import WeatherRenderer
from restore_diff.files import replace_atomically
from restore_diff.memory import is_out_of_memory
from restore_diff.randomness import mix


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
