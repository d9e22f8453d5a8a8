"""One picture of what the settings of a weather do: a row for each, over its range, all others at their middle."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from restore_diff import build
from restore_diff.config import ExperimentConfig
from restore_diff.data.images import read_rgb_uint8, write_image
from restore_diff.data.pairs import find_pairs
from restore_diff.randomness import mix
from restore_diff.settings import DataConfig, Mixture, Weather, range_names

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the settings shown, within their range."""

WIDTH_PX, HEIGHT_PX = 320, 214
CAPTION_PX = 14
GAP_PX = 3


class Tile(NamedTuple):
    """A picture of the sheet: the settings and the seed that make it, and the line above it."""

    config: DataConfig
    seed: int
    caption: str


def draw_contact_sheet(path: Path, config: ExperimentConfig, photograph: Path | None, device: torch.device) -> None:
    """Write the sheet over a photograph, by default one of scikit-image: random draws, then `rows_of_settings`."""
    photograph = photograph or find_pairs("skimage", "test", Path(config.data.root)).pairs[0].clean
    clean = _thumbnail(read_rgb_uint8(photograph).float() / 255).to(device)
    seeds = [mix(config.seed, "contact sheet", column) for column in range(len(PLACES))]
    rows = [[Tile(config.data, seed, f"drawn at random, {column}") for column, seed in enumerate(seeds)]]
    rows += rows_of_settings(config.data, seeds[0])
    tiles = [_drawn(clean, tile) for row in rows for tile in row]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, make_grid(tiles, nrow=len(PLACES), padding=GAP_PX, pad_value=1.0))


def rows_of_settings(config: DataConfig, seed: int) -> list[list[Tile]]:
    """For each range of the weathers in use, from its low end to its high end, with all others at their middle."""
    sections = sections_of(config.weather)
    centred = replace(config, **{section: _centred(getattr(config, section)) for section in sections})
    rows = []
    for section in sections:
        kind = config.weather if isinstance(config.weather, str) else section
        for name in range_names(getattr(config, section)):
            values = [_between(getattr(getattr(config, section), name), place) for place in PLACES]
            changed = [replace(getattr(centred, section), **{name: (value, value)}) for value in values]
            rows.append(
                [
                    Tile(replace(centred, weather=kind, **{section: settings}), seed, f"{section}.{name} {value:.4g}")
                    for settings, value in zip(changed, values, strict=True)
                ]
            )
    return rows


def sections_of(weather: Weather | Mixture) -> Sequence[str]:
    """The sections of the config that render a weather, in its order."""
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
    assert render is not None, "the settings of a contact sheet render something"
    picture = F.pad(render(clean[None], [tile.seed], [None])[0].cpu(), (0, 0, CAPTION_PX, 0), value=1.0)
    image = to_pil_image(picture)
    ImageDraw.Draw(image).text((1, 1), tile.caption, fill=(0, 0, 0))
    return pil_to_tensor(image).float() / 255


def _thumbnail(image: Tensor) -> Tensor:
    """The middle of the photograph in the shape of a tile, smaller but not larger than it is there."""
    height, width = image.shape[-2:]
    scale = max(HEIGHT_PX / height, WIDTH_PX / width)
    if scale < 1:
        size = (max(HEIGHT_PX, round(height * scale)), max(WIDTH_PX, round(width * scale)))
        image = F.interpolate(image[None], size, mode="area")[0]
    top, left = (max(0, (side - room) // 2) for side, room in zip(image.shape[-2:], (HEIGHT_PX, WIDTH_PX), strict=True))
    return image[:, top : top + HEIGHT_PX, left : left + WIDTH_PX]
