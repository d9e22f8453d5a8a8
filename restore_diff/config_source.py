"""One source of configuration values, a YAML file or an override, with the place each key came from."""

import dataclasses
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

MAX_BYTES = 256 * 1024

# ${oc.env:SECRET} would be written into every run folder; plain ${section.key} needs no resolver.
for resolver in ("oc.create", "oc.decode", "oc.deprecated", "oc.dict.keys", "oc.dict.values", "oc.env", "oc.select"):
    OmegaConf.clear_resolver(resolver)


class ConfigError(ValueError):
    """One or more mistakes in a configuration; `problems` has a line for each."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


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
    text = _read_text(path)
    try:
        # Anchors let a few hundred bytes unfold into gigabytes, and no recipe needs them.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ConfigError([f"{path}: YAML aliases are not supported"])
        node = yaml.compose(text, yaml.SafeLoader)
        if node is None:
            return Source(OmegaConf.create({}), {})
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError([f"{path}:1: expected `section: ...` at the top, found a {node.id}"])
        values = OmegaConf.create(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{path}:{line}: {error.problem}"]) from None
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError([f"{path}: {str(error).splitlines()[0]}"]) from None
    assert isinstance(values, DictConfig)
    return Source(values, _places(node, path))


def read_override(text: str) -> Source:
    """Read one `section.key=value` of the command line; the value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not value or not all(part.isidentifier() for part in key.split(".")):
        raise ConfigError([f"{text}: expected section.key=value, e.g. training.learning_rate=1e-4"])
    try:
        parsed = OmegaConf.create(f"value: {value}")
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"{text}: {str(error).splitlines()[0]}"]) from None
    assert not isinstance(parsed, ListConfig)
    values = OmegaConf.create({})
    OmegaConf.update(values, key, parsed._get_node("value"))
    return Source(values, {key: "command line"})


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
