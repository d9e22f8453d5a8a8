"""Panels of examples, and plots."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from restore_diff.data.images import write_image
from restore_diff.data.pairs import Pair
from restore_diff.evaluation.evaluator import INPUT, PairDataset, Row

# One picture of a test set: the images restored best, those in the middle, and the worst.

NUM_PER_KIND = 3
MAX_SIDE_PX = 480
CAPTION_PX = 16
GAP_PX = 4
ERROR_SCALE = 4


class Example(NamedTuple):
    """An image of the test set and the line above it."""

    position: int
    """In the test set."""
    row: Row
    caption: str


def choose_examples(rows: Sequence[Row], column: str) -> list[Example]:
    """The three best, middle and worst images by a PSNR or SSIM column, each once; fewer where there are fewer.

    `rows` are those of `Evaluator.evaluate`, in its order. The first seed is shown; images without a score are not.
    """
    positions = {name: index for index, name in enumerate(dict.fromkeys(row.name for row in rows))}
    seed = rows[0].seed if rows else 0
    scored = [row for row in rows if row.seed == seed and row.scores[column] == row.scores[column]]
    ranked = sorted(scored, key=lambda row: row.scores[column], reverse=True)
    middle = max((len(ranked) - NUM_PER_KIND) // 2, 0)
    starts = {"best": 0, "middle": middle, "worst": max(len(ranked) - NUM_PER_KIND, 0)}
    chosen: dict[str, Example] = {}
    for kind, start in starts.items():
        for row in ranked[start : start + NUM_PER_KIND]:
            before = f"{row.scores[column + INPUT]:.4g} -> " if column + INPUT in row.scores else ""
            caption = f"{kind}: {row.name}, {column} {before}{row.scores[column]:.4g}"
            chosen.setdefault(row.name, Example(positions[row.name], row, caption))
    return list(chosen.values())


def draw_panel(
    path: Path, examples: Sequence[Example], dataset: PairDataset, restored: Callable[[Pair, int], Tensor | None]
) -> None:
    """Write a PNG with a line of degraded, restored, clean and four times the error for each example.

    `restored` is `Evaluator.restored`, which makes again what it made before. Images above 480 px are shown smaller.
    """
    if not examples:
        raise ValueError("a panel needs at least one image with a score")
    lines = [_line(dataset[example.position], example, restored) for example in examples]
    width = max(line.shape[-1] for line in lines)
    picture = torch.cat([F.pad(line, (0, width - line.shape[-1]), value=1.0) for line in lines], dim=1)
    write_image(path, picture)


def _line(pair: Pair, example: Example, restored: Callable[[Pair, int], Tensor | None]) -> Tensor:
    levels = restored(pair, example.row.seed)
    assert levels is not None, "an image with a score was finite"
    image = levels.cpu() / 255
    error = (image - pair.clean).abs() * ERROR_SCALE
    tiles = torch.stack([_shrunk(tile.clamp(0, 1)) for tile in (pair.degraded, image, pair.clean, error)])
    tiles = F.pad(tiles, (0, 0, CAPTION_PX, 0), value=1.0)
    picture = to_pil_image(make_grid(tiles, nrow=len(tiles), padding=GAP_PX, pad_value=1.0))
    text = f"{example.caption}   (degraded | restored | clean | error x{ERROR_SCALE})"
    printable = text.encode("ascii", "replace").decode()  # all that the built-in font has for certain
    ImageDraw.Draw(picture).text((GAP_PX, GAP_PX), printable, fill=(0, 0, 0))
    return pil_to_tensor(picture).float() / 255


def _shrunk(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    scale = MAX_SIDE_PX / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(image[None], size, mode="area")[0]


# Small line plots in a grid, drawn by Pillow: enough for a few curves, without a plotting library.

WIDTH_PX, HEIGHT_PX = 460, 300
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 64, 20, 34, 52
LEGEND_LINE_PX = 18
"""Below the axes, two curves on a line."""
SCALE = 2
"""Drawn larger by this and shrunk, which makes the lines smooth."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a6d00", "#444444")
"""Those of Okabe and Ito (2008), which the colour-blind can tell apart, as far as they are dark enough for lines."""
GRID, INK = "#e2e2e2", "#222222"


class Curve(NamedTuple):
    label: str
    points: Sequence[tuple[float, float]]
    """(x, y) in the order in which they are joined; x above 0."""


class Plot(NamedTuple):
    """Curves over a logarithmic x axis."""

    x_label: str
    y_label: str
    curves: Sequence[Curve]
    x_ticks: Sequence[float]


