"""Restore and score the images of a test set, on 8-bit levels: equal, bit for bit, to scoring the saved PNG files.

One image at a time: padding, resizing or cropping images into a batch would change their scores.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from restore_diff.data.pairs import Pair
from restore_diff.distributed import ALONE, Processes
from restore_diff.metrics.perceptual import LPIPS
from restore_diff.metrics.protocols import PROTOCOLS, to_levels
from restore_diff.tensors import Images

INPUT = "_input"
"""Suffix of columns with the scores of the degraded image."""


@dataclass(frozen=True)
class Row:
    """Scores of one image restored with one seed."""

    name: str
    width: int
    height: int
    seed: int
    scores: dict[str, float]
    """By column: psnr_<protocol> in dB, ssim_<protocol>, lpips_<net>; with `INPUT` appended, of the degraded image."""
    seconds: float
    """Restoration time."""
    flags: tuple[str, ...] = ()
    """identical: equal to the clean image; nonfinite: pixels not finite; small: too small for some metric;
    grey: the clean image has no colour; cropped: cut to the size shared with the clean image."""


class Scorer:
    """Score uint8 images under metric protocols and, if given, by LPIPS.

    `protocols` are names in `metrics.protocols.PROTOCOLS`; psnr and ssim, where in `metrics`, are computed under each.
    """

    def __init__(
        self, protocols: Sequence[str], lpips: LPIPS | None = None, metrics: Sequence[str] = ("psnr", "ssim")
    ) -> None:
        self.protocols = [PROTOCOLS[name] for name in protocols]
        self.lpips = lpips
        self.metrics = metrics

    def __call__(self, image: Tensor, clean: Tensor) -> dict[str, float]:
        """Return the scores of a uint8 (3, H, W) image by column; inf and NaN are kept."""
        pred, target = image[None], clean[None]
        scores: dict[str, float] = {}
        for protocol in self.protocols:
            if "psnr" in self.metrics:
                scores[f"psnr_{protocol.name}"] = protocol.psnr(pred, target).item()
            if "ssim" in self.metrics:
                scores[f"ssim_{protocol.name}"] = protocol.ssim(pred, target).item()
        if self.lpips is not None:
            scores[f"lpips_{self.lpips.net}"] = self.lpips(pred / 255, target / 255).item()
        return scores


def quantize(images: Images) -> Tensor:
    """Round images in [0, 1] half up to uint8 levels, as a PNG holds them; 0 where a pixel is not finite."""
    return to_levels(images).nan_to_num_(0).to(torch.uint8)


def flags_of(scores: dict[str, float], image: Tensor, clean: Tensor) -> tuple[str, ...]:
    """Return the flags of a finite uint8 (3, H, W) image."""
    small = any(map(math.isnan, scores.values()))
    grey = bool((clean == clean[:1]).all())
    return ("identical",) * torch.equal(image, clean) + ("small",) * small + ("grey",) * grey


Restore = Callable[[Images, Sequence[str], int], Images]
"""(degraded (1, 3, H, W) in [0, 1], names, seed) -> restored, likewise. `Restorer.restore` is one."""

OnImage = Callable[[Row, Tensor], None]
"""Called after each image with its row and the restored image, float32 (3, H, W) in [0, 1], rounded to 8-bit levels."""


class PairDataset(Protocol):
    """Pairs by position; a `PairedImageDataset`, a list, a torch `Subset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pair: ...


class Evaluator:
    """Restore each image of a test set; score it and the degraded image against the clean one, on `device`."""

    def __init__(self, restore: Restore, scorer: Scorer, device: torch.device | str = "cpu") -> None:
        self.restore = restore
        self.scorer = scorer
        self.device = torch.device(device)

    def evaluate(
        self,
        dataset: PairDataset,
        seeds: Sequence[int] = (0,),
        on_image: OnImage | None = None,
        processes: Processes = ALONE,
    ) -> list[Row]:
        """Return one row per image and seed, in the order of the data set; `on_image` gets those of this process.

        Images are rounded to 8-bit levels first. An image that is not finite, or whose restoration raises
        FloatingPointError, scores NaN and is flagged.
        """
        return processes.all_rows(lambda: self._rows(dataset, processes.positions(len(dataset)), seeds, on_image))

    def _rows(
        self, dataset: PairDataset, positions: Sequence[int], seeds: Sequence[int], on_image: OnImage | None
    ) -> list[Row]:
        rows: list[Row] = []
        for index in positions:
            pair = dataset[index]
            assert pair.degraded is not None, "a test set has a degraded image for each pair"
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
        """Restore one image: uint8 (3, H, W) on the evaluator's device; None if it is not finite."""
        assert pair.degraded is not None
        try:
            images = self.restore(pair.degraded[None].to(self.device), [pair.name], seed)
        except FloatingPointError:
            return None
        return quantize(images)[0] if images.isfinite().all() else None

    def _score(self, pair: Pair, clean: Tensor, input_scores: dict[str, float], seed: int) -> tuple[Row, Tensor]:
        started = time.perf_counter()
        restored = self.restored(pair, seed)  # isfinite() waits for the device
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
