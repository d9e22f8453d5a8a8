"""The numbers of a report as text: for the console, a Markdown file and a LaTeX paper."""

from dataclasses import dataclass

from restore_diff.evaluation.report import Report
from restore_diff.evaluation.scoring import INPUT
from restore_diff.evaluation.summary import GAIN, PSNR_CAP_DB, Statistics
from restore_diff.metrics.perceptual import LPIPS
from restore_diff.metrics.protocols import Protocol
from restore_diff.metrics.weights import MetricUnavailable


@dataclass(frozen=True)
class Metric:
    """A column of scores, how its convention is named, and the decimals that are printed."""

    column: str
    label: str
    decimals: int


def metrics_of(report: Report) -> list[Metric]:
    """The metrics of a report, in its order."""
    metrics = [metric for protocol in report.protocols for metric in _of_protocol(protocol)]
    metrics = [metric for metric in metrics if metric.column in report.summary]
    if isinstance(report.lpips, LPIPS):
        metrics.append(Metric(f"lpips_{report.lpips.net}", report.lpips.label, 4))
    return metrics


def console_table(report: Report) -> str:
    """One line per metric: `PSNR-Y (y_matlab)  26.90 -> 31.46 ± 0.62 (95% CI, n=100), gain +4.56`, before -> after.

    ± is half of the 95 % interval of the mean over images. Then what was not computed, and what to be wary of.
    """
    metrics = metrics_of(report)
    width = max((len(metric.label) for metric in metrics), default=0)
    seeds = f", mean over {len(report.seeds)} seeds" if len(report.seeds) > 1 else ""
    lines = [f"{report.dataset}: {report.num_images} images{seeds}"]
    lines += [f"  {metric.label:<{width}}  {_line(report, metric)}" for metric in metrics]
    if isinstance(report.lpips, MetricUnavailable):
        lines.append(f"  LPIPS not computed: {report.lpips}")
    return "\n".join(lines + [f"  warning: {warning}" for warning in warnings(report)])


def warnings(report: Report) -> list[str]:
    """What a reader must know before quoting a number."""
    found = []
    num_grey = len({row.name for row in report.rows if "grey" in row.flags})
    if num_grey and any(protocol.channel == "y" and protocol.y_range == "studio" for protocol in report.protocols):
        # RGB (v, v, v) has the luma 16 + 219/255 v.
        found.append(
            f"{num_grey} images are grey and were scored as RGB; MATLAB scripts score a file of one channel as it is: "
            "PSNR-Y 1.32 dB lower"
        )
    for metric in metrics_of(report):
        statistics = report.summary.get(metric.column)
        if statistics and statistics.n_identical and metric.column.startswith("psnr"):
            found.append(
                f"{statistics.n_identical} images are identical to the clean ones under {metric.label}, counted as "
                f"{PSNR_CAP_DB:.0f} dB: was the ground truth scored against itself?"
            )
        if statistics and statistics.n_nonfinite:
            found.append(f"{metric.label} leaves out {statistics.n_nonfinite} images without a finite score")
    return found


def markdown_table(report: Report) -> str:
    """A header and one row."""
    metrics = metrics_of(report)
    header = ["", "images", *(metric.label for metric in metrics)]
    row = [report.dataset, str(report.num_images), *(_mean(report, metric.column, metric) for metric in metrics)]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], [cell.replace("|", r"\|") for cell in row]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def latex_row(report: Report) -> str:
    """A comment that names the columns, and one row of a tabular."""
    metrics = metrics_of(report)
    cells = [_escaped(report.dataset), *(_mean(report, metric.column, metric) for metric in metrics)]
    return f"% {' & '.join(['', *(metric.label for metric in metrics)])}\n{' & '.join(cells)} \\\\"


def _of_protocol(protocol: Protocol) -> tuple[Metric, Metric]:
    suffix = "-Y" if protocol.channel == "y" else ""
    return (
        Metric(f"psnr_{protocol.name}", f"PSNR{suffix} ({protocol.name})", 2),
        Metric(f"ssim_{protocol.name}", f"SSIM{suffix} ({protocol.name})", 4),
    )


def _line(report: Report, metric: Metric) -> str:
    statistics = report.summary.get(metric.column)
    if statistics is None or statistics.mean is None:
        return "no image has a score"
    text = f"{_mean(report, metric.column, metric)}{_interval(statistics, metric)}"
    if metric.column + INPUT in report.summary:
        text = f"{_mean(report, metric.column + INPUT, metric)} -> {text}"
        gain = report.summary[metric.column + GAIN].mean
        text += "" if gain is None else f", gain {gain:+.{metric.decimals}f}"
    spread = statistics.seed_std
    return text if spread is None else f"{text}, between seeds ± {spread:.{metric.decimals}f}"


def _interval(statistics: Statistics, metric: Metric) -> str:
    if statistics.ci95 is None:
        return f" (n={statistics.n})"
    low, high = statistics.ci95
    return f" ± {(high - low) / 2:.{metric.decimals}f} (95% CI, n={statistics.n})"


def _mean(report: Report, column: str, metric: Metric) -> str:
    statistics = report.summary.get(column)
    return "-" if statistics is None or statistics.mean is None else f"{statistics.mean:.{metric.decimals}f}"


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "_%&#${}" else char for char in text)
