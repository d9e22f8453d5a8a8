"""Settings -> what training and evaluation need: data, diffusion, metrics. No numerics here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from restore_diff.config import ConfigError, ExperimentConfig
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
from restore_diff.diffusion.prediction import PREDICTIONS
from restore_diff.evaluation.evaluator import Scorer
from restore_diff.metrics.perceptual import LPIPS, MetricUnavailable, find_lpips_weights
from restore_diff.metrics.protocols import select_protocols
from restore_diff.registry import choose, parse_options
from restore_diff.settings import DataConfig, Mixture
from restore_diff.trained import (  # noqa: F401  all of them are also build.NAME
    DeviceError,
    at_quality,
    codec,
    network,
    restorer,
    schedule,
    select_device,
    select_precision,
    settings_of,
    with_overrides,
)

if TYPE_CHECKING:
    from restore_diff.weather.renderer import WeatherRenderer


def diffusion(config: ExperimentConfig) -> GaussianDiffusion:
    """Raises ConfigError."""
    noise = schedule(config)
    with settings_of("diffusion"):
        choose(PREDICTIONS, config.diffusion.prediction, "diffusion.prediction")
        return GaussianDiffusion(noise, config.diffusion)


def renderer(config: DataConfig, pairs: Sequence[PairPath] = ()) -> WeatherRenderer | None:
    """The renderer of weather on clean photographs without a partner; None where all have one, or no weather is set.

    Raises ConfigError for an unknown kind of weather, DataError and ImageError for a folder of textures.
    """
    partnerless = [pair for pair in pairs if pair.degraded is None]
    if pairs and not partnerless:
        return None
    if config.weather == "none" and not (partnerless and all(pair.weather for pair in partnerless)):
        return None
    # Here, because they import kornia and torchvision, which take a second or two.
    from restore_diff.weather.renderer import WEATHERS, Rendering, WeatherRenderer, take
    from restore_diff.weather.textures import TextureFolder

    mixture: Mixture = {config.weather: 1.0} if isinstance(config.weather, str) else config.weather
    names = "+".join([*mixture, *(pair.weather or "none" for pair in partnerless)]).split("+")
    layers = {}
    with settings_of("data"):
        for name in sorted(set(names) - {"none"}):
            kind = choose(WEATHERS, name, "data.weather")
            options = parse_options(kind.settings, config.weather_options.get(name, {}), f"data.weather_options.{name}")
            layers[name] = Rendering(kind.render, getattr(config, name, options))
    for pictures in (config.rain.textures if "rain" in layers else "", config.snow.masks if "snow" in layers else ""):
        if pictures:
            TextureFolder(pictures)  # so that its errors come before any image
    return WeatherRenderer(mixture, layers, Rendering(take, config.camera))


def is_conditional(config: ExperimentConfig) -> bool:
    """Whether the network takes a degraded image; else it trains on clean photographs, and no test set is scored."""
    return config.model.condition_channels > 0


def training_sets(config: ExperimentConfig) -> tuple[PairList, PairList | None]:
    """The pairs to train on, and those held out for validation, None for none. Raises DataError, ImageError."""
    training, validation = hold_out(
        find_pairs(config.data.train, "train", Path(config.data.root)), config.data.num_validation
    )
    return training, validation and _whole(config, validation)


def _whole(config: ExperimentConfig, validation: PairList) -> PairList | None:
    """The pairs, each decoded once; damaged ones are refused or left out, by `data.on_bad`."""
    damaged = scan_files(files_of(validation), is_suspect=lambda path: True).damaged
    if config.data.on_bad == "error":
        refuse_damaged(damaged)
    pairs = tuple(p for p in validation.pairs if p.clean not in damaged and p.degraded not in damaged)
    if not pairs:
        return None
    validation = replace(validation, pairs=pairs)
    return _usable(config, validation) if is_conditional(config) else validation


def test_set(config: ExperimentConfig, source: str, crop_to_min: bool = False) -> PairList:
    """The pairs of `source`, which is written like data.test. Raises DataError, ImageError.

    `crop_to_min`: pairs that differ by a few pixels in size are cut to the size that they share, not refused.
    """
    return _usable(config, replace(find_pairs(source, "test", Path(config.data.root)), crop_to_min=crop_to_min))


def _usable(config: ExperimentConfig, pairs: PairList) -> PairList:
    """The pairs, checked to be complete now, not after the training that they are to score."""
    require_degraded(pairs, renderer(config.data, pairs.pairs))
    num_cut = require_equal_sizes(pairs, read_sizes(files_of(pairs)))
    cut = f"{num_cut} pairs of different sizes are cut, at the right and at the bottom, to the size that they share"
    return replace(pairs, notes=(*pairs.notes, cut)) if num_cut else pairs


def images(config: ExperimentConfig, pairs: PairList) -> PairedImageDataset:
    """Whole images to validate or test on, the same ones each time; without degraded ones if unconditional."""
    conditional = is_conditional(config)
    render = renderer(config.data, pairs.pairs) if conditional else None
    return PairedImageDataset(pairs, render, config.seed, conditional=conditional)


def lpips(
    config: ExperimentConfig, weights: Path | None = None, download: bool = False
) -> LPIPS | MetricUnavailable | None:
    """The metric, the reason why it is not available, or None if switched off. ConfigError for unusable `weights`."""
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
                [f"LPIPS is the only metric and is not available: {perceptual or 'evaluation.lpips is none'}"]
            )
        perceptual = None
    return Scorer(protocol_names, perceptual, metrics)


def batches(config: ExperimentConfig, pairs: PairList, rank: int = 0, world: int = 1) -> TrainingBatches:
    """The part of each batch that process `rank` of `world` takes. Raises ConfigError, DataError, ImageError."""
    conditional = is_conditional(config)
    render = renderer(config.data, pairs.pairs) if conditional else None
    sizes = config.training.batch_size, config.training.num_micro_batches
    return TrainingBatches(pairs, render, config.data, *sizes, config.seed, rank, world, conditional=conditional)
