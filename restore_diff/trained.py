"""Weights -> objects: a checkpoint, a weights file or a run becomes a network and its restorer.

Imports nothing of training data, metrics, evaluation or weather, so that restoring starts fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from restore_diff.checkpoint import Weights, WeightsError, load_checkpoint_weights, without_retired
from restore_diff.config import ConfigError, ExperimentConfig, config_from_dict, to_dict
from restore_diff.diffusion.guidance import GUIDANCE, PosteriorSampling, Projection
from restore_diff.diffusion.operators import operator_of
from restore_diff.diffusion.prediction import PREDICTIONS, Predictor
from restore_diff.diffusion.samplers import SAMPLERS, Guidance, Sampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.errors import UserError
from restore_diff.labels import hints
from restore_diff.models.autoencoder import Autoencoder, DiffusersCodec
from restore_diff.models.unet import Network, make_network
from restore_diff.randomness import mix
from restore_diff.registry import choose, make
from restore_diff.restoration.recognition import Recognition
from restore_diff.restoration.restorer import Restorer, Samples
from restore_diff.restoration.tiling import network_pixels
from restore_diff.restoration.zero_shot import preparation
from restore_diff.settings import settings
from restore_diff.tensors import CODECS, Codec, Images, Timesteps, to_model_range, to_unit_range

RUNS = Path("runs")
SHIPPED = Path(__file__).resolve().parent / "weights" / "all_weather.safetensors"
"""Weights for all weathers that ship with the package; see docs/model_card.md."""
SHIPPED_NAME = Path("shipped")
WEATHER_HEAD = "weather_head."
"""Prefix of the names of its weights."""
TYPICAL_SIZE = (480, 720)


def newest_run(runs: Path = RUNS) -> Path | None:
    """The run folder that was written to last; None where there is none with a checkpoint."""
    found = [path for path in runs.glob("*/checkpoints") if any(path.glob("[0-9]*"))]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def load_experiment(checkpoint: Path | None) -> tuple[Path, ExperimentConfig, Weights]:
    """The config and averaged weights of a checkpoint, a weights file, or a run.

    Of the newest run if None is named, and where there is none, or for the path "shipped", those of the package.
    """
    path = checkpoint or newest_run() or SHIPPED_NAME
    if not path.exists() and path != SHIPPED_NAME:
        raise WeightsError(f"{path}: no such checkpoint, weights file or run folder")
    try:
        weights = load_checkpoint_weights(SHIPPED if path == SHIPPED_NAME and not path.exists() else path)
        return path, config_from_dict(without_retired(weights.config)), weights
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise WeightsError(f"{path}: its config does not fit this version of restore_diff: {problems}") from error
    except ValueError as error:  # damaged in one way or another
        raise WeightsError(str(error)) from error


def trained_network(config: ExperimentConfig, weights: Weights, device: torch.device) -> Network:
    """Raises WeightsError where names, shapes or types of the weights are not those of the config's network."""
    with torch.device("meta"), settings_of("model"):
        model = make_network(config.model)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.tensors.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        names = ", ".join(name[:100] for name in wrong[:10]) + (f" and {len(wrong) - 10} more" if wrong[10:] else "")
        raise WeightsError(f"the weights do not fit the network of their config: {names}")
    model.load_state_dict(weights.tensors, assign=True)
    return to_restore(model, device)


def to_restore(model: Network, device: torch.device) -> Network:
    """On its device, in evaluation mode, its channels side by side in memory: faster, on a CPU too (docs/speed.md)."""
    memory_format = torch.contiguous_format if device.type == "mps" else torch.channels_last
    return model.to(device, memory_format=memory_format).eval()  # type: ignore[call-overload]


def load_restorer(
    checkpoint: Path | None,
    device: str = "auto",
    precision: str = "auto",
    quality: str | None = None,
    num_samples: int | None = None,
    num_steps: int | None = None,
    sampler: str | None = None,
    tile_size_px: int | None = None,
    tile_overlap_px: int | None = None,
    weather: str | None = None,
    zero_shot: str | None = None,
) -> tuple[Restorer, str]:
    """A restorer with the weights of a checkpoint, and one line that describes it; None: the value of the config."""
    path, config, weights = load_experiment(checkpoint)
    if zero_shot is not None:
        config = for_task(config, zero_shot)
    elif not config.model.condition_channels and not config.sampler.guidance:
        raise ConfigError([f"{path}: an unconditional network restores with --zero-shot only: add a task, e.g. sr:2"])
    if quality is not None:
        config = at_quality(config, quality)
    given = {
        "sampler__num_samples": num_samples,
        "sampler__num_steps": num_steps,
        "sampler__name": sampler,
        "tiling__tile_size_px": tile_size_px,
        "tiling__tile_overlap_px": tile_overlap_px,
    }
    config = with_overrides(config, **{name: value for name, value in given.items() if value is not None})
    return trained_restorer(path, config, weights, select_device(device), precision, weather)


