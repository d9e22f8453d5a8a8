"""What a network may be told of the weather in a photograph: which kinds it shows, or nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from restore_diff.randomness import generator

KINDS = ("none", "rain", "haze", "snow", "raindrop")
"""The places of a hint."""


def hints(weathers: Sequence[str | None]) -> Tensor:
    """(len(weathers), 5) float32: 1 where that kind is in the picture; all 0 where the weather is not known, None.

    "rain+haze" is both. Raises ValueError for a kind that is not known.
    """
    rows = torch.zeros(len(weathers), len(KINDS))
    for row, weather in zip(rows, weathers, strict=True):
        for kind in [] if weather is None else weather.split("+"):
            if kind not in KINDS:
                raise ValueError(f"unknown weather {kind!r}; known: {', '.join(KINDS)}")
            row[KINDS.index(kind)] = 1
    return rows


def hints_with_dropout(weathers: Sequence[str | None], positions: Sequence[int], dropout: float, seed: int) -> Tensor:
    """`hints`, a share `dropout` of them kept secret (Ho & Salimans, 2022): which ones depends on (seed, position)."""
    drawn = [torch.rand((), generator=generator(seed, "hint", position)).item() for position in positions]
    return hints([weather if draw >= dropout else None for weather, draw in zip(weathers, drawn, strict=True)])


def decided(logits: Tensor) -> Tensor:
    """Logits of each kind, (batch, 5), to hints: the kinds that are more likely than not.

    Where there are none, or "none" beside another, the weather is not known: all 0.
    """
    likely = (logits > 0).to(torch.float32)
    none, weather = likely[:, :1] > 0, likely[:, 1:].sum(1, keepdim=True) > 0
    return likely.masked_fill(none & weather, 0)
