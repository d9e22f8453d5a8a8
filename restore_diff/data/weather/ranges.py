"""Ranges of the settings of rendered weather, written (low, high), and the units that several of them share."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

Number = TypeVar("Number")


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range is written (low, high), got {ends}")
    return ends


Range = Annotated[tuple[Number, Number], AfterValidator(_ordered)]
Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[float, Field(gt=0, le=1000)]
Tilt = Annotated[float, Field(ge=-70, le=70)]
TiltSpread = Annotated[float, Field(ge=0, le=8)]
Ratio = Annotated[float, Field(ge=1, le=100)]
