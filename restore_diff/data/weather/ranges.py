"""Ranges of the settings of rendered weather, written (low, high), and the units that several of them share."""

from dataclasses import fields
from typing import Annotated, Any, TypeVar

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
DropRadius = Annotated[float, Field(ge=0.5, le=1000)]
BlurRadius = Annotated[float, Field(gt=0, le=100)]
Covered = Annotated[float, Field(ge=0, le=0.9)]
Multiple = Annotated[float, Field(ge=0, le=20)]
OpticalDepth = Annotated[float, Field(ge=0, le=20)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]


def range_names(config: Any) -> list[str]:
    """The fields of a weather's settings that hold ranges, in their order; others say how, not how much."""
    return [field.name for field in fields(config) if isinstance(getattr(config, field.name), tuple)]
