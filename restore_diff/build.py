"""Settings -> objects: the one file that knows both. No numerics here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from restore_diff.config import ConfigError, ExperimentConfig, config_from_dict, to_dict
from restore_diff.data.config import DataConfig
from restore_diff.data.decoded_images import read_sizes
from restore_diff.data.holdout import hold_out
from restore_diff.data.listing import first_names
from restore_diff.data.loading import TrainingBatches, check_sizes
from restore_diff.data.pairs import PairedImageDataset, PairList, Renderer, find_pairs, require_degraded
from restore_diff.data.weather.rain import RainRenderer
from restore_diff.diffusion.gaussian import GaussianDiffusion
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.evaluation.scoring import Scorer
from restore_diff.metrics.perceptual import LPIPS, find_lpips_weights
from restore_diff.metrics.protocols import select_protocols
from restore_diff.metrics.weights import MetricUnavailable
from restore_diff.models.unet import UNet
from restore_diff.randomness import mix
from restore_diff.restoration.restorer import Restorer
from restore_diff.training.weights import Weights, WeightsError, load_checkpoint_weights

RUNS = Path("runs")


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
    """ "auto" is bfloat16 on a GPU that computes with it, else float32."""
    if name == "auto":
        return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    assert name in ("float32", "bfloat16", "float16")
    return name


def network(config: ExperimentConfig) -> UNet:
    """The untrained network, its first weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]), _settings_of("model"):
        torch.manual_seed(mix(config.seed, "weights"))
        return UNet(config.model)


def schedule(config: ExperimentConfig) -> NoiseSchedule:
    """Raises ConfigError for settings that make no schedule."""
    with _settings_of("schedule"):
        return NoiseSchedule(config.schedule)


def diffusion(config: ExperimentConfig) -> GaussianDiffusion:
    """Raises ConfigError."""
    return GaussianDiffusion(schedule(config), config.diffusion)


def restorer(
    config: ExperimentConfig, model: UNet, device: torch.device, precision: Literal["float32", "bfloat16", "float16"]
) -> Restorer:
    """Restores with the weights that `model` has when called; `model` is on `device`, in evaluation mode."""
    with _settings_of("sampler"):
        sampler = SAMPLERS[config.sampler.name](schedule(config), config.diffusion.prediction, config.sampler)
    return Restorer(model, sampler, config.tiling, model.size_multiple, device, precision)


def renderer(config: DataConfig) -> Renderer | None:
    """What degrades clean photographs that have no partner."""
    return RainRenderer(config.rain) if config.weather == "rain" else None


def training_sets(config: ExperimentConfig) -> tuple[PairList, PairList | None]:
    """The pairs to train on, and those held out of them for validation. Raises DataError, ImageError."""
    training, validation = hold_out(
        find_pairs(config.data.train, "train", Path(config.data.root)), config.data.num_validation
    )
    return training, validation and _usable(config, validation)


def test_set(config: ExperimentConfig, source: str) -> PairList:
    """The pairs of `source`, which is written like data.test. Raises DataError, ImageError."""
    return _usable(config, find_pairs(source, "test", Path(config.data.root)))


def _usable(config: ExperimentConfig, pairs: PairList) -> PairList:
    """The pairs, known to be whole: an error now is better than one after the training that they are to score."""
    require_degraded(pairs, renderer(config.data))
    files = (path for pair in pairs.pairs for path in (pair.clean, pair.degraded) if path is not None)
    check_sizes(pairs, read_sizes(files), crop_size_px=1)
    return pairs


def images(config: ExperimentConfig, pairs: PairList) -> PairedImageDataset:
    """Whole images to validate or test on, the same ones each time."""
    return PairedImageDataset(pairs, renderer(config.data), config.seed)


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
    with _settings_of("evaluation.protocols"):
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


def batches(config: ExperimentConfig, pairs: PairList) -> TrainingBatches:
    training = config.training
    render = renderer(config.data)
    return TrainingBatches(pairs, render, config.data, training.batch_size, training.num_micro_batches, config.seed)


