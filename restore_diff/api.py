"""The front door in Python: load, train, evaluate, sample. docs/python.md shows each call."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from restore_diff import trained
from restore_diff.checkpoint import Weights, save_weights
from restore_diff.config import ExperimentConfig, load_config, overridden, to_dict
from restore_diff.diffusion.prediction import PREDICTIONS
from restore_diff.diffusion.samplers import SAMPLERS, Callback, Guidance
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.labels import hints
from restore_diff.randomness import generator
from restore_diff.registry import choose, make
from restore_diff.settings import SamplerConfig, ScheduleConfig
from restore_diff.tensors import IDENTITY, Codec, Images

Picture: TypeAlias = "Image.Image | np.ndarray | Tensor"
"""PIL image; array (H,W,3) or (H,W), uint8 or float in [0, 1]; tensor (3,H,W) or (B,3,H,W), float in [0, 1]."""

_LOADED: dict[tuple[str, int, str], tuple[ExperimentConfig, nn.Module]] = {}
"""Networks by source, its time of change, and device, so that loading twice reads once."""


class LoadedRestorer:
    """Restores pictures with one set of weights. Made by `load`."""

    def __init__(self, config: ExperimentConfig, model: Any, device: torch.device, dtype: str, weather: str | None):
        self.config = config
        self.network = model
        self.device = device
        self._dtype, self._weather = dtype, weather
        self._restorers = {weather: trained.restorer(config, model, device, dtype, weather)}  # type: ignore[arg-type]

    def __call__(
        self,
        picture: Picture,
        weather: str | None = None,
        seed: int = 0,
        return_std: bool = False,
        name: str = "",
        callback: Callback | None = None,
        guidance: Guidance | None = None,
    ) -> Any:
        """Restore one picture, or a batch of tensors; the result has the type, shape and value range of the input.

        `weather`: label for this call, e.g. "rain+haze"; None: that of `load`, else detected. `name` and `seed`
        address the noise: with a file's name the result is that of `restore.py`. `return_std`: also return the standard
        deviation over the samples, float, same layout. `callback(step, x_t, estimate)`, `guidance`: see samplers.
        Raises ValueError for a picture of another kind or range, and for an unknown label.
        """
        task = self.config.sampler.guidance_options.get("task", "")
        if not (self.config.model.condition_channels or self.config.sampler.guidance):
            raise ValueError("an unconditional network restores zero-shot only: load(..., zero_shot='sr:2')")
        images, back = _to_images(_in_colour(picture) if task == "colorize" else picture)
        if task != "inpaint" and bool(images.isnan().any()):
            raise ValueError("pictures hold values in [0, 1], got nan; zero_shot='inpaint' fills them in")
        weather = weather if weather is not None else self._weather
        if weather not in self._restorers:
            made = trained.restorer(self.config, self.network, self.device, self._dtype, weather)  # type: ignore[arg-type]
            self._restorers[weather] = made
        names = [name if len(images) == 1 else f"{name}{place}" for place in range(len(images))]
        hooks = {"callback": callback, "guidance": guidance}
        if not return_std:
            return back(self._restorers[weather].restore(images, names, seed, **hooks), False)
        mean, std = self._restorers[weather].restore_with_spread(images, names, seed, **hooks)
        return back(mean, False), back(std, True)

    def sample(
        self,
        num_images: int = 16,
        size_px: int | None = None,
        label: str | Sequence[str | None] | None = None,
        seed: int = 0,
        callback: Callback | None = None,
        guidance: Guidance | None = None,
    ) -> Images:
        """Draw images from an unconditional network: (num_images,3,size_px,size_px) in [0, 1].

        `size_px` None: that of the training crops. `label`: of `model.labels`, one for all images or one each; None:
        unknown. Raises ValueError for a network that needs a degraded image, a size that does not fit, and a label that
        the network does not have.
        """
        model = self.config.model
        if model.condition_channels:
            raise ValueError("these weights need a degraded image; those of model.condition_channels=0 draw new ones")
        codec, condition = trained.codec(self.config), None
        if label is not None:
            if not model.hint:
                raise ValueError(f"label {label}: this network has no labels (model.hint is false)")
            labels = [label] * num_images if isinstance(label, str) else label
            condition = {"weather": hints(labels, model.labels).to(self.device)}
        side = (size_px or self.config.data.crop_size_px) // codec.downscale
        return sample(
            self.network,
            shape=(num_images, model.image_channels, side, side),
            schedule=self.config.schedule,
            prediction=self.config.diffusion.prediction,
            sampler=self.config.sampler,
            seed=seed,
            callback=callback,
            guidance=guidance or self._restorers[self._weather].guidance,
            condition=condition,
            codec=codec,
        )

    def __repr__(self) -> str:
        sampler = self.config.sampler
        return f"LoadedRestorer({self.config.name}, {sampler.name} {sampler.num_steps} steps, {self.device})"


def load(
    source: str | Path = "shipped",
    quality: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    weather: str | None = None,
    overrides: Sequence[str] = (),
    zero_shot: str | None = None,
) -> LoadedRestorer:
    """Load a restorer from "shipped", a run folder, a checkpoint, a weights file, a .pth.tar of WeatherDiffusion, or
    "hub:owner/name".

    `quality`: "fast" or "balanced". `overrides`: settings such as "sampler.num_steps=4". `zero_shot`: task of
    an unconditional network: "inpaint:MASK" (a file, white: fill in), "inpaint" (of floats, NaN: fill in), "sr:FACTOR",
    "deblur:SIGMA" (in px) or "colorize". Loading the same source again does not read it again. Raises ValueError
    (WeightsError, ConfigError, DeviceError, MaskError) in one sentence.
    """
    at = trained.select_device(device)
    config, model = _network(Path(source), at)
    config = overridden(config, overrides)
    if quality is not None:
        config = trained.at_quality(config, quality)
    if zero_shot is not None:
        config = trained.for_task(config, zero_shot)
    return LoadedRestorer(config, model, at, trained.select_precision(dtype, at), weather)


def _network(source: Path, device: torch.device) -> tuple[ExperimentConfig, nn.Module]:
    stamp = max((p.stat().st_mtime_ns for p in (source, *source.glob("checkpoints/*")) if p.exists()), default=0)
    key = (str(source.absolute()), stamp, str(device))
    if key not in _LOADED:
        config, weights = _read(source)
        _LOADED[key] = config, trained.trained_network(config, weights, device)
    return _LOADED[key]


def _read(source: Path) -> tuple[ExperimentConfig, Weights]:
    if source.name.endswith((".pth.tar", ".pth")):
        from restore_diff.interop.weatherdiffusion import read_weatherdiffusion

        tensors, config, step = read_weatherdiffusion(source)
        return config, Weights(tensors, to_dict(config), step)
    if str(source).startswith("hub:"):
        source = _from_hub(str(source).removeprefix("hub:"))
    return trained.load_experiment(source)[1:]


def _from_hub(name: str) -> Path:
    """Download the repository `owner/name` of the Hugging Face hub, and return its weights file."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(f"hub:{name}: pip install huggingface_hub to load from the hub") from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.safetensors"]))
    except Exception as error:  # network, name, permission: each a class of its own
        raise ValueError(f"hub:{name}: not downloaded ({str(error).partition(chr(10))[0]})") from error
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise ValueError(f"hub:{name}: expected one .safetensors file, found {len(files)}")
    return files[0]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training run."""

    path: Path
    """Run folder: config, logs, samples, checkpoints, report of the test set."""
    config: ExperimentConfig
    """Resolved config."""

    def load(self, **options: Any) -> LoadedRestorer:
        """The restorer of its averaged weights; options as `load`."""
        return load(self.path, **options)

    def push_to_hub(self, name: str, card: str | Path | None = None, private: bool = False) -> None:
        """Upload the averaged weights and a model card to the repository `owner/name` of the Hugging Face hub.

        The repository is created if needed, and `load("hub:owner/name")` reads it. The weights file holds the config,
        with its paths of data. `card`: Markdown file; None: a short card with the scored test sets. Raises
        ValueError for weights that cannot be read and for an upload that fails.
        """
        try:
            from huggingface_hub import create_repo, upload_folder
        except ImportError:
            raise ValueError(f"hub:{name}: pip install huggingface_hub to upload to the hub") from None
        _, config, weights = trained.load_experiment(self.path)
        text = Path(card).read_text(encoding="utf-8") if card else _model_card(name, self.path, config, weights)
        with tempfile.TemporaryDirectory() as folder:
            save_weights(Path(folder, "model.safetensors"), weights.tensors, to_dict(config), weights.step, card=text)
            Path(folder, "README.md").write_text(text, encoding="utf-8")
            try:
                create_repo(name, private=private, exist_ok=True)
                upload_folder(repo_id=name, folder_path=folder, commit_message=f"{config.name}, step {weights.step}")
            except Exception as error:  # network, name, permission: each a class of its own
                raise ValueError(f"hub:{name}: not uploaded ({str(error).partition(chr(10))[0]})") from error


CARD = """---
library_name: restore_diff
pipeline_tag: {task}
tags: [diffusion]
---
# {title}

