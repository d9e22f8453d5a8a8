"""Pictures of an evaluation: examples and their panel, gains, and quality against number of steps and time."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from restore_diff.data.images import write_image
from restore_diff.data.pairs import Pair
from restore_diff.evaluation.evaluator import INPUT, PairDataset, Row
from restore_diff.evaluation.report import Metric, Report, gains_of, metrics_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_PER_KIND = 3
MAX_SIDE_PX = 720
PANEL_SIDE_PX = 480
CAPTION_PX = 16
GAP_PX = 4
ERROR_SCALE = 4
MIN_IMAGES_FOR_HISTOGRAM = 5


class Example(NamedTuple):
    """Image of the test set with its caption."""

    position: int
    """In the test set."""
    row: Row
    kind: str
    """best, middle or worst."""
    caption: str


class Shown(NamedTuple):
    """Example with its images."""

    example: Example
    images: dict[str, Tensor]
    """restored, clean and error; degraded and degraded_error where the input was scored. float32 (3, H, W) in [0, 1].

    An error is the absolute difference from clean times four. Images above 720 px are shrunk.
    """


def choose_examples(rows: Sequence[Row], column: str) -> list[Example]:
    """Choose the three best, middle and worst images by a PSNR or SSIM column, each image once.

    `rows` are those of `Evaluator.evaluate`, in its order. Only the first seed counts; images without a score do not.
    """
    positions = {name: index for index, name in enumerate(dict.fromkeys(row.name for row in rows))}
    scored = [row for row in rows if row.seed == rows[0].seed and not math.isnan(row.scores[column])]
    ranked = sorted(scored, key=lambda row: row.scores[column], reverse=True)
    middle = max((len(ranked) - NUM_PER_KIND) // 2, 0)
    starts = {"best": 0, "middle": middle, "worst": max(len(ranked) - NUM_PER_KIND, 0)}
    chosen: dict[str, Example] = {}
    for kind, start in starts.items():
        for row in ranked[start : start + NUM_PER_KIND]:
            before = f"{row.scores[column + INPUT]:.4g} -> " if column + INPUT in row.scores else ""
            caption = f"{kind}: {row.name}, {column} {before}{row.scores[column]:.4g}"
            chosen.setdefault(row.name, Example(positions[row.name], row, kind, caption))
    return list(chosen.values())


def show(example: Example, dataset: PairDataset, restored: Callable[[Pair, int], Tensor | None]) -> Shown:
    """Restore an example again and return its images. `restored` is `Evaluator.restored`, which is deterministic."""
    pair = dataset[example.position]
    levels = restored(pair, example.row.seed)
    assert levels is not None and pair.degraded is not None, "an image with a score was finite"
    images = {"restored": levels.cpu() / 255, "clean": pair.clean}
    images["error"] = (images["restored"] - pair.clean).abs() * ERROR_SCALE
    if any(column.endswith(INPUT) for column in example.row.scores):
        images = {"degraded": pair.degraded, **images}
        images["degraded_error"] = (pair.degraded - pair.clean).abs() * ERROR_SCALE
    return Shown(example, {name: _shrunk(image.clamp(0, 1), MAX_SIDE_PX) for name, image in images.items()})


def draw_panel(path: Path, examples: Sequence[Shown]) -> None:
    """Write a PNG with one line per example: degraded, restored, clean, error. Images above 480 px are shrunk."""
    if not examples:
        raise ValueError("a panel needs at least one image with a score")
    lines = [_line(shown) for shown in examples]
    width = max(line.shape[-1] for line in lines)
    picture = torch.cat([F.pad(line, (0, width - line.shape[-1]), value=1.0) for line in lines], dim=1)
    write_image(path, picture)


def _line(shown: Shown) -> Tensor:
    tiles = {name: _shrunk(image, PANEL_SIDE_PX) for name, image in shown.images.items() if name != "degraded_error"}
    padded = F.pad(torch.stack([*tiles.values()]), (0, 0, CAPTION_PX, 0), value=1.0)
    picture = make_grid(padded, nrow=len(tiles), padding=GAP_PX, pad_value=1.0)
    return with_text(picture, f"{shown.example.caption}   ({' | '.join(tiles)} x{ERROR_SCALE})", GAP_PX)


def with_text(image: Tensor, text: str, corner_px: int) -> Tensor:
    """Write text in black into an image (3, H, W) in [0, 1], near its upper left corner; rounded to 8-bit levels."""
    picture = to_pil_image(image)
    printable = text.encode("ascii", "replace").decode()  # the built-in font may lack other characters
    ImageDraw.Draw(picture).text((corner_px, corner_px), printable, fill=(0, 0, 0))
    return pil_to_tensor(picture).float() / 255


def _shrunk(image: Tensor, max_side_px: int) -> Tensor:
    height, width = image.shape[-2:]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(image[None], size, mode="area")[0]


# Plots, as PNG; they need matplotlib. A Figure without pyplot draws with Agg and keeps no global state.


def plot_gains(report: Report) -> bytes | None:
    """Return histograms of the gain of each image by metric; None for less than five images or unscored inputs."""
    from matplotlib.figure import Figure

    metrics = [metric for metric in metrics_of(report) if metric.column + INPUT in report.summary]
    if not metrics or report.num_images < MIN_IMAGES_FOR_HISTOGRAM:
        return None
    figure = Figure(figsize=(5 * len(metrics), 3), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        gains = torch.stack([seeds.mean() for seeds in gains_of(report.rows, metric.column).values()])
        axes.hist(gains[gains.isfinite()].numpy(), bins=min(30, max(5, report.num_images // 4)), color="tab:blue")
        axes.axvline(0, color="black", linewidth=1)
        better = "less is better" if metric.column.startswith("lpips") else "more is better"
        axes.set(xlabel=f"gain in {metric.label} ({better})", ylabel="images")
        axes.grid(alpha=0.3)
    return _png(figure)


# Sweep: quality against the number of steps and the time.

Sweep = Mapping[int, Report]
"""Reports of one test set under the same protocols, by number of steps in ascending order."""

Y_LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS (lower is better)"}


def seconds_per_image(report: Report) -> float:
    """Median restoration time, so that the warm-up of the first image has no effect."""
    return median(row.seconds for row in report.rows)


def sweep_csv(sweep: Sweep) -> str:
    """CSV with num_steps, seconds_per_image and the mean of each metric; nan where no image has a score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = _metrics(sweep)
    writer.writerow(["num_steps", "seconds_per_image", *(metric.column for metric in metrics)])
    for num_steps, report in sweep.items():
        means = [f"{mean_of(report, metric):.{metric.decimals + 4}f}" for metric in metrics]
        writer.writerow([num_steps, f"{seconds_per_image(report):.4f}", *means])
    return text.getvalue()