@contextmanager
def _settings_of(section: str) -> Iterator[None]:
    """What a class says of its settings, told as a mistake in that section of the config."""
    try:
        yield
    except ValueError as error:
        raise ConfigError([f"{section}: {error}"]) from error


def newest_run(runs: Path = RUNS) -> Path:
    """The run folder that was written to last. Raises WeightsError where there is none with a checkpoint."""
    found = [path for path in runs.glob("*/checkpoints") if any(path.glob("[0-9]*"))]
    if not found:
        raise WeightsError(
            f"no trained run in {runs}/: train one with `python train.py --cfg derain.yaml`, or name weights by --ckpt"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def load_experiment(checkpoint: Path | None) -> tuple[Path, ExperimentConfig, Weights]:
    """The config and averaged weights of a checkpoint, a weights file, or a run; of the newest run if None is named."""
    path = checkpoint or newest_run()
    if not path.exists():
        raise WeightsError(f"{path}: no such checkpoint, weights file or run folder")
    try:
        weights = load_checkpoint_weights(path)
        return path, config_from_dict(weights.config), weights
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise WeightsError(f"{path}: the config in it is none of this version of restore_diff: {problems}") from error
    except ValueError as error:  # damaged in one way or another
        raise WeightsError(str(error)) from error


def trained_network(config: ExperimentConfig, weights: Weights, device: torch.device) -> UNet:
    """Raises WeightsError where names or shapes of the weights are not those of the config's network."""
    with torch.device("meta"), _settings_of("model"):
        model = UNet(config.model)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.tensors.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise WeightsError(f"the weights do not fit the network of their config: {first_names(wrong)}")
    model.load_state_dict(weights.tensors, assign=True)
    memory_format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    return model.to(device, memory_format=memory_format).eval()  # type: ignore[call-overload]


def with_overrides(config: ExperimentConfig, **values: Any) -> ExperimentConfig:
    """The config with `section__key=value` replaced, validated anew. Raises ConfigError."""
    plain = to_dict(config)
    for name, value in values.items():
        section, key = name.split("__")
        plain[section][key] = value
    return config_from_dict(plain)


def load_restorer(
    checkpoint: Path | None,
    device: str = "auto",
    precision: str = "auto",
    num_steps: int | None = None,
    sampler: str | None = None,
    tile_size_px: int | None = None,
    tile_overlap_px: int | None = None,
) -> tuple[Restorer, str]:
    """A restorer with the weights of a checkpoint, and one line that describes it; None: as the config says."""
    path, config, weights = load_experiment(checkpoint)
    given = {
        "sampler__num_steps": num_steps,
        "sampler__name": sampler,
        "tiling__tile_size_px": tile_size_px,
        "tiling__tile_overlap_px": tile_overlap_px,
    }
    config = with_overrides(config, **{name: value for name, value in given.items() if value is not None})
    return trained_restorer(path, config, weights, select_device(device), precision)


def trained_restorer(
    path: Path, config: ExperimentConfig, weights: Weights, device: torch.device, precision: str = "auto"
) -> tuple[Restorer, str]:
    """A restorer with these weights, which come from `path`, and one line that describes it."""
    dtype = select_precision(precision, device)
    model = trained_network(config, weights, device)
    return restorer(config, model, device, dtype), describe(path, config, weights, device, dtype)


def describe(path: Path, config: ExperimentConfig, weights: Weights, device: torch.device, precision: str) -> str:
    """`weights runs/derain (step 3000)  ddim 4 steps  whole images  cpu float32`"""
    tile = config.tiling.tile_size_px
    tiles = f"tiles of {tile} px" if tile else "whole images"
    steps = f"{config.sampler.name} {config.sampler.num_steps} steps"
    return f"weights {path} (step {weights.step})  {steps}  {tiles}  {device} {precision}"
