"""Settings -> objects: the one file that knows both. No numerics here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from restore_diff.config import ConfigError, ExperimentConfig, config_from_dict, to_dict
from restore_diff.data.images import read_sizes, refuse_damaged, scan_files
from restore_diff.data.loading import PairedImageDataset, TrainingBatches, require_degraded
from restore_diff.data.names import PairPath
from restore_diff.data.pairs import (
    PairList,
    files_of,
    find_pairs,
    hold_out,
    require_equal_sizes,
)
from restore_diff.diffusion.loss import GaussianDiffusion
from restore_diff.diffusion.prediction import Predictor
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.evaluation.evaluator import Scorer
from restore_diff.labels import hints
from restore_diff.metrics.perceptual import LPIPS, MetricUnavailable, find_lpips_weights
from restore_diff.metrics.protocols import select_protocols
from restore_diff.models.unet import Network, UNet, make_network
from restore_diff.randomness import mix
from restore_diff.restoration.recognition import Recognition
from restore_diff.restoration.restorer import Restorer, Samples
from restore_diff.settings import DataConfig, Mixture
from restore_diff.weather.renderer import Rendering, WeatherRenderer


class DeviceError(ValueError):
    """A device was asked for that this machine does not have."""


def select_device(name: str) -> torch.device:
    """ "auto" is the first of CUDA, MPS and CPU that works. Raises DeviceError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.mps.is_available())}[kind]
    if int(index or 0) >= available:
        raise DeviceError(f"device {name}: this machine has {available} of that kind; try --device auto")
    return torch.device(name)


