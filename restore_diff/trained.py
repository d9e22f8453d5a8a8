"""Weights -> objects: a checkpoint, a weights file or a run becomes a network, and what restores with it."""

from pathlib import Path

import torch

from restore_diff import build
from restore_diff.build import at_quality
from restore_diff.config import ConfigError, ExperimentConfig, config_from_dict
from restore_diff.data.names import first_names
from restore_diff.models.unet import Network, make_network
from restore_diff.restoration.restorer import Restorer
from restore_diff.restoration.tiling import network_pixels
from restore_diff.training.weights import Weights, WeightsError, load_checkpoint_weights

RUNS = Path("runs")
SHIPPED = Path(__file__).resolve().parent / "weights" / "all_weather.safetensors"
"""Weights for all weathers that come with the package; docs/model_card.md says what they are."""
SHIPPED_NAME = Path("shipped")
WEATHER_HEAD = "weather_head."
"""How the names of its weights begin."""
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
        return path, config_from_dict(weights.config), weights
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise WeightsError(f"{path}: the config in it is none of this version of restore_diff: {problems}") from error
    except ValueError as error:  # damaged in one way or another
        raise WeightsError(str(error)) from error


def trained_network(config: ExperimentConfig, weights: Weights, device: torch.device) -> Network:
    """Raises WeightsError where names, shapes or types of the weights are not those of the config's network."""
    with torch.device("meta"), build.settings_of("model"):
        model = make_network(config.model)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.tensors.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        names = first_names([name[:100] for name in wrong])
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
) -> tuple[Restorer, str]:
    """A restorer with the weights of a checkpoint, and one line that describes it; None: as the config says."""
    path, config, weights = load_experiment(checkpoint)
    if quality is not None:
        config = at_quality(config, quality)
    given = {
        "sampler__num_samples": num_samples,
        "sampler__num_steps": num_steps,
        "sampler__name": sampler,
        "tiling__tile_size_px": tile_size_px,
        "tiling__tile_overlap_px": tile_overlap_px,
    }
    config = build.with_overrides(config, **{name: value for name, value in given.items() if value is not None})
    return trained_restorer(path, config, weights, build.select_device(device), precision, weather)


def trained_restorer(
    path: Path,
    config: ExperimentConfig,
    weights: Weights,
    device: torch.device,
    precision: str = "auto",
    weather: str | None = None,
) -> tuple[Restorer, str]:
    """A restorer with these weights, which come from `path`, and one line that describes it.

    `weather`: what the photographs are said to show; None: nothing is said.
    """
    dtype = build.select_precision(precision, device)
    model = trained_network(config, weights, device)
    restorer = build.restorer(config, model, device, dtype, weather)
    return restorer, describe(path, config, weights, device, dtype)


def initial_network(config: ExperimentConfig) -> Network:
    """The network to train: its weights drawn from the seed, or those that the config names. Raises WeightsError."""
    if not config.training.initial_weights:
        return build.network(config)
    path, _, weights = load_experiment(Path(config.training.initial_weights))
    if config.model.recognise:  # those that could not do it yet begin it from the seed
        head = {name: new for name, new in build.network(config).state_dict().items() if name.startswith(WEATHER_HEAD)}
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
