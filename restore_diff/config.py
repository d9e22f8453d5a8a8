"""YAML files and `section.key=value` overrides -> one ExperimentConfig, or one error that lists every mistake."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from restore_diff.errors import UserError
from restore_diff.files import bundled, printable
from restore_diff.registry import load_plugins, nearest
from restore_diff.settings import (
    CodecConfig,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    NetworkConfig,
    SamplerConfig,
    ScheduleConfig,
    TilingConfig,
    TrainingConfig,
    settings,
)

# One source of configuration values, a YAML file or an override, with the place each key came from.

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_EVENTS = 10_000
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class ConfigError(UserError):
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
    """Values, and the node tree with line numbers, None for an empty text. Raises ConfigError that names `where`."""
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


# The whole configuration. Only dataclasses are imported: no torch, so that help and mistakes answer at once.

__all__ = [
    "ConfigError",
    "ExperimentConfig",
    "config_from_dict",
    "find_config",
    "load_config",
    "repeated_overrides",
    "to_dict",
    "to_yaml",
]


@settings
class ExperimentConfig:
    name: str = Field(default="", description="of the run folder; empty: the config file's name")
    seed: int = Field(default=0, ge=0, description="every random number depends on it")
    data: DataConfig = Field(default_factory=DataConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    diffusion: DiffusionConfig = Field(default_factory=DiffusionConfig)
    model: NetworkConfig = Field(default_factory=NetworkConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    tiling: TilingConfig = Field(default_factory=TilingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    codec: CodecConfig = Field(default_factory=CodecConfig)
    plugins: tuple[str, ...] = Field(default=(), description="Python files that add networks, samplers, losses, ...")

    @field_validator("name")
    @classmethod
    def is_one_folder(cls, value: str) -> str:
        if not re.fullmatch(r"(\w[\w.-]{0,99})?", value):
            rule = "up to 100 letters, digits, _, . and -, the first of them no . or -, make a name"
            raise ValueError(f"{rule}; got {_shown(value)}")
        return value


def find_config(name: str) -> Path:
    """The file itself, or the one of that name in ./configs or among those of the package."""
    for candidate in (Path(name), Path("configs") / name, bundled("configs") / name):
        with suppress(OSError):  # a name that is too long, a folder that may not be entered
            if candidate.is_file():
                return candidate
    known = sorted(p.relative_to(bundled("configs")).as_posix() for p in bundled("configs").rglob("*.yaml"))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; in configs/ there are: {', '.join(known) or 'none'}"
    raise ConfigError([f"{name}: no such config file{hint}"])


def load_config(files: Sequence[str], overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Merge the files, then the `section.key=value` overrides, later ones winning, and validate the result.

    Raises ConfigError with every mistake found, each with its dotted key, its place and the nearest known name.
    """
    sources = [read_yaml(find_config(name)) for name in files] + [read_override(text) for text in overrides]
    try:
        merged: Any = OmegaConf.to_container(OmegaConf.merge({}, *[source.values for source in sources]))
    except (OmegaConfBaseException, TypeError) as error:
        raise ConfigError([str(error).splitlines()[0]]) from None
    if not merged.get("name") and files:
        merged["name"] = re.sub(r"[^\w.-]+", "_", Path(files[0]).stem).lstrip(".-")[:100] or "run"
    config = config_from_dict(merged, sources)
    try:
        load_plugins(config.plugins, [find_config(name).parent for name in files])
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    return config