def select_precision(name: str, device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """ "auto" is bfloat16 on a GPU or a CPU that computes with it, else float32."""
    if name == "auto":
        return "bfloat16" if _computes_with_bfloat16(device) else "float32"
    assert name in ("float32", "bfloat16", "float16")
    return name


def _computes_with_bfloat16(device: torch.device) -> bool:
    """Faster than with float32: not CPUs that imitate it, nor Intel's without AMX, which take a fifth longer."""
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


def diffusion(config: ExperimentConfig) -> GaussianDiffusion:
    """Raises ConfigError."""
    return GaussianDiffusion(schedule(config), config.diffusion)


def restorer(
    config: ExperimentConfig,
    model: Network,
    device: torch.device,
    precision: Literal["float32", "bfloat16", "float16"],
    weather: str | None = None,
) -> Restorer:
    """Restores with the weights that `model` has when called; `model` is on `device`, in evaluation mode.

    `weather`: what all photographs are said to show, e.g. "rain+haze", "none" or "unknown". If None, a network that can
    recognise the weather looks at each image first. ConfigError where the network takes no hint.
    """
    predictor: Predictor = model
    recognition = None
    if weather is not None:
        if not config.model.hint:
            raise ConfigError(
                ["--weather: these weights cannot be told the weather (model.hint is false); leave it out"]
            )
        predictor = partial(model, weather=hints([None if weather == "unknown" else weather]).to(device))
    elif isinstance(model, UNet) and config.model.recognise:
        last_t = config.schedule.num_timesteps - 1
        recognition = Recognition(
            model.recognise,
            lambda hint: partial(model, weather=hint),
            last_t,
            model.size_multiple,
            device,
            bfloat16=precision == "bfloat16",
        )
    with settings_of("sampler"):
        sampler = SAMPLERS[config.sampler.name](schedule(config), config.diffusion.prediction, config.sampler)
    samples = Samples(config.sampler.num_samples, config.sampler.mirror)
    return Restorer(predictor, sampler, config.tiling, model.size_multiple, device, precision, samples, recognition)


def renderer(config: DataConfig, pairs: Sequence[PairPath] = ()) -> WeatherRenderer | None:
    """What degrades clean photographs that have no partner; None where neither the config nor their card says it.

    None, too, where all have one: then no folder of textures has to be there. Raises DataError and ImageError for it.
    """
    partnerless = [pair for pair in pairs if pair.degraded is None]
    if pairs and not partnerless:
        return None
    if config.weather == "none" and not (partnerless and all(pair.weather for pair in partnerless)):
        return None
    # Here, because they bring kornia and torchvision, which take a second or two, and restoring needs neither.
    from restore_diff.weather.renderer import LAYERS, take
    from restore_diff.weather.textures import TextureFolder

    mixture: Mixture = {config.weather: 1.0} if isinstance(config.weather, str) else config.weather
    kinds = "+".join([*mixture, *(pair.weather or "none" for pair in partnerless)]).split("+")
    layers = {name: Rendering(LAYERS[name], getattr(config, name)) for name in sorted(set(kinds) - {"none"})}
    for pictures in (config.rain.textures if "rain" in layers else "", config.snow.masks if "snow" in layers else ""):
        if pictures:
            TextureFolder(pictures)  # what is wrong with it is told before any image
    return WeatherRenderer(mixture, layers, Rendering(take, config.camera))


def training_sets(config: ExperimentConfig) -> tuple[PairList, PairList | None]:
    """The pairs to train on, and those held out of them for validation. Raises DataError, ImageError."""
    training, validation = hold_out(
        find_pairs(config.data.train, "train", Path(config.data.root)), config.data.num_validation
    )
    return training, validation and _whole(config, validation)


def _whole(config: ExperimentConfig, validation: PairList) -> PairList | None:
    """The pairs, all decoded once, as they are few; damaged ones are refused or left out as the config says."""
    damaged = scan_files(files_of(validation), is_suspect=lambda path: True).damaged
    if config.data.on_bad == "error":
        refuse_damaged(damaged)
    pairs = tuple(p for p in validation.pairs if p.clean not in damaged and p.degraded not in damaged)
    return _usable(config, replace(validation, pairs=pairs)) if pairs else None


def test_set(config: ExperimentConfig, source: str, crop_to_min: bool = False) -> PairList:
    """The pairs of `source`, which is written like data.test. Raises DataError, ImageError.

    `crop_to_min`: pairs that differ by a few pixels in size are cut to the size that they share, not refused.
    """
    return _usable(config, replace(find_pairs(source, "test", Path(config.data.root)), crop_to_min=crop_to_min))


def _usable(config: ExperimentConfig, pairs: PairList) -> PairList:
    """The pairs, known to be whole: an error now is better than one after the training that they are to score."""
    require_degraded(pairs, renderer(config.data, pairs.pairs))
    num_cut = require_equal_sizes(pairs, read_sizes(files_of(pairs)))
    cut = f"{num_cut} pairs of different sizes are cut, at the right and at the bottom, to the size that they share"
    return replace(pairs, notes=(*pairs.notes, cut)) if num_cut else pairs


def images(config: ExperimentConfig, pairs: PairList) -> PairedImageDataset:
    """Whole images to validate or test on, the same ones each time."""
    return PairedImageDataset(pairs, renderer(config.data, pairs.pairs), config.seed)


def lpips(
    config: ExperimentConfig, weights: Path | None = None, download: bool = False
) -> LPIPS | MetricUnavailable | None:
    """The metric, why there is none, or None where the config wants none. ConfigError where `weights` do not serve."""
    if config.evaluation.lpips == "none":
        return None
    try:
        return LPIPS(config.evaluation.lpips, find_lpips_weights(config.evaluation.lpips, weights, download=download))
    except MetricUnavailable as reason:
        if weights is not None:
            raise ConfigError([f"evaluation.lpips: {reason}"]) from reason
        return reason


def protocols(config: ExperimentConfig, of_dataset: Sequence[str]) -> tuple[str, ...]:
    """Those that the config names, else `rgb` and those of the data set's card. Raises ConfigError."""
    with settings_of("evaluation.protocols"):
        return select_protocols(config.evaluation.protocols, of_dataset)


def scorer(
    protocol_names: Sequence[str], perceptual: LPIPS | MetricUnavailable | None, metrics: Sequence[str]
) -> Scorer:
    """Raises ConfigError where none of `metrics` can be computed."""
    if not isinstance(perceptual, LPIPS):
        if set(metrics) <= {"lpips"}:
            raise ConfigError(
                [f"LPIPS alone is asked for and not computed: {perceptual or 'evaluation.lpips is none'}"]
            )
        perceptual = None
    return Scorer(protocol_names, perceptual, metrics)


def batches(config: ExperimentConfig, pairs: PairList, rank: int = 0, world: int = 1) -> TrainingBatches:
    """The part of each batch that process `rank` of `world` takes. Raises ConfigError, DataError, ImageError."""
    training = config.training
    render = renderer(config.data, pairs.pairs)
    if training.part == "recognition" and render is None:
        unknown = f"what the degraded images of {pairs.name} show is not known"
        raise ConfigError([f"training.part: recognition is learned from rendered weather, and {unknown}"])
    sizes = training.batch_size, training.num_micro_batches
    return TrainingBatches(pairs, render, config.data, *sizes, config.seed, rank, world)


@contextmanager
def settings_of(section: str) -> Iterator[None]:
    """What a class says of its settings, told as a mistake in that section of the config."""
    try:
        yield
    except ValueError as error:
        raise ConfigError([f"{section}: {error}"]) from error


def with_overrides(config: ExperimentConfig, **values: Any) -> ExperimentConfig:
    """The config with `section__key=value` replaced, validated anew. Raises ConfigError."""
    plain = to_dict(config)
    for name, value in values.items():
        section, key = name.split("__")
        plain[section][key] = value
    return config_from_dict(plain)


# One dial from fast to best: named sets of what sampler, tiles and arithmetic a restoration uses.

QUALITIES = ("fast", "balanced", "best")

DIRECT: dict[str, dict[str, Any]] = {
    "fast": {"sampler__num_steps": 1, "sampler__num_samples": 1},
    "balanced": {},
    "best": {"sampler__num_steps": 1, "sampler__num_samples": 8, "sampler__mirror": True},
}
"""For networks that put out the clean image, or a residual: one step is a restoration already. More
are no better with the weights that ship (docs/speed.md), and little better with others (docs/results/solvers.md)."""

STEPWISE: dict[str, dict[str, Any]] = {
    "fast": {"sampler__num_steps": 5, "sampler__spacing": "trailing", "sampler__clip": True, "tiling__grid": "shifted"},
    "balanced": {"sampler__num_steps": 10, "sampler__spacing": "trailing", "sampler__clip": True},
    "best": {"sampler__num_steps": 25, "sampler__num_samples": 4, "sampler__mirror": True},
}
"""For networks that put out epsilon or velocity: they need steps."""


def at_quality(config: ExperimentConfig, quality: str) -> ExperimentConfig:
    """The config with what that quality sets; "balanced" is the config's own choice where its network is direct.

    Tiles of a stepwise network overlap by a quarter, for "best" by a half, and fade smoothly.
    """
    direct = config.diffusion.prediction in ("clean", "residual")
    changes = (DIRECT if direct else STEPWISE)[quality]
    if not direct:
        overlap = config.tiling.tile_size_px // (2 if quality == "best" else 4)
        changes = {**changes, "tiling__window": "hann", "tiling__tile_overlap_px": overlap}
    return with_overrides(config, **changes)
