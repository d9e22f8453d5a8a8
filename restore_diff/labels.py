"""What a network may be told of the weather in a photograph: which kinds it shows, or nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from restore_diff.randomness import generator

KINDS = ("none", "rain", "haze", "snow", "raindrop")
"""The places of a hint."""

SURE = 0.7
"""How likely a kind of weather must be for a network to tell itself so."""

POSSIBLE = 0.2
"""How likely it must be that there is none for a network that is not sure of any to tell itself so."""


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
    """Logits of each kind, (batch, 5), to hints: the kind of weather that is sure, if no other kind is likely.

    A wrong hint harms more than a right one helps, so in doubt the weather is not known. The place of "none" then holds
    how likely that is, if it is POSSIBLE: a photograph that may be clean is left nearly as it is.
    """
    belief = logits.sigmoid()
    none = KINDS.index("none")
    alone = (belief > 0.5).sum(1, keepdim=True) == 1
    hint = ((belief > SURE) & alone).to(torch.float32)
    hint[:, none] = 0
    hint[:, none] = belief[:, none] * ((belief[:, none] > POSSIBLE) & ~hint.any(1))
    return hint
