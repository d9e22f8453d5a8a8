"""A restorer scored over a test set, image by image.

One at a time, whatever their sizes: an image is never padded, resized or cropped to go with others, which would change
its score.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from restore_diff.data.pairs import Pair
from restore_diff.evaluation.scoring import INPUT, Row, Scorer, flags_of, quantize
from restore_diff.evaluation.sharing import WHOLE, Share
from restore_diff.tensors import Images

Restore = Callable[[Images, Sequence[str], int], Images]
"""(degraded (1, 3, H, W) in [0, 1], names, seed) -> restored, likewise. `Restorer.restore` is one."""

OnImage = Callable[[Row, Tensor], None]
"""Called after each image with its row and the restored image, float32 (3, H, W) in [0, 1], rounded to 8-bit levels."""


class PairDataset(Protocol):
    """Pairs by position; a `PairedImageDataset`, a list, a torch `Subset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pair: ...


class Evaluator:
    """Restores each image of a test set and scores it, and the degraded image, against the clean one.

    `device` is where images are restored from and scored.
    """

    def __init__(
        self,
        restore: Restore,
        scorer: Scorer,
        device: torch.device | str = "cpu",
    ) -> None:
        self.restore = restore
        self.scorer = scorer
        self.device = torch.device(device)

    def evaluate(
        self,
        dataset: PairDataset,
        seeds: Sequence[int] = (0,),
        on_image: OnImage | None = None,
        share: Share = WHOLE,
    ) -> list[Row]:
        """One row per image and seed, in the order of the data set; `on_image` sees those of this process's share.

        Images are rounded to 8-bit levels first. One that is not finite, or whose restoring raises FloatingPointError,
        scores NaN throughout and is flagged.
        """
        return share.all_rows(lambda: self._rows(dataset, share.positions(len(dataset)), seeds, on_image))

    def _rows(
        self, dataset: PairDataset, positions: Sequence[int], seeds: Sequence[int], on_image: OnImage | None
    ) -> list[Row]:
        rows: list[Row] = []
        for index in positions:
            pair = dataset[index]
            clean = quantize(pair.clean[None].to(self.device))[0]
            degraded = quantize(pair.degraded[None].to(self.device))[0]
            input_scores = {column + INPUT: score for column, score in self.scorer(degraded, clean).items()}
            for seed in seeds:
                row, restored = self._score(pair, clean, input_scores, seed)
                rows.append(row)
                if on_image is not None:
                    on_image(row, restored.cpu() / 255)
        return rows

    def restored(self, pair: Pair, seed: int = 0) -> Tensor | None:
        """The restored image, uint8 (3, H, W) on the evaluator's device; None if it is not finite."""
        try:
            images = self.restore(pair.degraded[None].to(self.device), [pair.name], seed)
        except FloatingPointError:
            return None
        return quantize(images)[0] if images.isfinite().all() else None

    def _score(self, pair: Pair, clean: Tensor, input_scores: dict[str, float], seed: int) -> tuple[Row, Tensor]:
        started = time.perf_counter()
        restored = self.restored(pair, seed)  # has waited for the device: it looks at the values
        seconds = time.perf_counter() - started
        if restored is None:
            restored = torch.zeros_like(clean)
            scores = {column.removesuffix(INPUT): math.nan for column in input_scores}
            flags: tuple[str, ...] = ("nonfinite",)
        else:
            scores = self.scorer(restored, clean)
            flags = flags_of(scores, restored, clean)
        height, width = clean.shape[-2:]
        return Row(pair.name, width, height, seed, scores | input_scores, seconds, flags), restored
