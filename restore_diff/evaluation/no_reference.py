"""Images without ground truth: a folder of them scored by no-reference metrics, the tool and its version named."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.listing import list_images
from restore_diff.evaluation.report import per_image_csv
from restore_diff.evaluation.scoring import Row
from restore_diff.evaluation.sharing import WHOLE, Share
from restore_diff.evaluation.summary import Statistics, summarise
from restore_diff.files import replace_atomically
from restore_diff.metrics.no_reference import LICENCE, NoReference
from restore_diff.provenance import environment


def score_images(
    folder: Path, names: Sequence[str], device: torch.device, share: Share = WHOLE, *, download: bool = False
) -> tuple[list[Row], NoReference]:
    """One row per image of `folder`, and the metrics that scored it.

    A score that a metric does not give is NaN, and the row flagged `small`. Missing weights are fetched only with
    `download`. DataError, MetricUnavailable.
    """
    images = list(list_images(folder).items())
    metric = NoReference(names, device, download=download)

    def score() -> list[Row]:
        rows: list[Row] = []
        for name, path in (images[index] for index in share.positions(len(images))):
            image = read_rgb_uint8(path)
            scores = metric(image)
            flags = ("small",) * any(score != score for score in scores.values())
            rows.append(Row(name, image.shape[-1], image.shape[-2], 0, scores, 0.0, flags))
        return rows

    return share.all_rows(score), metric


def write_no_reference(folder: Path, rows: Sequence[Row], metric: NoReference) -> None:
    """Write no_reference.csv and no_reference.json to a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / "no_reference.csv", per_image_csv(rows).encode("utf-8", "surrogateescape"))
    found: dict[str, Any] = {
        "tool": f"pyiqa {metric.version}",
        "licence": LICENCE,
        "n": len(rows),
        "lower_is_better": metric.lower_is_better,
        "summary": {name: dataclasses.asdict(statistics) for name, statistics in summarise(rows).items()},
        "not_computed": metric.not_computed,
        "environment": environment() | {"argv": sys.argv},
    }
    replace_atomically(folder / "no_reference.json", (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())


def no_reference_table(rows: Sequence[Row], metric: NoReference) -> str:
    """One line per metric, the tool with its licence, and what was not computed."""
    lines = [f"{len(rows)} images without ground truth, by pyiqa {metric.version} ({LICENCE})"]
    for name, statistics in summarise(rows).items():
        better = "lower" if metric.lower_is_better[name] else "higher"
        lines.append(f"  {name}  {_text(statistics)}, {better} is better")
    return "\n".join(lines + [f"  {name} not computed: {reason}" for name, reason in metric.not_computed.items()])


def _text(statistics: Statistics) -> str:
    if statistics.mean is None:
        return "no image has a score"
    if statistics.ci95 is None:
        return f"{statistics.mean:.3f} (n={statistics.n})"
    low, high = statistics.ci95
    return f"{statistics.mean:.3f} ± {(high - low) / 2:.3f} (95% CI, n={statistics.n})"