def trained_restorer(
    path: Path,
    config: ExperimentConfig,
    weights: Weights,
    device: torch.device,
    precision: str = "auto",
    weather: str | None = None,
) -> tuple[Restorer, str]:
    """A restorer with these weights, which come from `path`, and one line that describes it.

    `weather`: label of all photographs; None: detected for each, where the network can.
    """
    dtype = select_precision(precision, device)
    model = trained_network(config, weights, device)
    return restorer(config, model, device, dtype, weather), describe(path, config, weights, device, dtype)


def initial_network(config: ExperimentConfig) -> Network:
    """The network to train: its weights drawn from the seed, or those that the config names. Raises WeightsError."""
    if not config.training.initial_weights:
        return network(config)
    path, _, weights = load_experiment(Path(config.training.initial_weights))
    if config.model.recognise:  # those that could not do it yet begin it from the seed
        head = {name: new for name, new in network(config).state_dict().items() if name.startswith(WEATHER_HEAD)}
        weights = weights._replace(tensors=head | weights.tensors)
    try:
        return trained_network(config, weights, torch.device("cpu"))
    except WeightsError as error:
        raise WeightsError(f"training.initial_weights: {path}: {error}; `model` must be as it was for them") from error


def describe(path: Path, config: ExperimentConfig, weights: Weights, device: torch.device, precision: str) -> str:
    """`weights runs/derain (step 3000)  ddim 4 steps  whole images  cpu float32`"""
    tile = config.tiling.tile_size_px
    cost = network_pixels(*TYPICAL_SIZE, config.tiling)
    tiles = f"tiles of {tile} px ({cost:.2f} network pixels per pixel at 720x480)" if tile else "whole images"
    steps = f"{config.sampler.name} {config.sampler.num_steps} steps"
    if config.sampler.num_samples > 1:
        steps += f", mean of {config.sampler.num_samples}"
    return f"weights {path} (step {weights.step})  {steps}  {tiles}  {device} {precision}"


class DeviceError(UserError):
    """The requested device does not exist on this machine."""


def select_device(name: str) -> torch.device:
    """ "auto" is the first of CUDA, MPS and CPU that works. Raises DeviceError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.mps.is_available())}.get(kind, 0)
    if int(index or 0) >= available:
        raise DeviceError(f"device {name}: this machine has {available} of that kind; try --device auto")
    return torch.device(name)


def select_precision(name: str, device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """ "auto" is bfloat16 on a GPU or a CPU that computes with it, else float32."""
    if name == "auto":
        return "bfloat16" if _computes_with_bfloat16(device) else "float32"
    if name not in ("float32", "bfloat16", "float16"):
        raise ConfigError([f"dtype: must be auto, float32, bfloat16 or float16, got {name}"])
    return name  # type: ignore[return-value]


def _computes_with_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: not on CPUs that emulate it, nor on Intel's without AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch that serves
        amd = "AMD" in able.get("cpu_name", "")
        return able.get("amx_bf16", False) or (amd and able.get("avx512_bf16", False))
    return False


def network(config: ExperimentConfig) -> Network:
    """The untrained network, its first weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]), settings_of("model"):
        torch.manual_seed(mix(config.seed, "weights"))
        return make_network(config.model)


def schedule(config: ExperimentConfig) -> NoiseSchedule:
    """Raises ConfigError for settings that make no schedule."""
    with settings_of("schedule"):
        return NoiseSchedule(config.schedule)


def restorer(
    config: ExperimentConfig,
    model: Network,
    device: torch.device,
    precision: Literal["float32", "bfloat16", "float16"],
    weather: str | None = None,
) -> Restorer:
    """A restorer with the weights that `model` has when it is called; `model` is on `device`, in evaluation mode.

    `weather`: label of all photographs, e.g. "rain+haze", "none" or "unknown". None: a network with a weather head
    detects it for each image. Raises ConfigError where the network takes no label.
    """
    predictor = model if weather is None else _labelled(config, model, device, weather)
    recognition = None
    if weather is None and config.model.recognise:
        recognition = _recognition(config, model, device, precision)
    guidance = _guidance(config)
    if guidance is not None and not config.model.condition_channels:
        predictor = partial(_without_degraded, predictor)
    return Restorer(
        predictor,
        _sampler(config),
        config.tiling,
        model.size_multiple,
        device,
        precision,
        Samples(config.sampler.num_samples, config.sampler.mirror),
        recognition,
        codec=codec(config),
        guidance=guidance,
        prepare=preparation(guidance.task) if isinstance(guidance, Projection | PosteriorSampling) else None,
    )


def _labelled(config: ExperimentConfig, model: Network, device: torch.device, weather: str) -> Predictor:
    if not config.model.hint:
        raise ConfigError(["--weather: these weights take no weather label (model.hint is false); leave it out"])
    with settings_of("--weather"):
        hint = hints([None if weather == "unknown" else weather], config.model.labels)
    return partial(model, weather=hint.to(device))


def _sampler(config: ExperimentConfig) -> Sampler:
    settings, prediction = config.sampler, config.diffusion.prediction
    with settings_of("diffusion"):
        choose(PREDICTIONS, prediction, "diffusion.prediction")
    levels = schedule(config)
    with settings_of("sampler"):
        return make(SAMPLERS, settings.name, "sampler.name", settings.options, levels, prediction, settings)