A network of restore_diff: {millions:.1f} million parameters, {step} optimizer steps on `{data}`, output: {prediction}.

    pip install "restore_diff[hub]"

    import restore_diff as rd
    restorer = rd.load("hub:{name}")

`restorer.config` has the settings.

## Scores

{scores}
"""
"""Model card of a run. The hub reads the lines between the dashes."""


def _model_card(name: str, run: Path, config: ExperimentConfig, weights: Weights) -> str:
    tables = [f"{path.parent.name}:\n\n{path.read_text(encoding='utf-8')}" for path in run.glob("test/**/table.md")]
    return CARD.format(
        task="image-to-image" if config.model.condition_channels else "unconditional-image-generation",
        title=config.name,
        millions=sum(tensor.numel() for tensor in weights.tensors.values()) / 1e6,
        step=weights.step,
        data=config.data.train,
        prediction=config.diffusion.prediction,
        name=name,
        scores="\n".join(sorted(tables)) or "Not scored.",
    )


def train(
    config: str | Path | ExperimentConfig | Sequence[str],
    data: str | None = None,
    test: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    fresh: bool = False,
) -> Run:
    """Train as train.py does, in this process, and return the run; the same call again continues it.

    `config`: names or paths of YAML files, or a config object. `data`: pairs as INPUT:TARGET, a folder or a card; also
    the test set unless `test` is given. Raises ValueError for mistakes, TrainingStopped when training cannot go on.
    """
    from restore_diff.commands.training_run import run_training

    places = [*([f"data.train={data}"] if data else []), *([f"data.test={test or data}"] if test or data else [])]
    texts = [*places, *overrides]
    if isinstance(config, ExperimentConfig):
        config = overridden(config, texts)
    else:
        files = [str(config)] if isinstance(config, str | Path) else [str(file) for file in config]
        config = load_config(files, texts)
    run_training(config, device, ["restore_diff.train", *texts], fresh=fresh)
    return Run(trained.RUNS / config.name, config)


def evaluate(
    run: "Run | LoadedRestorer | str | Path",
    data: str | None = None,
    protocols: Sequence[str] = (),
    metrics: Sequence[str] = ("psnr", "ssim", "lpips"),
    **options: Any,
) -> Any:
    """Score a run, a restorer or weights on pairs, as test.py does, without writing files.

    `data`: pairs as INPUT:TARGET, a folder or a card; None: the test set of the config. `options` as `load`. Returns
    `Scores` with .mean, .interval and .rows. Raises ValueError for mistakes.
    """
    from restore_diff import build
    from restore_diff.commands.scoring import METRICS, Choice
    from restore_diff.commands.scoring import evaluate as score

    restorer = run if isinstance(run, LoadedRestorer) else load(run.path if isinstance(run, Run) else run, **options)
    config = restorer.config
    if protocols:
        config = trained.with_overrides(config, evaluation__protocols=list(protocols))
    pairs = build.test_set(config, data or config.data.test)
    return score(config, restorer._restorers[restorer._weather], pairs, Choice(metrics or METRICS))


def sample(
    network: Any,
    degraded: Images | None = None,
    *,
    shape: Sequence[int] | None = None,
    schedule: str | ScheduleConfig | NoiseSchedule = "linear",
    prediction: str = "epsilon",
    sampler: str | SamplerConfig = "ddim",
    num_steps: int = 10,
    seed: int = 0,
    callback: Callback | None = None,
    guidance: Guidance | None = None,
    condition: Mapping[str, Any] | None = None,
    codec: Codec = IDENTITY,
    **settings: Any,
) -> Images:
    """Sample with any network (x_t, t, degraded) -> output; returns images in [0, 1], like `degraded`.

    `degraded`: (B,C,H,W) in [0, 1], on the device of the network; None: unconditional, then `shape` is needed, that of
    x_t. `settings`: further fields of SamplerConfig, e.g. eta=1. `condition`: keywords passed to the network. `codec`:
    from images to what the network works on. Raises ValueError for unknown names and wrong shapes.
    """
    if degraded is None and shape is None:
        raise ValueError("sample: give degraded images, or the shape (B,C,H,W) of unconditional samples")
    given = None if degraded is None else codec.encode(degraded.float())
    size = tuple(shape or ()) if given is None else tuple(given.shape)
    device = degraded.device if degraded is not None else next(iter(network.parameters())).device
    choose(PREDICTIONS, prediction, "prediction")
    levels = schedule if isinstance(schedule, NoiseSchedule) else NoiseSchedule(_schedule(schedule))
    if isinstance(sampler, SamplerConfig):
        wanted = sampler
    else:
        wanted = SamplerConfig(name=sampler, num_steps=num_steps, **settings)
    solver = make(SAMPLERS, wanted.name, "sampler.name", wanted.options, levels, prediction, wanted)

    def noise(draw: int) -> Images:
        return torch.randn(size, generator=generator(seed, "sample", draw)).to(device)

    predictor = partial(network, **condition) if condition else network
    return codec.decode(solver.sample(predictor, given, noise, callback, guidance))


def _schedule(schedule: str | ScheduleConfig) -> ScheduleConfig:
    return schedule if isinstance(schedule, ScheduleConfig) else ScheduleConfig(name=schedule)


def _to_images(picture: Any) -> tuple[Images, Any]:
    """(B,3,H,W) float32 in [0, 1], and the function that turns (result, is_std) into the picture's own kind."""
    if isinstance(picture, Image.Image):
        return _from_pil(picture)
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, Tensor):
        return _from_tensor(picture)
    raise ValueError(f"a picture is a PIL image, a NumPy array or a tensor, got {type(picture).__name__}")


