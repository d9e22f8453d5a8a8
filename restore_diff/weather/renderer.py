"""Kinds of weather by name, their mixture, and the camera: sensor noise, sharpening, then JPEG.

Layers are applied in the order of the name: "rain+haze" adds haze to the rainy image.

The variance of the sensor noise is a x + b with linear light x: photon noise (Poisson) and read-out noise (Foi et al.,
"Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE TIP 2008). The Poisson part
is approximated by a normal distribution."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import decode_image, encode_jpeg

from restore_diff.randomness import generator
from restore_diff.settings import CameraConfig, HazeConfig, Mixture, RainConfig, RaindropConfig, SnowConfig, Weather
from restore_diff.tensors import Images
from restore_diff.weather.haze import render_haze
from restore_diff.weather.rain import render_rain
from restore_diff.weather.raindrop import render_raindrops
from restore_diff.weather.scene import uniform
from restore_diff.weather.snow import render_snow


def take(images: Images, config: CameraConfig, seeds: Sequence[int]) -> Images:
    """Add noise, sharpening and JPEG artefacts to images (B,3,H,W) in [0, 1].

    Row i depends on row i and seeds[i] alone. Return `images` itself if all are off.
    """
    if config.shot_noise[1] > 0 or config.read_noise[1] > 0:
        images = add_sensor_noise(images, config, seeds)
    if config.sharpening[1] > 0:
        images = sharpen(images, config, seeds)
    return compress(images, config, seeds) if config.jpeg > 0 else images


@torch.no_grad()
def add_sensor_noise(images: Images, config: CameraConfig, seeds: Sequence[int]) -> Images:
    """Add noise of variance shot_noise * x + read_noise**2 to linear light x; the result is clipped to [0, 1]."""
    settings, noise = zip(*(_draw_noise(config, images, seed) for seed in seeds), strict=True)
    shot, read = torch.stack(settings).to(images.device)[:, :, None, None, None].unbind(1)
    light = rgb_to_linear_rgb(images.float())
    light = light + (shot * light + read.square()).sqrt() * torch.stack(noise).to(images.device)
    return linear_rgb_to_rgb(light.clamp(0, 1)).clamp(0, 1).to(images.dtype)


def _draw_noise(config: CameraConfig, images: Images, seed: int) -> tuple[Tensor, Tensor]:
    random = generator(seed, "sensor noise")
    low, high = torch.tensor([config.shot_noise, config.read_noise]).unbind(1)
    settings = torch.lerp(low, high, torch.rand(2, generator=random))
    return settings, torch.randn(images.shape[1:], generator=random)


@torch.no_grad()
def sharpen(images: Images, config: CameraConfig, seeds: Sequence[int]) -> Images:
    """Sharpen by an unsharp mask: add a share, drawn per image, of the difference to a blur of 1 px, in [0, 1]."""
    low, high = config.sharpening
    amount = (low + (high - low) * uniform(seeds, ["sharpening"], (1, 1, 1))).to(images)
    return (images + amount * (images - gaussian_blur2d(images, 5, (1.0, 1.0), "replicate"))).clamp(0, 1)


@torch.no_grad()
def compress(images: Images, config: CameraConfig, seeds: Sequence[int]) -> Images:
    """Compress the share `config.jpeg` of the images by JPEG, colour at half resolution, and decode them again."""
    compressed = images.clone()
    for row, seed in enumerate(seeds):
        random = generator(seed, "jpeg")
        chance, place, size = torch.rand(3, generator=random).tolist()
        if chance < config.jpeg:
            lowest, highest = config.jpeg_quality
            quality = lowest + int(place * (highest - lowest + 1))
            scale = config.jpeg_scale[0] + size * (config.jpeg_scale[1] - config.jpeg_scale[0])
            compressed[row] = _through_jpeg(images[row], quality, scale)
    return compressed


def _through_jpeg(image: Tensor, quality: int, scale: float) -> Tensor:
    """Compress (3,H,W) at `scale` times its size."""
    sides = image.shape[-2:]
    larger = [round(side * scale) for side in sides]
    levels = (_resized(image.float(), larger).clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    file = encode_jpeg(levels, quality)
    assert isinstance(file, Tensor), "one image, one file"
    return _resized(decode_image(file).to(image.device, torch.float32) / 255, sides).clamp(0, 1)


def _resized(image: Tensor, sides: Sequence[int]) -> Tensor:
    if list(image.shape[-2:]) == list(sides):
        return image
    return interpolate(image[None], list(sides), mode="bicubic", antialias=True, align_corners=False)[0]


class Kind(NamedTuple):
    """Kind of weather: its render function and its settings dataclass."""

    render: Callable[..., Images]
    """(images (B,3,H,W) in [0, 1], settings, one seed per image) -> images; result i depends on row i alone."""
    settings: type


WEATHERS: dict[str, Kind] = {
    "rain": Kind(render_rain, RainConfig),
    "haze": Kind(render_haze, HazeConfig),
    "snow": Kind(render_snow, SnowConfig),
    "raindrop": Kind(render_raindrops, RaindropConfig),
}
"""Kinds of weather by name. Their settings: data.NAME for these four, data.weather_options.NAME for added kinds."""

Layer = Callable[[Images, Sequence[int]], Images]
"""(images (B,3,H,W) in [0, 1], one seed per image) -> images; result i depends on row i alone."""


class Rendering(NamedTuple):
    """Layer made of a render function and its settings; can be sent to worker processes."""

    render: Callable[..., Images]
    settings: Any

    def __call__(self, images: Images, seeds: Sequence[int]) -> Images:
        return self.render(images, self.settings, seeds)


class WeatherRenderer:
    """Apply one entry of a mixture of weather to each image; can be sent to worker processes."""

    def __init__(self, mixture: Mixture, layers: Mapping[str, Layer], camera: Layer):
        """`layers`: single kinds by name; `camera` is applied last, to every image."""
        self.mixture = mixture
        self.layers = layers
        self.camera = camera

    def __call__(self, clean: Images, seeds: Sequence[int], weathers: Sequence[Weather | None] | None = None) -> Images:
        """Degrade photographs in [0, 1]. For None in `weathers`, the seed of the image draws from the mixture.

        Result i depends on clean[i], seeds[i] and weathers[i] alone. Raises ValueError unless there is one seed, and
        one entry of `weathers` if given, per image.
        """
        named = [None] * len(seeds) if weathers is None else weathers
        if not len(clean) == len(seeds) == len(named):
            found = f"{len(clean)} images, {len(seeds)} seeds and {len(named)} weathers"
            raise ValueError(f"expected one seed and one weather per image, got {found}")
        kinds = self.kinds(seeds, named)
        degraded = clean.clone()
        for kind in sorted(set(kinds)):
            rows = [row for row, name in enumerate(kinds) if name == kind]
            images, its_seeds = clean[rows], [seeds[row] for row in rows]
            for layer in [] if kind == "none" else kind.split("+"):
                images = self.layers[layer](images, its_seeds)
            degraded[rows] = images
        return self.camera(degraded, seeds)

    def kinds(self, seeds: Sequence[int], weathers: Sequence[Weather | None]) -> list[Weather]:
        """Return the weather that a call with these arguments renders on each image."""
        return [kind or self._draw(seed) for kind, seed in zip(weathers, seeds, strict=True)]

    def _draw(self, seed: int) -> Weather:
        shares = torch.tensor(list(self.mixture.values()), dtype=torch.float64)
        place = torch.multinomial(shares, 1, generator=generator(seed, "kind of weather"))
        return list(self.mixture)[int(place)]
