"""What the camera adds last: noise of the sensor, then JPEG.

The variance of a sensor's noise is a x + b: photons arrive by chance, a Poisson process, and reading them out adds the
rest (Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE TIP 2008).
x is linear light, before it is coded for display. With many photons the Poisson distribution is normal.
"""

from collections.abc import Sequence

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor
from torchvision.io import decode_image, encode_jpeg

from restore_diff.data.weather.config import CameraConfig
from restore_diff.randomness import generator
from restore_diff.tensors import Images


def take(images: Images, config: CameraConfig, seeds: Sequence[int]) -> Images:
    """Take pictures (B,3,H,W) in [0, 1], one seed each; row i depends on row i and its seed alone.

    Where the settings ask for nothing, the pictures themselves come back.
    """
    if config.shot_noise[1] > 0 or config.read_noise[1] > 0:
        images = add_sensor_noise(images, config, seeds)
    return compress(images, config, seeds) if config.jpeg > 0 else images


@torch.no_grad()
def add_sensor_noise(images: Images, config: CameraConfig, seeds: Sequence[int]) -> Images:
    """Noise of variance shot_noise * x + read_noise**2 on linear light x; values in [0, 1] stay there."""
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
def compress(images: Images, config: CameraConfig, seeds: Sequence[int]) -> Images:
    """JPEG and back, colour at half resolution, for the share of images that the config says; the others stay."""
    compressed = images.clone()
    for row, seed in enumerate(seeds):
        random = generator(seed, "jpeg")
        chance, place = torch.rand(2, generator=random).tolist()
        if chance < config.jpeg:
            lowest, highest = config.jpeg_quality
            quality = lowest + int(place * (highest - lowest + 1))
            levels = (images[row].float() * 255).round().to("cpu", torch.uint8)
            file = encode_jpeg(levels, quality)
            assert isinstance(file, Tensor), "one image, one file"
            compressed[row] = decode_image(file).to(compressed) / 255
    return compressed
