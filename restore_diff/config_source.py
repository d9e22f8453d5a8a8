"""One source of configuration values, a YAML file or an override, with the place each key came from."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from restore_diff.files import printable

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_EVENTS = 10_000
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class ConfigError(ValueError):
    """One or more mistakes in a configuration; `problems` has a line for each."""

    def __init__(self, problems: list[str]):
        self.problems = [printable(problem) for problem in problems]  # keys and values may hold line breaks
        super().__init__("\n".join(self.problems))


@dataclasses.dataclass(frozen=True)
class Source:
    values: DictConfig
    places: dict[str, str]

    def place(self, key: str) -> str:
        """Where the key, or the nearest section above it, was set; empty if not here."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            if found := self.places.get(".".join(parts[:length])):
                return found
        return ""


def read_yaml(path: Path) -> Source:
    """Read one file. Raises ConfigError with file and line."""
    values, node = _parse(_read_text(path), str(path))
    return Source(values, _places(node, path) if node else {})


def read_override(text: str) -> Source:
    """Read one `section.key=value` of the command line; the value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not value or not all(part.isidentifier() for part in key.split(".")):
        raise ConfigError([f"{text[:80]}: expected section.key=value, e.g. training.learning_rate=1e-4"])
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    parsed, _ = _parse(f"value: {value}", shown)
    if parsed.keys() != {"value"}:
        raise ConfigError([f"{shown}: more than one value"])
    values = OmegaConf.create({})
    OmegaConf.update(values, key, parsed._get_node("value"))
    return Source(values, {key: "command line"})


def _parse(text: str, where: str) -> tuple[DictConfig, yaml.Node | None]:
    """Values, and the tree that knows their lines; None for an empty text. Raises ConfigError, which names `where`."""
    try:
        _require_plain(yaml.parse(text, yaml.SafeLoader), where)
        node = yaml.compose(text, yaml.SafeLoader)
        if node is None:
            return OmegaConf.create({}), None
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError([f"{where}:1: expected `section: ...` at the top, found a {node.id}"])
        _require_plain_numbers(node, where)
        values = OmegaConf.create(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{where}:{line}: {error.problem}"]) from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"{where}: {str(error).splitlines()[0]}"]) from None
    assert isinstance(values, DictConfig)
    return values, node


def _require_plain(events: Iterator[yaml.Event], where: str) -> None:
    """Refuse, before it costs anything, all by which a few bytes of YAML unfold into gigabytes, hours or code."""
    depth = 0
    for number, event in enumerate(events):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        refused = ""
        if isinstance(event, yaml.AliasEvent):
            refused = "YAML aliases are not supported"
        elif getattr(event, "tag", None):
            refused = f"YAML tags are not supported, got {event.tag}"  # type: ignore[attr-defined]
        elif isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            refused = f"{event.value[:60]!r} refers to another value, which is not supported: write the value itself"
        elif depth > MAX_DEPTH or number > MAX_EVENTS:
            refused = f"no config has more than {MAX_DEPTH} levels or {MAX_EVENTS // 2} values"
        if refused:
            raise ConfigError([f"{where}:{event.start_mark.line + 1}: {refused}"])


def _require_plain_numbers(node: yaml.Node, where: str) -> None:
    """Refuse what YAML 1.1 reads otherwise than people do: 12:30 is 750, 0777 is 511, 2024_05 is 202405."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in NUMBERS and re.search(r"[_:]|^[-+]?0\d+$|.{100}", node.value):
            line, text = node.start_mark.line + 1, node.value[:60]
            raise ConfigError(
                [f"{where}:{line}: {text} is no plain number: write it in digits, or in quotes if it is a text"]
            )
    else:
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                _require_plain_numbers(part, where)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError([f"{path}: {path.stat().st_size} bytes is no config file (at most {MAX_BYTES})"])
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text (byte {error.start})"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None


def _places(node: yaml.Node, path: Path, prefix: str = "") -> dict[str, str]:
    places: dict[str, str] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            places[dotted] = f"{path}:{key.start_mark.line + 1}"
            places.update(_places(value, path, f"{dotted}."))
    return places