def sweep_table(sweep: Sweep) -> str:
    """Console table with one line per number of steps."""
    metrics = _metrics(sweep)
    lines = [["steps", "s/image", *(metric.label for metric in metrics)]]
    for num_steps, report in sweep.items():
        means = [f"{mean_of(report, metric):.{metric.decimals}f}" for metric in metrics]
        lines.append([str(num_steps), f"{seconds_per_image(report):.3f}", *means])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def plot_sweep(sweep: Sweep) -> bytes:
    """Return one row of plots per kind of metric: against steps and against time, on logarithmic axes."""
    from matplotlib.figure import Figure

    metrics = _metrics(sweep)
    kinds = [kind for kind in Y_LABELS if any(metric.column.startswith(kind) for metric in metrics)]
    figure = Figure(figsize=(10, 3.5 * len(kinds)), layout="constrained")
    steps, seconds = list(sweep), [max(seconds_per_image(report), 1e-6) for report in sweep.values()]
    for row, kind in zip(figure.subplots(len(kinds), 2, squeeze=False), kinds, strict=True):
        for axes, x, label in zip(row, (steps, seconds), ("sampling steps", "seconds per image"), strict=True):
            for metric in (metric for metric in metrics if metric.column.startswith(kind)):
                axes.plot(x, [mean_of(report, metric) for report in sweep.values()], "o-", label=metric.label)
            axes.set(xscale="log", xlabel=label, ylabel=Y_LABELS[kind])
            axes.set_xticks(x, [f"{value:.3g}" for value in x])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.legend()
    return _png(figure)


def _png(figure: "Figure") -> bytes:
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=100)
    return encoded.getvalue()


def _metrics(sweep: Sweep) -> list[Metric]:
    return metrics_of(next(iter(sweep.values())))


def mean_of(report: Report, metric: Metric) -> float:
    """Return the mean of a metric over images; NaN where no image has a score."""
    mean = report.summary[metric.column].mean
    return math.nan if mean is None else mean