def draw_plots(path: Path, rows: Sequence[Sequence[Plot]]) -> None:
    """Write a PNG with a grid of plots. Points that are not finite are left out."""
    heights = [HEIGHT_PX + LEGEND_LINE_PX * max(-(-len(plot.curves) // 2) for plot in row) for row in rows]
    width, height = WIDTH_PX * max(len(row) for row in rows), sum(heights)
    picture = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    draw = ImageDraw.Draw(picture)
    for row, plots in enumerate(rows):
        for column, plot in enumerate(plots):
            _Axes(draw, column * WIDTH_PX, sum(heights[:row]), plot).draw_all()
    shrunk = picture.resize((width, height), Image.Resampling.LANCZOS)
    write_image(path, pil_to_tensor(shrunk).float() / 255)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round values (1, 2 or 5 times a power of ten apart) within [low, high]."""
    span = max(high - low, 1e-12)
    exponent = math.floor(math.log10(span / most))
    steps = (factor * 10.0 ** (exponent + shift) for shift in (0, 1, 2) for factor in (1, 2, 5))
    step = next(step for step in steps if span / step <= most - 1)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def decade_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last one at or below `low` to the first at or above `high`."""
    exponents = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
    ticks = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    first = max(tick for tick in ticks if tick <= low * (1 + 1e-9))
    last = min(tick for tick in ticks if tick >= high * (1 - 1e-9))
    return [tick for tick in ticks if first <= tick <= last]


class _Axes:
    """One plot at a place in the picture. Public coordinates are pixels before enlargement."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: int, y: int, plot: Plot) -> None:
        self.draw = draw
        self.plot = plot
        self.left, self.right = x + LEFT_PX, x + WIDTH_PX - RIGHT_PX
        self.top, self.bottom = y + TOP_PX, y + HEIGHT_PX - BOTTOM_PX
        self.font = ImageFont.load_default(12 * SCALE)
        points = [point for curve in plot.curves for point in _finite(curve)]
        values = [y for _, y in points] or [0.0]
        margin = 0.06 * (max(values) - min(values)) or 0.5
        self.y_low, self.y_high = min(values) - margin, max(values) + margin
        places = [x for x, _ in points] + list(plot.x_ticks)
        self.x_low, self.x_high = min(places) / 1.12, max(places) * 1.12

    def draw_all(self) -> None:
        """Grid, labels, then the curves over them."""
        for value in nice_ticks(self.y_low, self.y_high):
            self._line((self.left, self._y(value)), (self.right, self._y(value)), GRID)
            self._text((self.left - 6, self._y(value)), f"{value:.4g}", "rm")
        free_from = 0.0
        for value in self.plot.x_ticks:
            self._line((self._x(value), self.top), (self._x(value), self.bottom), GRID)
            half = self.draw.textlength(f"{value:.4g}", self.font) / SCALE / 2
            if self._x(value) - half >= free_from:
                self._text((self._x(value), self.bottom + 6), f"{value:.4g}", "ma")
                free_from = self._x(value) + half + 3
        self._line((self.left, self.top), (self.left, self.bottom), INK)
        self._line((self.left, self.bottom), (self.right, self.bottom), INK)
        self._text(((self.left + self.right) / 2, self.bottom + 26), self.plot.x_label, "ma")
        self._text((self.left - 48, self.top - 10), self.plot.y_label, "ls")
        for index, curve in enumerate(self.plot.curves):
            colour = COLOURS[index % len(COLOURS)]
            self._curve(curve, colour)
            x, y = self.left + index % 2 * (self.right - self.left) / 2, self.bottom + 54 + index // 2 * LEGEND_LINE_PX
            self._line((x, y), (x + 18, y), colour, width=2)
            self._text((x + 24, y), curve.label, "lm")

    def _curve(self, curve: Curve, colour: str) -> None:
        points = [(self._x(x), self._y(y)) for x, y in _finite(curve)]
        for start, end in pairwise(points):
            self._line(start, end, colour, width=2)
        for x, y in points:
            self.draw.ellipse([((x - 3.5) * SCALE, (y - 3.5) * SCALE), ((x + 3.5) * SCALE, (y + 3.5) * SCALE)], colour)

    def _x(self, value: float) -> float:
        share = math.log(value / self.x_low) / math.log(self.x_high / self.x_low)
        return self.left + share * (self.right - self.left)

    def _y(self, value: float) -> float:
        return self.bottom - (value - self.y_low) / (self.y_high - self.y_low) * (self.bottom - self.top)

    def _line(self, start: tuple[float, float], end: tuple[float, float], colour: str, width: int = 1) -> None:
        ends = [(x * SCALE, y * SCALE) for x, y in (start, end)]
        self.draw.line(ends, colour, width * SCALE)

    def _text(self, place: tuple[float, float], text: str, anchor: str) -> None:
        self.draw.text((place[0] * SCALE, place[1] * SCALE), text, INK, self.font, anchor)


def _finite(curve: Curve) -> list[tuple[float, float]]:
    return [(x, y) for x, y in curve.points if math.isfinite(x) and math.isfinite(y)]
