"""Quality against the number of steps and the time: one test set, restored several times over."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from restore_diff.evaluation.pictures import Curve, Plot, decade_ticks, draw_plots
from restore_diff.evaluation.report import Metric, Report, metrics_of
from restore_diff.files import replace_atomically

Sweep = Mapping[int, Report]
"""Reports on the same images under the same protocols, by number of steps, in growing order."""

TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS (lower is better)"}


def seconds_per_image(report: Report) -> float:
    """Median time that restoring an image took: the first one, which warms up, does not count for more."""
    return median(row.seconds for row in report.rows)


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write sweep.csv, with the mean of each metric, and sweep.png to a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / "sweep.csv", sweep_csv(sweep).encode())
    draw_plots(folder / "sweep.png", _plots(sweep))


def sweep_csv(sweep: Sweep) -> str:
    """num_steps, seconds_per_image, and the mean of each metric over images; nan where none has a score."""
    metrics = _metrics(sweep)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["num_steps", "seconds_per_image", *(metric.column for metric in metrics)])
    for num_steps, report in sweep.items():
        means = [f"{_mean(report, metric):.{metric.decimals + 4}f}" for metric in metrics]
        writer.writerow([num_steps, f"{seconds_per_image(report):.4f}", *means])
    return text.getvalue()


def sweep_table(sweep: Sweep) -> str:
    """The same for the console, one line per number of steps."""
    metrics = _metrics(sweep)
    lines = [["steps", "s/image", *(metric.label for metric in metrics)]]
    for num_steps, report in sweep.items():
        means = [f"{_mean(report, metric):.{metric.decimals}f}" for metric in metrics]
        lines.append([str(num_steps), f"{seconds_per_image(report):.3f}", *means])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _metrics(sweep: Sweep) -> list[Metric]:
    return metrics_of(next(iter(sweep.values())))


def _mean(report: Report, metric: Metric) -> float:
    mean = report.summary[metric.column].mean
    return math.nan if mean is None else mean


def _plots(sweep: Sweep) -> list[list[Plot]]:
    """A line of two plots, against steps and against time, for each kind of metric."""
    times = {num_steps: max(seconds_per_image(report), 1e-6) for num_steps, report in sweep.items()}
    time_ticks = decade_ticks(min(times.values()), max(times.values()))
    rows: list[list[Plot]] = []
    for kind, title in TITLES.items():
        metrics = [metric for metric in _metrics(sweep) if metric.column.startswith(kind)]
        if not metrics:
            continue
        by_steps = [Curve(m.label, [(n, _mean(report, m)) for n, report in sweep.items()]) for m in metrics]
        by_time = [Curve(m.label, [(times[n], _mean(report, m)) for n, report in sweep.items()]) for m in metrics]
        rows.append(
            [
                Plot("steps", title, by_steps, list(sweep)),
                Plot("seconds per image", title, by_time, time_ticks),
            ]
        )
    return rows