def _in_colour(picture: Any) -> Any:
    """A grey picture in three channels."""
    if isinstance(picture, Image.Image) and picture.mode in ("L", "LA", "1"):
        return picture.convert("RGBA" if picture.mode == "LA" else "RGB")
    return np.stack([picture] * 3, axis=-1) if isinstance(picture, np.ndarray) and picture.ndim == 2 else picture


def _from_pil(picture: Image.Image) -> tuple[Images, Any]:
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "1"):
        raise ValueError(f"PIL image of mode {picture.mode}: convert it to RGB first (read are RGB, RGBA, L, LA, P, 1)")
    has_alpha = picture.mode in ("RGBA", "LA") or "transparency" in picture.info
    mode = "L" if picture.mode in ("L", "LA", "1") else "RGB"
    alpha = picture.convert("RGBA").getchannel("A") if has_alpha else None
    images, back = _from_array(np.asarray(picture.convert("RGB")))

    def to_pil(result: Images, is_std: bool) -> Any:
        if is_std:
            return back(result, True)
        restored = Image.fromarray(back(result, False)).convert(mode)
        if alpha is not None:
            restored.putalpha(alpha.resize(restored.size))  # larger after super-resolution
        return restored

    return images, to_pil


def _from_array(array: np.ndarray) -> tuple[Images, Any]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise ValueError(f"an array must be (H,W,3) or (H,W), got {array.shape}")
    levels = {"uint8": 255, "uint16": 65535}.get(array.dtype.name)
    if levels is None and array.dtype.kind != "f":
        raise ValueError(f"an array must be uint8, uint16 or float in [0, 1], got {array.dtype}")
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) / (levels or 1)
    colour = values.expand(3, *array.shape) if array.ndim == 2 else values.permute(2, 0, 1)
    images = _checked(colour[None])

    def to_array(result: Images, is_std: bool) -> np.ndarray:
        found = result[0].cpu().mean(0) if array.ndim == 2 else result[0].cpu().permute(1, 2, 0)
        if levels is None or is_std:
            return found.numpy().astype(np.float32 if levels else array.dtype)
        return (found.clamp(0, 1) * levels + 0.5).numpy().astype(array.dtype)

    return images, to_array


def _from_tensor(tensor: Tensor) -> tuple[Images, Any]:
    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3 or not tensor.is_floating_point() or 0 in tensor.shape:
        form = f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise ValueError(f"a tensor must be (3,H,W) or (B,3,H,W), floating point in [0, 1], got {form}")
    images = _checked(tensor if tensor.ndim == 4 else tensor[None])
    return images, lambda result, is_std: (result if tensor.ndim == 4 else result[0]).to(tensor)


def _checked(images: Images) -> Images:
    low, high = images.nan_to_num().min().item(), images.nan_to_num().max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"pictures hold values in [0, 1], got {low:.3g} to {high:.3g}; divide by 255, or use uint8")
    return images
