"""Statistics of a test set, its report files and tables. Seeds are averaged within an image first, then images."""

import csv
import dataclasses
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from restore_diff.data.names import first_names
from restore_diff.environment import environment
from restore_diff.errors import UserError
from restore_diff.evaluation.evaluator import INPUT, Row
from restore_diff.files import replace_atomically
from restore_diff.metrics.perceptual import LPIPS, MetricUnavailable
from restore_diff.metrics.protocols import PROTOCOLS, Protocol
from restore_diff.randomness import generator

PSNR_CAP_DB = 100.0
"""Value in a mean of an infinite PSNR (identical images)."""

GAIN = "_gain"
PERFECT = {"psnr": math.inf, "ssim": 1.0, "lpips": 0.0}
NUM_RESAMPLES = 10_000
MIN_IMAGES_FOR_T = 30


@dataclass(frozen=True)
class Statistics:
    """Statistics of one column; None where too few images have a value."""

    mean: float | None
    std: float | None
    """Sample standard deviation over images."""
    median: float | None
    ci95: tuple[float, float] | None
    """95 % interval of the mean over images."""
    min: float | None
    max: float | None
    n: int
    """Number of images in the mean."""
    n_identical: int
    """Images with a perfect score, usually because ground truth was scored against itself."""
    n_nonfinite: int
    """Images left out because one of their seeds has no score."""
    seed_std: float | None
    """Standard deviation between the seeds of an image, root mean square over images; None with one seed."""


def summarise(rows: Sequence[Row]) -> dict[str, Statistics]:
    """Statistics by column, plus columns ending in `GAIN` where the input was scored too.

    A gain is the score of the restored image minus that of its input (negative is better for LPIPS).
    """
    columns = [column for column in rows[0].scores if not column.endswith(INPUT)] if rows else []
    summary: dict[str, Statistics] = {}
    for column in columns:
        restored = image_values(rows, column)
        summary[column] = _statistics(restored, column)
        if column + INPUT in rows[0].scores:
            degraded = image_values(rows, column + INPUT)
            summary[column + INPUT] = _statistics(degraded, column + INPUT)
            summary[column + GAIN] = _statistics(gains_of(rows, column), column + GAIN)
    return summary


def gains_of(rows: Iterable[Row], column: str) -> dict[str, Tensor]:
    """Gains of each image, one per seed, by image name in sorted order."""
    rows = list(rows)
    degraded = image_values(rows, column + INPUT)
    restored = image_values(rows, column)
    return {name: capped(values, column) - capped(degraded[name], column) for name, values in restored.items()}


def image_values(rows: Iterable[Row], column: str) -> dict[str, Tensor]:
    """Values of each image, one per seed, by image name in sorted order."""
    values: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: (row.name, row.seed)):
        values.setdefault(row.name, []).append(row.scores[column])
    return {name: torch.tensor(seeds, dtype=torch.float64) for name, seeds in values.items()}


def capped(values: Tensor, column: str) -> Tensor:
    """Clamp PSNR values to PSNR_CAP_DB; other columns and NaN stay as they are."""
    return values.clamp(max=PSNR_CAP_DB) if column.startswith("psnr") else values