def _recognition(config: ExperimentConfig, model: Network, device: torch.device, precision: str) -> Recognition:
    return Recognition(
        model.recognise,
        lambda hint: partial(model, weather=hint),
        config.schedule.num_timesteps - 1,
        model.size_multiple,
        device,
        bfloat16=precision == "bfloat16",
    )


def for_task(config: ExperimentConfig, task: str) -> ExperimentConfig:
    """The config for a zero-shot task: inpaint:MASK, sr:FACTOR, deblur:SIGMA or colorize; by projection, if it has no
    guidance. Raises ConfigError for an unknown task, and for a network that is not an unconditional one of pixels.
    """
    if config.model.condition_channels or config.codec.name != "identity":
        rule = "zero-shot restoration needs an unconditional network of pixels (model.condition_channels=0)"
        raise ConfigError([f"--zero-shot: {rule}; train one, e.g. with prior.yaml"])
    with settings_of("--zero-shot"):
        operator_of(task)
    options = {**config.sampler.guidance_options, "task": task}
    guidance = config.sampler.guidance or "projection"
    return with_overrides(config, sampler__guidance=guidance, sampler__guidance_options=options)


def _guidance(config: ExperimentConfig) -> Guidance | None:
    settings = config.sampler
    if not settings.guidance:
        return None
    with settings_of("sampler"):
        return make(GUIDANCE, settings.guidance, "sampler.guidance", settings.guidance_options)


def _without_degraded(
    predictor: Predictor, x_t: Images, t: Timesteps, degraded: Images | None, **condition: Any
) -> Images:
    """The output of an unconditional network, whose degraded image only the guidance looks at."""
    return partial(predictor, **condition)(x_t, t, None)


def codec(config: ExperimentConfig) -> Codec:
    """From pixels to what the network works on. Raises ConfigError."""
    with settings_of("codec"):
        return make(CODECS, config.codec.name, "codec.name", config.codec.options)


@settings
class AutoencoderWeights:
    weights: str = Field(min_length=1, description="run, checkpoint or weights file of a network of kind autoencoder")


class AutoencoderCodec:
    """Latents of an autoencoder that train.py trained. Raises WeightsError for other weights."""

    Settings = AutoencoderWeights

    def __init__(self, options: AutoencoderWeights):
        path, config, weights = load_experiment(Path(options.weights))
        model = trained_network(config, weights, torch.device("cpu"))
        if not isinstance(model, Autoencoder):
            raise WeightsError(f"codec.options.weights: {path}: model.kind is {config.model.kind}, not autoencoder")
        self.network = model.requires_grad_(False)
        self.downscale = model.downscale

    def encode(self, images: Images) -> Images:
        """As `Codec.encode`."""
        return self.network.to(images.device).encode(to_model_range(images))

    def decode(self, latents: Images) -> Images:
        """As `Codec.decode`."""
        return to_unit_range(self.network.to(latents.device).decode(latents))


CODECS |= {"autoencoder": AutoencoderCodec, "diffusers": DiffusersCodec}


@contextmanager
def settings_of(section: str) -> Iterator[None]:
    """Re-raise ValueError as ConfigError with the name of the section."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise ConfigError([text if text.startswith(f"{section}.") else f"{section}: {text}"]) from error


def with_overrides(config: ExperimentConfig, **values: Any) -> ExperimentConfig:
    """The config with `section__key=value` replaced, validated anew. Raises ConfigError."""
    plain = to_dict(config)
    for name, value in values.items():
        section, key = name.split("__")
        plain[section][key] = value
    return config_from_dict(plain)


QUALITIES = ("fast", "balanced")

DIRECT: dict[str, dict[str, Any]] = {
    "fast": {"sampler__num_steps": 1, "sampler__num_samples": 1},
    "balanced": {},
}
"""For networks that put out the clean image, or a residual: one step is a restoration already. More
are no better with the weights that ship, nor are more samples (docs/results/sampling.md)."""

STEPWISE: dict[str, dict[str, Any]] = {
    "fast": {"sampler__num_steps": 5, "sampler__spacing": "trailing", "sampler__clip": True, "tiling__grid": "shifted"},
    "balanced": {"sampler__num_steps": 10, "sampler__spacing": "trailing", "sampler__clip": True},
}
"""For networks that put out epsilon or velocity: they need steps."""


def at_quality(config: ExperimentConfig, quality: str) -> ExperimentConfig:
    """The config with what that quality sets; "balanced" is the config's own choice where its network is direct.

    Tiles of a stepwise network overlap by a quarter and fade smoothly.
    """
    if quality not in QUALITIES:
        raise ConfigError([f"quality: must be one of {', '.join(QUALITIES)}, got {quality}"])
    direct = config.diffusion.prediction in ("clean", "residual")
    changes = (DIRECT if direct else STEPWISE)[quality]
    if not direct:
        overlap = config.tiling.tile_size_px // 4
        changes = {**changes, "tiling__window": "hann", "tiling__tile_overlap_px": overlap}
    return with_overrides(config, **changes)
