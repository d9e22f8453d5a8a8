"""The files of an evaluation: per_image.csv for people and tools, summary.json with everything that a number needs."""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from restore_diff.evaluation.scoring import Row
from restore_diff.evaluation.summary import Statistics, summarise
from restore_diff.files import replace_atomically
from restore_diff.metrics.perceptual import LPIPS
from restore_diff.metrics.protocols import PROTOCOLS, Protocol
from restore_diff.metrics.weights import MetricUnavailable
from restore_diff.provenance import environment

LEADING = ("name", "width", "height", "seed")
TRAILING = ("seconds", "flags")


@dataclasses.dataclass(frozen=True)
class Report:
    """The rows of one test set, and by what they were scored."""

    dataset: str
    rows: Sequence[Row]
    protocol_names: tuple[str, ...]
    lpips: LPIPS | MetricUnavailable | None = None
    """The metric; why there is none; or None where it was not asked for."""
    restored_by: str | None = None
    """Weights, sampler, tiles, device and precision, as printed; None for images that were restored elsewhere."""

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
        """Names of the images of which some seed gave pixels that are not finite: a command should fail on them."""
        return sorted({row.name for row in self.rows if "nonfinite" in row.flags})

    def write(self, folder: Path) -> None:
        """Write per_image.csv and summary.json to a folder, which is made; each replaces what was there at once."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_atomically(folder / "per_image.csv", per_image_csv(self.rows).encode("utf-8", "surrogateescape"))
        text = json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"
        replace_atomically(folder / "summary.json", text.encode())

    def as_dict(self) -> dict[str, Any]:
        """What summary.json holds: strict JSON, without NaN or infinities."""
        return {
            "schema": 1,
            "dataset": self.dataset,
            "restored_by": self.restored_by,
            "n": self.num_images,
            "seeds": self.seeds,
            "protocols": {protocol.name: dataclasses.asdict(protocol) for protocol in self.protocols},
            "summary": {column: dataclasses.asdict(statistics) for column, statistics in self.summary.items()},
            "lpips": _lpips_status(self.lpips),
            "flagged": [{"name": r.name, "seed": r.seed, "flags": r.flags} for r in self.rows if r.flags],
            "environment": environment() | {"argv": sys.argv},
        }


def per_image_csv(rows: Sequence[Row]) -> str:
    """Rows sorted by name; dB with 6 decimals, SSIM and LPIPS with 8, `inf` and `nan` as they are."""
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
    """The rows of a per_image.csv. ValueError, which names the path, for a file that is none."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if not set(columns) >= {*LEADING, *TRAILING}:
            raise ValueError(f"{path}: not a per_image.csv; its columns are {', '.join(columns) or 'missing'}")
        scores = [column for column in columns if column not in (*LEADING, *TRAILING)]
        try:
            return [_row(cells, scores) for cells in reader]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _row(cells: dict[str, str], scores: list[str]) -> Row:
    return Row(
        name=cells["name"],
        width=int(cells["width"]),
        height=int(cells["height"]),
        seed=int(cells["seed"]),
        scores={column: float(cells[column]) for column in scores},
        seconds=float(cells["seconds"]),
        flags=tuple(cells["flags"].split(";")) if cells["flags"] else (),
    )


def _lpips_status(lpips: LPIPS | MetricUnavailable | None) -> dict[str, Any]:
    if isinstance(lpips, LPIPS):
        return {"status": "computed", "net": lpips.net, "version": lpips.version, "sha256": lpips.sha256}
    return {"status": "off"} if lpips is None else {"status": "unavailable", "reason": str(lpips)}