def confidence_interval(values: Tensor) -> tuple[float, float] | None:
    """95 % interval of the mean: Student's t for 30 values or more, else the bootstrap; None below 2 values."""
    if len(values) < MIN_IMAGES_FOR_T:
        return bootstrap_interval(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * values.std().item() / math.sqrt(len(values))
    return values.mean().item() - half, values.mean().item() + half


def bootstrap_interval(values: Tensor) -> tuple[float, float] | None:
    """95 % percentile interval of the mean by 10,000 resamples with a fixed seed; None below 2 values."""
    num_values = len(values)
    if num_values < 2:
        return None
    random = generator(0, "bootstrap")
    means: list[Tensor] = []
    while len(means) * (chunk := max(1, 1_000_000 // num_values)) < NUM_RESAMPLES:
        means.append(values[torch.randint(num_values, (chunk, num_values), generator=random)].mean(dim=1))
    bounds = torch.tensor([0.025, 0.975], dtype=values.dtype)
    low, high = torch.cat(means)[:NUM_RESAMPLES].quantile(bounds).tolist()
    return low, high


def _statistics(images: dict[str, Tensor], column: str) -> Statistics:
    perfect = None if column.endswith(GAIN) else PERFECT.get(column.split("_")[0])
    finite = [capped(seeds, column) for seeds in images.values() if not seeds.isnan().any()]
    means = torch.tensor([seeds.mean().item() for seeds in finite], dtype=torch.float64)
    several_seeds = bool(finite) and len(finite[0]) > 1
    return Statistics(
        mean=means.mean().item() if finite else None,
        std=means.std().item() if len(finite) > 1 else None,
        median=means.quantile(0.5).item() if finite else None,
        ci95=confidence_interval(means),
        min=means.min().item() if finite else None,
        max=means.max().item() if finite else None,
        n=len(finite),
        n_identical=0 if perfect is None else sum(bool((seeds == perfect).any()) for seeds in images.values()),
        n_nonfinite=len(images) - len(finite),
        seed_std=torch.stack([seeds.var() for seeds in finite]).mean().sqrt().item() if several_seeds else None,
    )


# Report files: per_image.csv, summary.json.

LEADING = ("name", "width", "height", "seed")
TRAILING = ("seconds", "flags")


@dataclass(frozen=True)
class Report:
    """Rows of one test set with the protocols and the LPIPS network that scored them."""

    dataset: str
    rows: Sequence[Row]
    protocol_names: tuple[str, ...]
    lpips: LPIPS | MetricUnavailable | None = None
    """The metric; the reason why it is unavailable; or None if not requested."""
    restored_by: str | None = None
    """Weights, sampler, tiles, device and precision, as printed; None for images restored elsewhere."""

    @cached_property
    def summary(self) -> dict[str, Statistics]:
        return summarise(self.rows)

    @property
    def protocols(self) -> list[Protocol]:
        return [PROTOCOLS[name] for name in self.protocol_names]

    @property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.rows})

    @property
    def num_images(self) -> int:
        return len({row.name for row in self.rows})

    @property
    def nonfinite(self) -> list[str]:
        """Names of the images with non-finite pixels for some seed; a command should fail on them."""
        return sorted({row.name for row in self.rows if "nonfinite" in row.flags})

    def write(self, folder: Path) -> None:
        """Write per_image.csv, summary.json, table.md and table.tex to a folder, created if needed."""
        write_csv(folder / "per_image.csv", self.rows)
        write_json(folder / "summary.json", self.as_dict())
        replace_atomically(folder / "table.md", (markdown_table(self) + "\n").encode("utf-8", "surrogateescape"))
        replace_atomically(folder / "table.tex", (latex_row(self) + "\n").encode("utf-8", "surrogateescape"))

    def as_dict(self) -> dict[str, Any]:
        """Contents of summary.json: strict JSON without NaN or infinities."""
        lpips = {"status": "off"} if self.lpips is None else {"status": "unavailable", "reason": str(self.lpips)}
        if isinstance(self.lpips, LPIPS):
            lpips = {"status": "computed", "net": self.lpips.net, "version": self.lpips.version}
            lpips["sha256"] = self.lpips.sha256
        return {
            "schema": 1,
            "dataset": self.dataset,
            "restored_by": self.restored_by,
            "n": self.num_images,
            "seeds": self.seeds,
            "protocols": {protocol.name: dataclasses.asdict(protocol) for protocol in self.protocols},
            "summary": {column: dataclasses.asdict(statistics) for column, statistics in self.summary.items()},
            "lpips": lpips,
            "flagged": [{"name": r.name, "seed": r.seed, "flags": r.flags} for r in self.rows if r.flags],
            "environment": environment() | {"argv": sys.argv},
        }


@dataclass(frozen=True)
class Scores:
    """Result of `evaluate`. Metrics are named "psnr(y_matlab)", "ssim(y_matlab)", "lpips(alex)"; str() is a table."""

    mean: dict[str, float]
    """Mean over images by metric; NaN where no image has a score."""
    interval: dict[str, tuple[float, float] | None]
    """95 % interval of that mean; None below two images."""
    rows: list[dict[str, Any]]
    """One dict per image: name, width, height, flags, and each metric (mean over seeds), also as "input METRIC"."""
    report: Report
    """All statistics and the rows by seed."""

    def __str__(self) -> str:
        return console_table(self.report)


def scores_of(report: Report) -> Scores:
    """Summary of a report with public metric names."""
    keys = {metric.column: "{}({})".format(*metric.column.split("_", 1)) for metric in metrics_of(report)}
    rows: dict[str, dict[str, Any]] = {}
    for row in report.rows:
        image = rows.setdefault(row.name, {"name": row.name, "width": row.width, "height": row.height, "flags": ()})
        image["flags"] = tuple(dict.fromkeys((*image["flags"], *row.flags)))
    for column, key in keys.items():
        for name, values in image_values(report.rows, column).items():
            rows[name][key] = values.mean().item()
        for name, values in image_values(report.rows, column + INPUT).items():
            rows[name][f"input {key}"] = values[0].item()
    means = {key: report.summary[column].mean for column, key in keys.items()}
    return Scores(
        mean={key: math.nan if mean is None else mean for key, mean in means.items()},
        interval={key: report.summary[column].ci95 for column, key in keys.items()},
        rows=list(rows.values()),
        report=report,
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file by strict JSON; its folder is created if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Replace a file by `per_image_csv` of rows; its folder is created if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, per_image_csv(rows).encode("utf-8", "surrogateescape"))


def per_image_csv(rows: Sequence[Row]) -> str:
    """CSV of rows sorted by name; PSNR with 6 decimals, other scores with 8; may hold `inf` and `nan`."""
    columns = list(rows[0].scores) if rows else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*LEADING, *columns, *TRAILING])
    for row in sorted(rows, key=lambda row: (row.name, row.seed)):
        scores = [f"{row.scores[column]:.{6 if column.startswith('psnr') else 8}f}" for column in columns]
        flags = ";".join(row.flags)
        writer.writerow([row.name, row.width, row.height, row.seed, *scores, f"{row.seconds:.4f}", flags])
    return text.getvalue()


