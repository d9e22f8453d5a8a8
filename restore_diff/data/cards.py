"""Cards: one YAML file per data set says where its files lie, how they pair up and how its results are scored."""

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, TypeAdapter, ValidationError, field_validator
from yaml import YAMLError

from restore_diff.data.listing import DataError
from restore_diff.schema import settings

ANY_NAME = "(?P<id>.+)"


@settings
class LayoutConfig:
    """One way in which a split is found on disks."""

    clean: str = Field(description="folder of the clean images, below data.root")
    degraded: str | None = Field(
        default=None, description="folder of the degraded images; none: weather is rendered instead"
    )
    clean_id: str = Field(
        default=ANY_NAME, description="regular expression for the whole name; group `id` is what pairs share"
    )
    degraded_id: str = Field(default=ANY_NAME, description="likewise; files that do not match are not of this split")
    files: tuple[str, ...] = Field(default=(), description="only these clean images of the folder; none named: all")
    package: str | None = Field(
        default=None, description="installed Python package that holds the folders, not data.root"
    )

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
class SplitConfig:
    num_pairs: int = Field(ge=1, description="as published")
    layouts: tuple[LayoutConfig, ...] = Field(min_length=1, description="the first whose folders exist is taken")


@settings
class CardConfig:
    """What is known of a data set."""

    name: str
    task: Literal["derain", "raindrop", "desnow", "dehaze", "all_weather"]
    source: str = Field(description="where its authors offer it")
    licence: str
    citation: str
    protocols: tuple[str, ...] = Field(min_length=1, description="metric protocols its published results are scored by")
    caveats: tuple[str, ...] = Field(
        default=(), description="known leaks between splits and sets, versions that differ"
    )
    train: SplitConfig | None = None
    test: SplitConfig | None = None


def find_cards() -> dict[str, Path]:
    """The card files by name, from ./datasets and from the datasets/ folder of this repository; the former win."""
    folders = (Path(__file__).parents[2] / "datasets", Path("datasets"))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load_card(path: Path) -> CardConfig:
    """DataError with every mistake of the file, each with its key."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        return TypeAdapter(CardConfig).validate_python(content)
    except ValidationError as error:
        mistakes = (f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}" for mistake in error.errors())
        raise DataError(f"{path}: " + "; ".join(mistakes)) from error
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error


def folder_of(layout: LayoutConfig, root: Path) -> Path:
    """The folder that `layout.clean` and `layout.degraded` are relative to. The package is not imported."""
    if layout.package is None:
        return root
    spec = importlib.util.find_spec(layout.package)
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise DataError(f"the Python package {layout.package} is not installed: pip install {layout.package}")
    return Path(next(iter(locations)))


def nearest_cards(name: str) -> str:
    """For a message: the names of cards that may have been meant, or all."""
    cards = find_cards()
    near = difflib.get_close_matches(name.lower(), cards, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"cards: {', '.join(cards) or 'none'}"
