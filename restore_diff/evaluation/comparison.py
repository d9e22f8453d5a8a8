"""Two methods on the same images: the paired difference, whose interval is far narrower than those of the means."""

from dataclasses import dataclass
from pathlib import Path

import torch

from restore_diff.data.listing import first_names
from restore_diff.evaluation.report import read_per_image_csv
from restore_diff.evaluation.scoring import INPUT, Row
from restore_diff.evaluation.summary import bootstrap_interval, capped, image_values


@dataclass(frozen=True)
class Difference:
    """Of one metric: the second minus the first, over the images that have a score in both."""

    column: str
    first_mean: float
    second_mean: float
    mean: float
    ci95: tuple[float, float] | None
    """95 % bootstrap interval of the mean difference; where it holds 0, the two cannot be told apart."""
    n: int


def compare(first: Path, second: Path) -> list[Difference]:
    """Compare two per_image.csv, joined by the images' names, seeds averaged.

    ValueError where the images or the metrics differ: numbers under two protocols have no difference.
    """
    first_rows, second_rows = read_per_image_csv(first), read_per_image_csv(second)
    for what, left, right in (
        ("metrics", _metrics(first_rows), _metrics(second_rows)),
        ("images", {row.name for row in first_rows}, {row.name for row in second_rows}),
    ):
        if left != right:
            raise ValueError(f"{first} and {second} do not hold the same {what}: {first_names(sorted(left ^ right))}")
    return [_difference(column, first_rows, second_rows) for column in sorted(_metrics(first_rows))]


def comparison_table(differences: list[Difference]) -> str:
    """One line per metric: first -> second, the difference and its 95 % interval."""
    width = max((len(difference.column) for difference in differences), default=0)
    return "\n".join(f"{difference.column:<{width}}  {_text(difference)}" for difference in differences)


def _metrics(rows: list[Row]) -> set[str]:
    return {column for row in rows[:1] for column in row.scores if not column.endswith(INPUT)}


def _difference(column: str, first_rows: list[Row], second_rows: list[Row]) -> Difference:
    first, second = (
        torch.stack([capped(seeds, column).mean() for seeds in image_values(rows, column).values()])
        for rows in (first_rows, second_rows)
    )
    both = ~(first.isnan() | second.isnan())
    first, second = first[both], second[both]
    return Difference(
        column=column,
        first_mean=first.mean().item(),
        second_mean=second.mean().item(),
        mean=(second - first).mean().item(),
        ci95=bootstrap_interval(second - first),
        n=len(first),
    )


def _text(difference: Difference) -> str:
    decimals = 2 if difference.column.startswith("psnr") else 4
    interval = ""
    if difference.ci95 is not None:
        low, high = difference.ci95
        interval = f", 95% CI {low:+.{decimals}f} to {high:+.{decimals}f}"
    return (
        f"{difference.first_mean:.{decimals}f} -> {difference.second_mean:.{decimals}f}, "
        f"difference {difference.mean:+.{decimals}f}{interval} (n={difference.n})"
    )
