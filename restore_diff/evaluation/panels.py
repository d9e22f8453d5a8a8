"""One picture of a test set: the images restored best, those in the middle, and the worst."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from restore_diff.data.images import write_image
from restore_diff.data.pairs import Pair
from restore_diff.evaluation.evaluator import PairDataset
from restore_diff.evaluation.scoring import INPUT, Row

NUM_PER_KIND = 3
MAX_SIDE_PX = 480
CAPTION_PX = 16
GAP_PX = 4
ERROR_SCALE = 4


class Example(NamedTuple):
    """An image of the test set and the line above it."""

    position: int
    """In the test set."""
    row: Row
    caption: str


def choose_examples(rows: Sequence[Row], column: str) -> list[Example]:
    """The three best, middle and worst images by a PSNR or SSIM column, each once; fewer where there are fewer.

    `rows` are those of `Evaluator.evaluate`, in its order. The first seed is shown; images without a score are not.
    """
    positions = {name: index for index, name in enumerate(dict.fromkeys(row.name for row in rows))}
    seed = rows[0].seed if rows else 0
    scored = [row for row in rows if row.seed == seed and row.scores[column] == row.scores[column]]
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
    """Write a PNG with a line of degraded, restored, clean and four times the error for each example.

    `restored` is `Evaluator.restored`, which makes again what it made before. Images above 480 px are shown smaller.
    """
    if not examples:
        raise ValueError("a panel needs at least one image with a score")
    lines = [_line(dataset[example.position], example, restored) for example in examples]
    width = max(line.shape[-1] for line in lines)
    picture = torch.cat([F.pad(line, (0, width - line.shape[-1]), value=1.0) for line in lines], dim=1)
    write_image(path, picture)


def _line(pair: Pair, example: Example, restored: Callable[[Pair, int], Tensor | None]) -> Tensor:
    levels = restored(pair, example.row.seed)
    assert levels is not None, "an image with a score was finite"
    image = levels.cpu() / 255
    error = (image - pair.clean).abs() * ERROR_SCALE
    tiles = torch.stack([_shrunk(tile.clamp(0, 1)) for tile in (pair.degraded, image, pair.clean, error)])
    tiles = F.pad(tiles, (0, 0, CAPTION_PX, 0), value=1.0)
    picture = to_pil_image(make_grid(tiles, nrow=len(tiles), padding=GAP_PX, pad_value=1.0))
    text = f"{example.caption}   (degraded | restored | clean | error x{ERROR_SCALE})"
    printable = text.encode("ascii", "replace").decode()  # all that the built-in font has for certain
    ImageDraw.Draw(picture).text((GAP_PX, GAP_PX), printable, fill=(0, 0, 0))
    return pil_to_tensor(picture).float() / 255


def _shrunk(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    scale = MAX_SIDE_PX / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(image[None], size, mode="area")[0]
