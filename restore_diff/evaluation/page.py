"""report.html: scores, examples with before/after sliders and plots, in one file that loads nothing else."""

import base64
import io
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from restore_diff.evaluation.evaluator import INPUT
from restore_diff.evaluation.pictures import (
    ERROR_SCALE,
    Shown,
    Sweep,
    mean_of,
    plot_gains,
    plot_sweep,
    seconds_per_image,
    sweep_csv,
)
from restore_diff.evaluation.report import GAIN, Metric, Report, Statistics, metrics_of, unavailable, warnings
from restore_diff.files import printable, replace_atomically

PAGE = "report.html"
JPEG_QUALITY = 92
NEEDS_MATPLOTLIB = 'pip install "restore_diff[plots]"'


def write_page(folder: Path, report: Report, examples: Sequence[Shown]) -> None:
    """Write report.html of one test set: table with 95 % intervals, examples, error maps, histogram of gains."""
    plot, missing = _drawn(lambda: plot_gains(report))
    seeds = f", mean over {len(report.seeds)} seeds" if len(report.seeds) > 1 else ""
    by_kind = groupby(examples, key=lambda shown: shown.example.kind)
    _write(
        folder,
        title=report.dataset,
        subtitle=f"{report.num_images} images{seeds}. {report.restored_by or ''}",
        header=["", "input", "restored", "95 % interval", "gain", "95 % interval", "median", "worst", "best", "images"],
        rows=[{"cells": _cells(report, metric)} for metric in metrics_of(report)],
        legend="Means over images. The intervals are those of the mean over images. Worst and best are single images.",
        notes=[*unavailable(report), *warnings(report), *missing],
        plots=[{"title": "Gain of each image", "source": _png(plot)}] if plot else [],
        examples=[(f"{kind.capitalize()} images", [_encoded(shown) for shown in group]) for kind, group in by_kind],
    )


def write_sweep(folder: Path, sweep: Sweep) -> str:
    """Write sweep.csv, report.html and, where matplotlib is installed, sweep.png; return a line to print.

    The page links to the pages of each number of steps in steps_N/.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / "sweep.csv", sweep_csv(sweep).encode())
    (folder / "sweep.png").unlink(missing_ok=True)
    plot, missing = _drawn(lambda: plot_sweep(sweep))
    if plot:
        replace_atomically(folder / "sweep.png", plot)
    metrics = metrics_of(next(iter(sweep.values())))
    rows = [
        {
            "cells": [
                num_steps,
                f"{seconds_per_image(report):.3f}",
                *(f"{mean_of(report, metric):.{metric.decimals}f}" for metric in metrics),
            ],
            "link": f"steps_{num_steps}/{PAGE}",
        }
        for num_steps, report in sweep.items()
    ]
    _write(
        folder,
        title=next(iter(sweep.values())).dataset,
        subtitle="Quality and time by number of sampling steps.",
        header=["steps", "seconds per image", *(metric.label for metric in metrics)],
        rows=rows,
        legend="Means over images; median of the seconds. Each number of steps links to its own report.",
        notes=missing,
        plots=[{"title": "Quality against steps and time", "source": _png(plot)}] if plot else [],
        examples=[],
    )
    return f"wrote {folder}/: {PAGE}, sweep.csv" + (", sweep.png" if plot else f"; {missing[0]}")


def _write(folder: Path, **content: Any) -> None:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_readable)
    template = environment.from_string((resources.files("restore_diff.evaluation") / PAGE).read_text("utf-8"))
    replace_atomically(folder / PAGE, template.render(content, scale=ERROR_SCALE).encode())


def _readable(value: Any) -> Any:
    """Escape control characters and bytes that are not UTF-8 in names of files."""
    return printable(value) if type(value) is str else value


def _drawn(plot: Callable[[], bytes | None]) -> tuple[bytes | None, list[str]]:
    """Return a plot, or why it is missing."""
    try:
        return plot(), []
    except ImportError:
        return None, [f"for the plot: {NEEDS_MATPLOTLIB}"]


def _cells(report: Report, metric: Metric) -> list[str]:
    """Return one row of the table, with empty cells for values that do not exist."""

    def number(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{value:{sign}.{metric.decimals}f}"

    def interval(statistics: Statistics | None, sign: str = "") -> str:
        bounds = statistics.ci95 if statistics else None
        return f"{number(bounds[0], sign)} to {number(bounds[1], sign)}" if bounds else ""

    degraded, restored, gain = (report.summary.get(metric.column + end) for end in (INPUT, "", GAIN))
    assert restored is not None, "metrics_of returns columns of the summary"
    worst, best = restored.min, restored.max
    if metric.column.startswith("lpips"):
        worst, best = best, worst
    return [
        metric.label,
        number(degraded.mean if degraded else None),
        number(restored.mean),
        interval(restored),
        number(gain.mean if gain else None, "+"),
        interval(gain, "+"),
        *map(number, (restored.median, worst, best)),
        str(restored.n),
    ]


def _encoded(shown: Shown) -> dict[str, str]:
    """Return the caption and the images of an example as data URIs."""
    return {"caption": shown.example.caption} | {name: _jpeg(image) for name, image in shown.images.items()}


def _jpeg(image: Tensor) -> str:
    encoded = io.BytesIO()
    to_pil_image(image).save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _png(encoded: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(encoded).decode()}"
