"""Cards: one YAML file per data set with its folders, pairing rules, licence and metric protocols."""

import dataclasses
import difflib
import importlib.util
import re
from pathlib import Path
from typing import Any, Literal, Self

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from yaml import YAMLError

from restore_diff.data.names import DataError
from restore_diff.files import bundled
from restore_diff.registry import nearest
from restore_diff.settings import Weather, settings

ANY_NAME = "(?P<id>.+)"


@settings
class LayoutConfig:
    """One arrangement of the files of a split on disk."""

    clean: str = Field(description="folder of the clean images, below data.root")
    degraded: str | None = Field(default=None, description="folder of the degraded images; default: rendered weather")
    clean_id: str = Field(default=ANY_NAME, description="regular expression for whole names; pairs share group `id`")
    degraded_id: str = Field(default=ANY_NAME, description="likewise; files that do not match are ignored")
    files: tuple[str, ...] = Field(default=(), description="only these clean images of the folder; default: all")
    package: str | None = Field(default=None, description="installed package that holds the folders, not data.root")

    @field_validator("clean_id", "degraded_id")
    @classmethod
    def has_id(cls, value: str) -> str:
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from error
        if "id" not in groups:
            raise ValueError(f"{value!r} needs a group (?P<id>...)")
        return value


@settings
class PartConfig:
    """One of the data sets that a split joins."""

    card: str | None = Field(default=None, description="another card; its same split is used")
    folder: str | None = Field(default=None, description="or a folder of pairs or clean photographs, below data.root")
    weight: float = Field(default=1.0, gt=0, description="relative sampling weight in training")
    weather: Weather | None = Field(default=None, description="rendered on its photographs, which must be clean")

    @model_validator(mode="after")
    def names_one_source(self) -> Self:
        if (self.card is None) == (self.folder is None):
            raise ValueError("a part is either a card or a folder")
        return self


@settings
class SplitConfig:
    """Files by `layouts`, or other data sets by `parts`."""

    num_pairs: int | None = Field(default=None, ge=1, description="published number; required with layouts")
    layouts: tuple[LayoutConfig, ...] = Field(default=(), description="the first whose folders exist is used")
    weather: Weather | None = Field(default=None, description="rendered on layouts without degraded images")
    parts: tuple[PartConfig, ...] = Field(default=(), description="data sets to join")

    @model_validator(mode="after")
    def has_files_or_parts(self) -> Self:
        """Require either layouts with the published number of pairs, or parts."""
        if bool(self.layouts) == bool(self.parts):
            raise ValueError("a split has either layouts or parts")
        if self.layouts and self.num_pairs is None:
            raise ValueError("num_pairs is missing: how many pairs were published")
        if self.parts and (self.num_pairs is not None or self.weather is not None):
            raise ValueError("num_pairs and weather belong to layouts; set weather in each part")
        if self.weather is not None and any(layout.degraded is not None for layout in self.layouts):
            raise ValueError("weather is rendered on clean photographs: leave out degraded, or weather")
        return self


SECTIONS = {"train": SplitConfig, "test": SplitConfig, "layouts": LayoutConfig, "parts": PartConfig}


@settings
class CardConfig:
    """Description of a data set."""

    name: str
    task: Literal["derain", "raindrop", "desnow", "dehaze", "all_weather"]
    source: str = Field(description="where to download it")
    licence: str
    citation: str
    protocols: tuple[str, ...] = Field(min_length=1, description="metric protocols of its published results")
    caveats: tuple[str, ...] = Field(
        default=(), description="known leaks between splits and sets, versions that differ"
    )
    train: SplitConfig | None = None
    test: SplitConfig | None = None


def find_cards() -> dict[str, Path]:
    """Return the card files by name, from ./datasets and from the package; the former have priority."""
    folders = (bundled("datasets"), Path("datasets"))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load_card(path: Path) -> CardConfig:
    """Load a card. DataError lists every mistake of the file with its key."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        return TypeAdapter(CardConfig).validate_python(content)
    except ValidationError as error:
        raise DataError(f"{path}: " + "; ".join(sorted(map(_message, error.errors())))) from error
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from error


def folder_of(layout: LayoutConfig, root: Path) -> Path:
    """Return the folder to which `layout` is relative. A package is located without importing it."""
    if layout.package is None:
        return root
    spec = importlib.util.find_spec(layout.package)
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise DataError(f"the Python package {layout.package} is not installed: pip install {layout.package}")
    return Path(next(iter(locations)))


def nearest_cards(name: str) -> str:
    """Return a hint for a message: the most similar card names, or all."""
    cards = find_cards()
    near = difflib.get_close_matches(name.lower(), cards, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"cards: {', '.join(cards) or 'none'}"


def _message(mistake: Any) -> str:
    path = [str(part) for part in mistake["loc"]]
    key = ".".join(path)
    if mistake["type"] == "unexpected_keyword_argument":
        section = next((SECTIONS[part] for part in reversed(path[:-1]) if part in SECTIONS), CardConfig)
        known = [field.name for field in dataclasses.fields(section)]  # type: ignore[arg-type]
        return f"{key}: unknown key; {nearest(path[-1], known)}"
    text = mistake["ctx"]["error"] if mistake["type"] == "value_error" else mistake["msg"]
    return f"{key}: {text}" if key else str(text)
