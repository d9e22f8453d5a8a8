"""Pictures of an evaluation: a panel of examples, and quality against number of steps and time with its table."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from restore_diff.data.images import write_image
from restore_diff.data.pairs import Pair
from restore_diff.evaluation.evaluator import INPUT, PairDataset, Row
from restore_diff.evaluation.report import Metric, Report, metrics_of
from restore_diff.files import replace_atomically

NUM_PER_KIND = 3
MAX_SIDE_PX = 480
CAPTION_PX = 16
GAP_PX = 4
ERROR_SCALE = 4


class Example(NamedTuple):
    """Image of the test set with its caption."""

    position: int
    """In the test set."""
    row: Row
    caption: str


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
            chosen.setdefault(row.name, Example(positions[row.name], row, caption))
    return list(chosen.values())


def draw_panel(
    path: Path, examples: Sequence[Example], dataset: PairDataset, restored: Callable[[Pair, int], Tensor | None]
) -> None:
    """Write a PNG with one line per example: degraded, restored, clean, and the error times four.

    `restored` is `Evaluator.restored`, which is deterministic. Images above 480 px are shrunk.
    """
    if not examples:
        raise ValueError("a panel needs at least one image with a score")
    lines = [_line(dataset[example.position], example, restored) for example in examples]
    width = max(line.shape[-1] for line in lines)
    picture = torch.cat([F.pad(line, (0, width - line.shape[-1]), value=1.0) for line in lines], dim=1)
    write_image(path, picture)


def _line(pair: Pair, example: Example, restored: Callable[[Pair, int], Tensor | None]) -> Tensor:
    levels = restored(pair, example.row.seed)
    assert levels is not None and pair.degraded is not None, "an image with a score was finite"
    image = levels.cpu() / 255
    error = (image - pair.clean).abs() * ERROR_SCALE
    tiles = torch.stack([_shrunk(tile.clamp(0, 1)) for tile in (pair.degraded, image, pair.clean, error)])
    tiles = F.pad(tiles, (0, 0, CAPTION_PX, 0), value=1.0)
    picture = to_pil_image(make_grid(tiles, nrow=len(tiles), padding=GAP_PX, pad_value=1.0))
    text = f"{example.caption}   (degraded | restored | clean | error x{ERROR_SCALE})"
    printable = text.encode("ascii", "replace").decode()  # the built-in font may lack other characters
    ImageDraw.Draw(picture).text((GAP_PX, GAP_PX), printable, fill=(0, 0, 0))
    return pil_to_tensor(picture).float() / 255


def _shrunk(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    scale = MAX_SIDE_PX / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(image[None], size, mode="area")[0]


# Sweep: quality against the number of steps and the time.

Sweep = Mapping[int, Report]
"""Reports of one test set under the same protocols, by number of steps in ascending order."""

Y_LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS (lower is better)"}


def seconds_per_image(report: Report) -> float:
    """Median restoration time, so that the warm-up of the first image has no effect."""
    return median(row.seconds for row in report.rows)


def write_sweep(folder: Path, sweep: Sweep) -> str:
    """Write sweep.csv and, where matplotlib is installed, sweep.png to a folder; return a line to print."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / "sweep.csv", sweep_csv(sweep).encode())
    picture = folder / "sweep.png"
    picture.unlink(missing_ok=True)
    try:
        draw_sweep(picture, sweep)
    except ImportError:
        return f'wrote {folder}/: sweep.csv; for the plot: pip install "restore_diff[plots]"'
    return f"wrote {folder}/: sweep.csv, sweep.png"


def sweep_csv(sweep: Sweep) -> str:
    """CSV with num_steps, seconds_per_image and the mean of each metric; nan where no image has a score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = _metrics(sweep)
    writer.writerow(["num_steps", "seconds_per_image", *(metric.column for metric in metrics)])
    for num_steps, report in sweep.items():
        means = [f"{_mean(report, metric):.{metric.decimals + 4}f}" for metric in metrics]
        writer.writerow([num_steps, f"{seconds_per_image(report):.4f}", *means])
    return text.getvalue()


def sweep_table(sweep: Sweep) -> str:
    """Console table with one line per number of steps."""
    metrics = _metrics(sweep)
    lines = [["steps", "s/image", *(metric.label for metric in metrics)]]
    for num_steps, report in sweep.items():
        means = [f"{_mean(report, metric):.{metric.decimals}f}" for metric in metrics]
        lines.append([str(num_steps), f"{seconds_per_image(report):.3f}", *means])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def draw_sweep(path: Path, sweep: Sweep) -> None:
    """Write a PNG with one row of plots per kind of metric: against steps and against time, on logarithmic axes."""
    from matplotlib.figure import Figure  # optional; a Figure without pyplot draws with Agg and keeps no global state

    metrics = _metrics(sweep)
    kinds = [kind for kind in Y_LABELS if any(metric.column.startswith(kind) for metric in metrics)]
    figure = Figure(figsize=(10, 3.5 * len(kinds)), layout="constrained")
    steps, seconds = list(sweep), [max(seconds_per_image(report), 1e-6) for report in sweep.values()]
    for row, kind in zip(figure.subplots(len(kinds), 2, squeeze=False), kinds, strict=True):
        for axes, x, label in zip(row, (steps, seconds), ("sampling steps", "seconds per image"), strict=True):
            for metric in (metric for metric in metrics if metric.column.startswith(kind)):
                axes.plot(x, [_mean(report, metric) for report in sweep.values()], "o-", label=metric.label)
            axes.set(xscale="log", xlabel=label, ylabel=Y_LABELS[kind])
            axes.set_xticks(x, [f"{value:.3g}" for value in x])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.legend()
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=100)
    replace_atomically(path, encoded.getvalue())


def _metrics(sweep: Sweep) -> list[Metric]:
    return metrics_of(next(iter(sweep.values())))


def _mean(report: Report, metric: Metric) -> float:
    mean = report.summary[metric.column].mean
    return math.nan if mean is None else mean
