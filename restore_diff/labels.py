"""Weather labels of a network: which kinds of weather an image shows, as a row of ones and zeros, or unknown."""

from collections.abc import Sequence

import torch
from torch import Tensor

from restore_diff.randomness import generator

LABELS = ("none", "rain", "haze", "snow", "raindrop")
"""Default meaning of the places of a hint; a checkpoint keeps its own in `model.labels`. The first is always `none`."""

SURE = 0.8
"""Confidence above which a label is used (docs/results/recognition.md)."""

POSSIBLE = 0.18
"""Confidence in `none` above which it is used when no kind of weather is sure."""


def hints(weathers: Sequence[str | None], labels: Sequence[str] = LABELS) -> Tensor:
    """(len(weathers), len(labels)) float32: 1 for each kind that is present; all 0 where the weather is unknown (None).

    "rain+haze" is both. Raises ValueError for a kind that is not among the labels.
    """
    rows = torch.zeros(len(weathers), len(labels))
    for row, weather in zip(rows, weathers, strict=True):
        for kind in [] if weather is None else weather.split("+"):
            if kind not in labels:
                raise ValueError(f"unknown weather {kind!r}; this network has the labels {', '.join(labels)}")
            row[labels.index(kind)] = 1
    return rows


def hints_with_dropout(
    weathers: Sequence[str | None],
    positions: Sequence[int],
    dropout: float,
    seed: int,
    labels: Sequence[str] = LABELS,
) -> Tensor:
    """`hints` with a share `dropout` of the labels removed (Ho & Salimans, 2022); which ones: by (seed, position)."""
    drawn = [torch.rand((), generator=generator(seed, "hint", position)).item() for position in positions]
    return hints([w if draw >= dropout else None for w, draw in zip(weathers, drawn, strict=True)], labels)


def decided(logits: Tensor, sure: float = SURE, possible: float = POSSIBLE) -> Tensor:
    """Logits (batch, num_labels) -> hints: the one kind of weather that is sure, if no other kind is likely.

    A wrong label harms more than a right one helps, so in doubt the weather is unknown. The place of `none`, the first,
    then holds its confidence if that is above `possible`: a photograph that may be clean is left nearly as it is.
    """
    confidence = logits.sigmoid()
    alone = (confidence > 0.5).sum(1, keepdim=True) == 1
    hint = ((confidence > sure) & alone).to(torch.float32)
    hint[:, 0] = 0
    hint[:, 0] = confidence[:, 0] * ((confidence[:, 0] > possible) & ~hint.any(1))
    return hint