def read_per_image_csv(path: Path) -> list[Row]:
    """Read the rows of a per_image.csv. UserError, with the path, for any other file."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        try:
            columns, lines = reader.fieldnames or [], [(cells, reader.line_num) for cells in reader]
        except csv.Error as error:
            raise UserError(f"{path}: not a per_image.csv: {error}") from error
    if not set(columns) >= {*LEADING, *TRAILING}:
        raise UserError(f"{path}: not a per_image.csv; its columns are {', '.join(columns) or 'missing'}")
    rows: list[Row] = []
    for cells, line in lines:
        try:
            size = (int(cells["width"]), int(cells["height"]))
            scores = {column: float(cells[column]) for column in columns if column not in LEADING + TRAILING}
            flags = tuple(cells["flags"].split(";")) if cells["flags"] else ()
            rows.append(Row(cells["name"], *size, int(cells["seed"]), scores, float(cells["seconds"]), flags))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {line}: {error}") from error
    return rows


# Tables: console, Markdown, LaTeX.


@dataclass(frozen=True)
class Metric:
    """Column of scores with its label and number of decimals in tables."""

    column: str
    label: str
    decimals: int


def metrics_of(report: Report) -> list[Metric]:
    """Metrics of a report, in table order."""
    metrics: list[Metric] = []
    for protocol in report.protocols:
        suffix = "-Y" if protocol.channel == "y" else ""
        metrics.append(Metric(f"psnr_{protocol.name}", f"PSNR{suffix} ({protocol.name})", 2))
        metrics.append(Metric(f"ssim_{protocol.name}", f"SSIM{suffix} ({protocol.name})", 4))
    if isinstance(report.lpips, LPIPS):
        metrics.append(Metric(f"lpips_{report.lpips.net}", report.lpips.label, 4))
    return [metric for metric in metrics if metric.column in report.summary]


def console_table(report: Report) -> str:
    """One line per metric, input -> restored: `PSNR-Y (y_matlab)  26.90 -> 31.46 ± 0.62 (95% CI, n=100), gain +4.56`.

    ± is half of the 95 % interval of the mean over images. Warnings and metrics not computed follow.
    """
    metrics = metrics_of(report)
    width = max((len(metric.label) for metric in metrics), default=0)
    seeds = f", mean over {len(report.seeds)} seeds" if len(report.seeds) > 1 else ""
    lines = [f"{report.dataset}: {report.num_images} images{seeds}"]
    lines += [f"  {metric.label:<{width}}  {_line(report, metric)}" for metric in metrics]
    lines += [f"  {note}" for note in unavailable(report)]
    return "\n".join(lines + [f"  warning: {warning}" for warning in warnings(report)])


def unavailable(report: Report) -> list[str]:
    """Metrics that were requested and not computed, with the reason."""
    return [f"LPIPS not computed: {report.lpips}"] if isinstance(report.lpips, MetricUnavailable) else []


def warnings(report: Report) -> list[str]:
    """Cautions for quoting the numbers: grey images, perfect scores, images without a score."""
    found = []
    num_grey = len({row.name for row in report.rows if "grey" in row.flags})
    if num_grey and any(protocol.channel == "y" and protocol.y_range == "studio" for protocol in report.protocols):
        # RGB (v, v, v) has the luma 16 + 219/255 v.
        found.append(
            f"{num_grey} images are grey and were scored as RGB; MATLAB scripts score the single channel: "
            "PSNR-Y 1.32 dB lower"
        )
    for metric in metrics_of(report):
        statistics = report.summary[metric.column]
        if statistics.n_identical and metric.column.startswith("psnr"):
            found.append(
                f"{statistics.n_identical} images are identical to the clean ones under {metric.label}, counted as "
                f"{PSNR_CAP_DB:.0f} dB: was the ground truth scored against itself?"
            )
        if statistics.n_nonfinite:
            found.append(f"{metric.label} leaves out {statistics.n_nonfinite} images without a finite score")
    return found


def markdown_table(report: Report) -> str:
    """Markdown table: a header and one row."""
    metrics = metrics_of(report)
    header = ["", "images", *(metric.label for metric in metrics)]
    row = [report.dataset, str(report.num_images), *(_mean(report, metric) for metric in metrics)]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], [cell.replace("|", r"\|") for cell in row]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def latex_row(report: Report) -> str:
    """Comment with the column names and one row of a LaTeX tabular."""
    metrics = metrics_of(report)
    dataset = "".join(f"\\{char}" if char in "_%&#${}" else char for char in report.dataset)
    cells = [dataset, *(_mean(report, metric) for metric in metrics)]
    return f"% {' & '.join(['', *(metric.label for metric in metrics)])}\n{' & '.join(cells)} \\\\"


def _line(report: Report, metric: Metric) -> str:
    statistics, decimals = report.summary[metric.column], metric.decimals
    if statistics.mean is None:
        return "no image has a score"
    text = f"{_mean(report, metric)}{half_interval(statistics, decimals)}"
    if metric.column + INPUT in report.summary:
        text = f"{_mean(report, metric, INPUT)} -> {text}"
        gain = report.summary[metric.column + GAIN].mean
        text += "" if gain is None else f", gain {gain:+.{decimals}f}"
    spread = statistics.seed_std
    return text if spread is None else f"{text}, between seeds ± {spread:.{decimals}f}"


def half_interval(statistics: Statistics, decimals: int) -> str:
    """Text such as ` ± 0.62 (95% CI, n=100)`, or ` (n=1)` without an interval."""
    if statistics.ci95 is None:
        return f" (n={statistics.n})"
    low, high = statistics.ci95
    return f" ± {(high - low) / 2:.{decimals}f} (95% CI, n={statistics.n})"


def _mean(report: Report, metric: Metric, end: str = "") -> str:
    mean = report.summary[metric.column + end].mean
    return "-" if mean is None else f"{mean:.{metric.decimals}f}"


# Comparison: paired difference of two methods on the same images, with a far narrower interval than unpaired means.


@dataclass(frozen=True)
class Difference:
    """Second minus first of one metric, over the images with a score in both."""

    column: str
    first_mean: float
    second_mean: float
    mean: float
    ci95: tuple[float, float] | None
    """95 % bootstrap interval of the mean difference; not significant where it contains 0."""
    n: int


def compare(first: Path, second: Path) -> list[Difference]:
    """Compare two per_image.csv, joined by image name, seeds averaged.

    UserError where the images or the metrics differ.
    """
    first_rows, second_rows = read_per_image_csv(first), read_per_image_csv(second)
    columns = _columns(first_rows)
    for what, left, right in (
        ("metrics", columns, _columns(second_rows)),
        ("images", {row.name for row in first_rows}, {row.name for row in second_rows}),
    ):
        if left != right:
            raise UserError(f"{first} and {second} do not hold the same {what}: {first_names(sorted(left ^ right))}")
    return [_difference(column, first_rows, second_rows) for column in sorted(columns)]


def comparison_table(differences: list[Difference]) -> str:
    """One line per metric: first -> second, the difference and its 95 % interval."""
    width = max((len(difference.column) for difference in differences), default=0)
    lines = []
    for d in differences:
        decimals = 2 if d.column.startswith("psnr") else 4
        interval = f", 95% CI {d.ci95[0]:+.{decimals}f} to {d.ci95[1]:+.{decimals}f}" if d.ci95 else ""
        means = f"{d.first_mean:.{decimals}f} -> {d.second_mean:.{decimals}f}, difference {d.mean:+.{decimals}f}"
        lines.append(f"{d.column:<{width}}  {means}{interval} (n={d.n})")
    return "\n".join(lines)


def _columns(rows: list[Row]) -> set[str]:
    return {column for row in rows[:1] for column in row.scores if not column.endswith(INPUT)}


def _difference(column: str, first_rows: list[Row], second_rows: list[Row]) -> Difference:
    first, second = (
        torch.stack([capped(seeds, column).mean() for seeds in image_values(rows, column).values()])
        for rows in (first_rows, second_rows)
    )
    both = ~(first.isnan() | second.isnan())
    first, second = first[both], second[both]
    gains = second - first
    means = (first.mean().item(), second.mean().item(), gains.mean().item())
    return Difference(column, *means, ci95=bootstrap_interval(gains), n=len(first))
