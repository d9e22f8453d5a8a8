"""The decorator of every configuration dataclass: frozen, keyword-only, unknown keys refused. Imports nothing heavy."""

from typing import TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Class = TypeVar("Class")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def settings(cls: type[Class]) -> type[Class]:
    """Make `cls` a frozen pydantic dataclass that refuses unknown keys and values of another type or range."""
    return cast(
        type[Class], dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(cls)
    )