def overridden(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """The config with `section.key=value` texts applied, validated anew. Raises ConfigError."""
    sources = [read_override(text) for text in overrides]
    merged: Any = OmegaConf.to_container(OmegaConf.merge(to_dict(config), *[source.values for source in sources]))
    return config_from_dict(merged, sources)


def repeated_overrides(overrides: Sequence[str]) -> list[str]:
    """A line for each key that is given more than once, with the value that counts: the last."""
    last: dict[str, str] = {}
    repeated: dict[str, str] = {}
    for key, _, value in (text.partition("=") for text in overrides):
        if key in last:
            repeated[key] = value
        last[key] = value
    return [f"{key} is given more than once; {value[:60]} counts" for key, value in repeated.items()]


def config_from_dict(values: dict[str, Any], sources: Sequence[Source] = ()) -> ExperimentConfig:
    """Validate plain values, e.g. those that a checkpoint carries. Raises ConfigError."""
    try:
        # JSON mode is strict about scalars ("12" is no number, 1 no switch) and still takes a list for a tuple.
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError([f"values are text, finite numbers, switches, and lists of these: {error}"]) from error
    try:
        config = TypeAdapter(ExperimentConfig).validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError([_message(mistake, sources) for mistake in error.errors()]) from None
    problems = _contradictions(config)
    if problems:
        raise ConfigError(problems)
    return config


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """Plain values, lists for tuples: what `config_from_dict` takes back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[call-overload]


def to_yaml(config: ExperimentConfig) -> str:
    """The whole resolved config as YAML; loading it again gives the same config."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


def _message(mistake: Any, sources: Sequence[Source]) -> str:
    path = [str(part) for part in mistake["loc"] if not str(part).startswith("[")]  # added by pydantic, such as [key]
    key = ".".join(path)
    where = next((f" ({source.place(key)})" for source in reversed(sources) if source.place(key)), "")
    if mistake["type"] == "unexpected_keyword_argument":
        return f"{key}{where}: unknown key; {nearest(path[-1], _known_keys(path[:-1]))}"
    if mistake["type"] == "value_error":  # our own rule: its text is complete
        return f"{key}{where}: {mistake['ctx']['error']}"
    return f"{key}{where}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}, got {_shown(mistake['input'])}"


def _shown(value: object) -> str:
    """Short enough for a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _known_keys(path: Sequence[str]) -> list[str]:
    node: Any = ExperimentConfig
    for part in path:
        node = next((f.type for f in dataclasses.fields(node) if f.name == part), node)
    return [field.name for field in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []


def _contradictions(config: ExperimentConfig) -> list[str]:
    """Rules over two keys."""
    problems = []
    model, diffusion, training = config.model, config.diffusion, config.training
    multiple = model.unshuffle * 2 ** (len(model.channel_multipliers) - 1) if model.kind == "unet" else 1
    if config.data.crop_size_px % multiple:
        problems.append(
            f"data.crop_size_px: must be a multiple of {multiple} for this model, got {config.data.crop_size_px}"
        )
    if config.tiling.tile_size_px % multiple:
        problems.append(f"tiling.tile_size_px: must be a multiple of {multiple}, got {config.tiling.tile_size_px}")
    tiling = config.tiling
    if tiling.grid == "overlapping" and 0 < tiling.tile_size_px <= tiling.tile_overlap_px:
        problems.append(f"tiling.tile_overlap_px: must be less than tile_size_px={config.tiling.tile_size_px}")
    if any(level >= len(model.channel_multipliers) or level < 0 for level in model.attention_levels):
        problems.append(f"model.attention_levels: levels are 0 to {len(model.channel_multipliers) - 1}")
    if diffusion.prediction == "residual" and not model.condition_channels:
        problems.append("diffusion.prediction: residual needs a degraded image, but model.condition_channels is 0")
    elif model.condition_channels not in (0, model.image_channels):
        problems.append(
            f"model.condition_channels: must be 0 or image_channels={model.image_channels}, got "
            f"{model.condition_channels}"
        )
    elif config.codec.name == "identity" and model.image_channels != 3:
        problems.append(f"model.image_channels: photographs have 3, got {model.image_channels}")
    if training.batch_size % training.num_micro_batches:
        problems.append(f"training.num_micro_batches: must divide batch_size={training.batch_size}")
    start_t, num_timesteps = config.sampler.start_t, config.schedule.num_timesteps
    if start_t >= num_timesteps:
        problems.append(f"sampler.start_t: must be less than schedule.num_timesteps={num_timesteps}")
    elif start_t and config.sampler.num_steps > start_t + 1:
        problems.append(f"sampler.num_steps: must not exceed the {start_t + 1} timesteps up to sampler.start_t")
    elif config.sampler.num_steps > num_timesteps:
        problems.append(f"sampler.num_steps: must not exceed schedule.num_timesteps={num_timesteps}")
    return problems
