"""Implementation of restore-diff render: contact sheet, pairs, report of failures."""

import argparse
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid
from tqdm import tqdm

from restore_diff import build
from restore_diff.commands.console import (
    OK,
    SOME_FAILED,
    complain,
    lines_of,
    logging_to_console,
    say,
)
from restore_diff.commands.render import PROGRAM
from restore_diff.config import ConfigError, ExperimentConfig, to_dict
from restore_diff.data.images import ImageError, read_image, read_rgb_uint8, write_image
from restore_diff.data.names import DataError, list_images
from restore_diff.data.pairs import find_pairs
from restore_diff.environment import environment, is_out_of_memory
from restore_diff.evaluation.pictures import with_text
from restore_diff.files import replace_atomically
from restore_diff.randomness import mix
from restore_diff.settings import DataConfig, Mixture, Weather, range_names
from restore_diff.training.run import changed_keys, describe_changes
from restore_diff.weather.haze import render_haze
from restore_diff.weather.renderer import WeatherRenderer

RECORD = "render.json"
"""File in the output folder with the settings of its images."""

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Columns of the contact sheet: positions within the range of a setting."""

WIDTH_PX, HEIGHT_PX = 320, 214
CAPTION_PX = 14
GAP_PX = 3


class Job(NamedTuple):
    """Photograph and its images that are still to render: files by name, which seeds the weather."""

    name: str
    source: Path
    target: Path
    images: dict[str, Path]


def find_photographs(source: Path) -> dict[str, Path]:
    """Return photographs by output name, recursively for a folder. Raises DataError if there is none."""
    if not source.exists():
        raise DataError(f"no such file or folder: {source}")
    return list_images(source) if source.is_dir() else {source.stem: source}


def check_places(source: Path, output: Path) -> None:
    """Raise DataError if the output lies inside the input or the input is part of the output."""
    inside, outside = Path(os.path.realpath(source)), Path(os.path.realpath(output))
    if outside.is_relative_to(inside):
        raise DataError(f"{output} lies in {source}: choose an -o outside of the photographs")
    if any(inside.is_relative_to(outside / side) for side in ("input", "target")):
        raise DataError(f"{source} is part of the output folder {output}: choose another -o")


def plan_images(photographs: Mapping[str, Path], output: Path, copies: int, overwrite: bool) -> tuple[list[Job], int]:
    """Return the photographs with images to render, and the number of images that exist already with their target.

    Several copies share one target and are named after it, so that they are read as its partners.
    """
    jobs, num_skipped = [], 0
    for name, source in photographs.items():
        target = output / "target" / f"{name}.png"
        names = [name] if copies == 1 else [f"{name}_{copy}" for copy in range(copies)]
        images = {each: output / "input" / f"{each}.png" for each in names}
        wanted = {n: path for n, path in images.items() if overwrite or not (path.exists() and target.exists())}
        num_skipped += len(images) - len(wanted)
        if wanted:
            jobs.append(Job(name, source, target, wanted))
    return jobs, num_skipped


def describe(config: ExperimentConfig, copies: int, depth: Path | None) -> dict[str, Any]:
    """Return everything that determines the images, except the photographs, as plain values."""
    data = to_dict(config)["data"]
    used = {section: data[section] for section in (*sections_of(config.data.weather), "camera") if section in data}
    if config.data.weather_options:
        used["weather_options"] = data["weather_options"]
    settings = {"seed": config.seed, "copies": copies, "weather": data["weather"], **used}
    settings["depth"] = "" if depth is None else os.path.realpath(depth)
    return {"settings": settings, "environment": environment()}


def check_record(output: Path, record: Mapping[str, Any]) -> None:
    """Raise DataError if the folder holds images of settings other than those in `record`."""
    path = output / RECORD
    if not path.exists():
        if taken := [side for side in ("input", "target") if (output / side).exists()]:
            raise DataError(f"{output / taken[0]} exists without {RECORD} next to it: choose a new -o")
        return
    try:
        old = json.loads(path.read_bytes())["settings"]
        keys = changed_keys(old, record["settings"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged; choose a new -o") from error
    if keys:
        changes = describe_changes(keys, old, record["settings"])
        raise DataError(f"{output} holds images of other settings ({changes}): choose a new -o")


@dataclass
class Tally:
    """Counts of images, and the photographs that failed with their reasons."""

    num_skipped: int
    num_rendered: int = 0
    failed: list[str] = field(default_factory=list)
    disk_full: bool = False


@dataclass(frozen=True)
class Renderers:
    """Select the renderer of a photograph; with depth maps, haze differs per photograph."""

    usual: WeatherRenderer
    config: ExperimentConfig
    depth_maps: Mapping[str, Path] | None

    def of(self, name: str, clean: Tensor) -> WeatherRenderer:
        """Return the renderer. Raises DataError if the photograph (3,H,W) has no depth map of its size, ImageError."""
        if self.depth_maps is None:
            return self.usual
        if name not in self.depth_maps:
            raise DataError(f"{name}: no depth map")
        depth = read_image(self.depth_maps[name]).pixels[:1]
        if depth.shape[1:] != clean.shape[1:]:
            sizes = " and ".join(f"{each.shape[2]}x{each.shape[1]}" for each in (clean, depth))
            raise DataError(f"{name}: the photograph and its depth map have different sizes, {sizes}")
        usual, haze = self.usual, self.config.data.haze
        layers = {**usual.layers, "haze": lambda images, seeds: render_haze(images, haze, seeds, depth[None])}
        return WeatherRenderer(usual.mixture, layers, usual.camera)


def render(config: ExperimentConfig, args: argparse.Namespace) -> int:
    """Write the contact sheet and the pairs that `args` requests; return the exit code."""
    with logging_to_console():
        return _render(config, args)


def _render(config: ExperimentConfig, args: argparse.Namespace) -> int:
    device = build.select_device(args.device)
    renderer = build.renderer(config.data)
    if renderer is None:
        raise ConfigError(["no weather selected: give --weather, e.g. --weather rain"])
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
    jobs, num_skipped = plan_images(chosen, args.output, args.copies, args.overwrite)
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
        raise ConfigError(["--depth needs weather with haze"])
    if not folder.is_dir():
        raise DataError(f"no such folder of depth maps: {folder}")
    return list_images(folder)


def _render_all(jobs: list[Job], renderers: Renderers, device: torch.device, quiet: bool, tally: Tally) -> None:
    with tqdm(total=sum(len(job.images) for job in jobs), unit="image", disable=quiet or None) as bar:
        for job in jobs:
            try:
                for _ in _written(job, renderers, device):
                    tally.num_rendered += 1
                    bar.update()
            except (ImageError, DataError, OSError, RuntimeError, MemoryError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    tally.disk_full = True
                    return
                if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                    raise
                too_large = f"{job.source}: out of memory; make it smaller"
                tally.failed.append(too_large if is_out_of_memory(error) else " ".join(lines_of(error)))


def _written(job: Job, renderers: Renderers, device: torch.device) -> Iterator[Path]:
    """Write the target, then the degraded images of a photograph; yield the path of each image."""
    clean = read_rgb_uint8(job.source).float() / 255
    renderer = renderers.of(job.name, clean)
    for place, (name, path) in enumerate(job.images.items()):
        degraded = renderer(clean[None].to(device), [mix(renderers.config.seed, "weather", name)])[0]
        if place == 0:
            write_image(_with_folder(job.target), clean)
        write_image(_with_folder(path), degraded)
        yield path


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _show(jobs: list[Job], num_skipped: int) -> int:
    wanted = [(job.source, path) for job in jobs for path in job.images.values()]
    say(*(f"{source} -> {path}" for source, path in wanted))
    say(f"would render {len(wanted)}, skip {num_skipped} that exist")
    return OK


def _conclude(tally: Tally, args: argparse.Namespace) -> int:
    """Print failures and counts, and return the exit code."""
    if tally.failed:
        complain(PROGRAM, "\n".join(["failed:", *(f"  {line}" for line in tally.failed)]))
    if tally.disk_full:
        complain(PROGRAM, "stopped, the disk is full: free space, then run the same command again to continue")
    if not args.quiet:
        counts = f"rendered {tally.num_rendered}, skipped {tally.num_skipped}, failed {len(tally.failed)}"
        say(f"{counts} -> {args.output}")
    return SOME_FAILED if tally.failed or tally.disk_full else OK


class Tile(NamedTuple):
    """Image of the contact sheet: its settings, seed and caption."""

    config: DataConfig
    seed: int
    caption: str


def draw_contact_sheet(path: Path, config: ExperimentConfig, photograph: Path | None, device: torch.device) -> None:
    """Write random draws and `rows_of_settings` on a photograph (default: one of scikit-image) as one image."""
    photograph = photograph or find_pairs("skimage", "test", Path(config.data.root)).pairs[0].clean
    clean = _thumbnail(read_rgb_uint8(photograph).float() / 255).to(device)
    seeds = [mix(config.seed, "contact sheet", column) for column in range(len(PLACES))]
    rows = [[Tile(config.data, seed, f"drawn at random, {column}") for column, seed in enumerate(seeds)]]
    rows += rows_of_settings(config.data, seeds[0])
    tiles = [_drawn(clean, tile) for row in rows for tile in row]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, make_grid(tiles, nrow=len(PLACES), padding=GAP_PX, pad_value=1.0))


def rows_of_settings(config: DataConfig, seed: int) -> list[list[Tile]]:
    """Return a row per range of the weather in use, from its minimum to its maximum, all others at their middle."""
    sections = [section for section in sections_of(config.weather) if hasattr(config, section)]
    centred = replace(config, **{section: _centred(getattr(config, section)) for section in sections})
    rows = []
    for section in sections:
        kind = config.weather if isinstance(config.weather, str) else section
        for name in range_names(getattr(config, section)):
            row = []
            for place in PLACES:
                value = _between(getattr(getattr(config, section), name), place)
                settings = replace(getattr(centred, section), **{name: (value, value)})
                changed = replace(centred, weather=kind, **{section: settings})
                row.append(Tile(changed, seed, f"{section}.{name} {value:.4g}"))
            rows.append(row)
    return rows


def sections_of(weather: Weather | Mixture) -> Sequence[str]:
    """Return the single kinds in a mixture or combination, in order; for shipped kinds, sections of the config."""
    kinds = [weather] if isinstance(weather, str) else list(weather)
    return list(dict.fromkeys(part for kind in kinds if kind != "none" for part in kind.split("+")))


def _centred(settings: Any) -> Any:
    middles = {name: _between(getattr(settings, name), 0.5) for name in range_names(settings)}
    return replace(settings, **{name: (middle, middle) for name, middle in middles.items()})


def _between(ends: tuple[float, float], place: float) -> float:
    value = ends[0] + (ends[1] - ends[0]) * place
    return round(value) if isinstance(ends[0], int) else value


def _drawn(clean: Tensor, tile: Tile) -> Tensor:
    render = build.renderer(tile.config)
    assert render is not None, "a tile has weather"
    padded = F.pad(render(clean[None], [tile.seed])[0].cpu(), (0, 0, CAPTION_PX, 0), value=1.0)
    return with_text(padded, tile.caption, 1)


def _thumbnail(image: Tensor) -> Tensor:
    """Crop the middle of a photograph to the size of a tile, after reducing it; small photographs are not enlarged."""
    height, width = image.shape[-2:]
    scale = max(HEIGHT_PX / height, WIDTH_PX / width)
    if scale < 1:
        size = (max(HEIGHT_PX, round(height * scale)), max(WIDTH_PX, round(width * scale)))
        image = F.interpolate(image[None], size, mode="area")[0]
    top, left = (max(0, (side - room) // 2) for side, room in zip(image.shape[-2:], (HEIGHT_PX, WIDTH_PX), strict=True))
    return image[:, top : top + HEIGHT_PX, left : left + WIDTH_PX]
