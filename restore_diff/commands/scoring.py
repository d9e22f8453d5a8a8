"""What train.py and test.py share: score a test set, write the files, print the table."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.transforms.functional import center_crop
from torchvision.utils import make_grid
from tqdm import tqdm

from restore_diff import build
from restore_diff.commands.arguments import METRICS
from restore_diff.commands.console import say
from restore_diff.config import ExperimentConfig
from restore_diff.data.finding import PairList
from restore_diff.data.images import write_image
from restore_diff.data.pairs import Pair
from restore_diff.evaluation.evaluator import Evaluator
from restore_diff.evaluation.panels import choose_examples, draw_panel
from restore_diff.evaluation.report import Report
from restore_diff.evaluation.scoring import Row
from restore_diff.evaluation.sharing import WHOLE, Share
from restore_diff.evaluation.summary import summarise
from restore_diff.evaluation.tables import console_table, latex_row, markdown_table
from restore_diff.restoration.restorer import Restorer
from restore_diff.training.run_log import RunLog, Silence

NUM_PANEL_ROWS = 4
PANEL_PX = 256
PICTURE = "before_after.png"
VALIDATION_METRICS = ("psnr", "ssim")


class Choice(NamedTuple):
    """How a test set is scored, beyond what the config says."""

    metrics: Sequence[str] = METRICS
    seeds: Sequence[int] = (0,)
    limit: int | None = None
    save_images: bool = False
    lpips_weights: Path | None = None
    download: bool = False
    share: Share = WHOLE


def set_folder(parent: Path, source: str) -> Path:
    """Where the report on a test set goes: a folder of its own in `parent`, by whatever path the set is named."""
    return parent / (re.sub(r"[^\w-]+", "_", source).strip("_")[-60:] or "here")


def score_test_set(
    config: ExperimentConfig, restorer: Restorer, description: str, pairs: PairList, folder: Path, choice: Choice
) -> Report:
    """Restore and score every pair; per_image.csv, summary.json, tables and a picture go to `folder`.

    `description`, of the restorer, stands in the report: its numbers depend on all that it says. Where several
    processes share the pairs, all return the whole report, and the first one writes it.
    """
    images = build.images(config, pairs)
    dataset = Subset(images, range(min(choice.limit or len(images), len(images))))
    protocols = build.protocols(config, pairs.protocols)
    lpips = build.lpips(config, choice.lpips_weights, choice.download)
    evaluator = Evaluator(restorer.restore, build.scorer(protocols, lpips, choice.metrics), restorer.device)

    total = len(choice.share.positions(len(dataset))) * len(choice.seeds)
    with tqdm(total=total, unit="image", desc=pairs.name, disable=None if choice.share.is_first else True) as bar:

        def on_image(row: Row, restored: Tensor) -> None:
            if choice.save_images:
                seed = f"_seed{row.seed}" if len(choice.seeds) > 1 else ""
                path = folder / "images" / f"{row.name}{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, restored)
            bar.update()

        rows = evaluator.evaluate(dataset, choice.seeds, on_image, choice.share)
    report = Report(pairs.name, rows, protocols, lpips, description)
    if not choice.share.is_first:
        return report
    write_report(report, folder)
    (folder / PICTURE).unlink(missing_ok=True)
    measures = [metric for metric in ("psnr", "ssim") if metric in choice.metrics]
    if measures and (examples := choose_examples(rows, f"{measures[0]}_{protocols[0]}")):
        draw_panel(folder / PICTURE, examples, dataset, evaluator.restored)
    return report


def write_report(report: Report, folder: Path) -> None:
    """per_image.csv, summary.json, and the table for Markdown and LaTeX."""
    report.write(folder)
    (folder / "table.md").write_text(markdown_table(report) + "\n", encoding="utf-8")
    (folder / "table.tex").write_text(latex_row(report) + "\n", encoding="utf-8")


def tell(report: Report, folder: Path) -> None:
    """Print the table, and where everything is."""
    say(*console_table(report).splitlines(), f"wrote {folder}/: per_image.csv, summary.json, table.md, table.tex")
    if (folder / PICTURE).exists():
        say(f"picture {folder / PICTURE}: degraded | restored | clean | error")


def validation(
    config: ExperimentConfig, restorer: Restorer, pairs: PairList, log: RunLog | Silence, share: Share = WHOLE
) -> Callable[[nn.Module, int], dict[str, float]]:
    """Scores of the held-out pairs by the path of test.py, and a fixed panel of the first of them in the log.

    `restorer` must hold the model that is trained. The panel shows pairs of the first process's share.
    """
    evaluator = Evaluator(restorer.restore, build.scorer(("rgb",), None, VALIDATION_METRICS), restorer.device)
    dataset = build.images(config, pairs)

    def validate(_: nn.Module, step: int) -> dict[str, float]:
        """Means by metric; NaN where no pair has a score."""
        pictures: list[Tensor] = []
        rows = evaluator.evaluate(dataset, on_image=lambda row, restored: pictures.append(restored), share=share)
        shown = zip(share.positions(len(dataset))[:NUM_PANEL_ROWS], pictures, strict=False)
        if share.is_first:
            log.image(step, _panel([(dataset[index], picture) for index, picture in shown]))
        summary = summarise(rows)
        means = {name: summary[f"{name}_rgb"].mean for name in VALIDATION_METRICS}
        return {name: math.nan if mean is None else mean for name, mean in means.items()}

    return validate


def _panel(shown: Sequence[tuple[Pair, Tensor]]) -> Tensor:
    """degraded | restored | clean of each image, cut to the middle of one size."""
    rows = [(pair.degraded, restored, pair.clean) for pair, restored in shown]
    size = [min(PANEL_PX, *(row[0].shape[axis] for row in rows)) for axis in (1, 2)]
    return make_grid([center_crop(image, size) for row in rows for image in row], nrow=3, padding=4, pad_value=1.0)
