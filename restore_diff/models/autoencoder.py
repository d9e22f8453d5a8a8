"""Autoencoders for latent diffusion (Rombach et al., CVPR 2022): a small one that train.py trains, and diffusers'."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from restore_diff.models.layers import check_inputs
from restore_diff.settings import NetworkConfig, settings
from restore_diff.tensors import Images, Timesteps, to_model_range, to_unit_range

HUB = "hub:"


@settings
class AutoencoderSettings:
    downscale: Literal[2, 4, 8] = Field(default=2, description="pixels per latent, along each side")
    latent_channels: int = Field(default=6, ge=1, description="channels of the latents")
    channels: int = Field(default=32, ge=8, description="at half the size; doubled at each further halving")


class Autoencoder(nn.Module):
    """degraded -> its reconstruction from latents within [-1, 1]; x_t and t are not used.

    As an entry of MODELS it trains by the ordinary loop (configs/autoencoder.yaml): degraded equals clean, and the loss
    is the squared error of the clean image. As a codec it is `AutoencoderCodec` in trained.py.
    """

    Settings = AutoencoderSettings

    def __init__(self, config: NetworkConfig, options: AutoencoderSettings):
        """Raises ValueError for a config without a degraded image, or with a hint."""
        super().__init__()
        if not config.condition_channels or config.hint:
            raise ValueError("an autoencoder reconstructs the degraded image: condition_channels=3 and hint=false")
        self.config = config
        self.downscale = options.downscale
        widths = [options.channels * 2**level for level in range(options.downscale.bit_length() - 1)]
        self.conv_in = nn.Conv2d(4 * config.image_channels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(Residual(width) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(4 * fine, coarse, 3, padding=1) for fine, coarse in pairwise(widths))
        self.to_latents = nn.Conv2d(widths[-1], options.latent_channels, 3, padding=1)
        self.from_latents = nn.Conv2d(options.latent_channels, widths[-1], 3, padding=1)
        self.decoder = nn.ModuleList(Residual(width) for width in widths)
        self.ups = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 3, padding=1) for fine, coarse in pairwise(widths))
        self.conv_out = nn.Conv2d(widths[0], 4 * config.image_channels, 3, padding=1)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return self.downscale

    def encode(self, images: Images) -> Images:
        """(B,3,H,W) in [-1, 1] -> (B,latent_channels,H/downscale,W/downscale), within [-1, 1]."""
        features = self.encoder[0](self.conv_in(F.pixel_unshuffle(images, 2)))
        for down, block in zip(self.downs, self.encoder[1:], strict=True):
            features = block(down(F.pixel_unshuffle(features, 2)))
        return self.to_latents(F.silu(features)).tanh()

    def decode(self, latents: Images) -> Images:
        """Latents -> (B,3,H,W), about [-1, 1]."""
        features = self.decoder[-1](self.from_latents(latents))
        for up, block in reversed(list(zip(self.ups, self.decoder[:-1], strict=True))):
            features = block(F.pixel_shuffle(up(features), 2))
        return F.pixel_shuffle(self.conv_out(features), 2)

    def forward(self, x_t: Images, t: Timesteps, degraded: Images | None) -> Images:
        """The reconstruction, in x_t's shape. ValueError for wrong shapes and sizes, as the U-Net's."""
        check_inputs(self.config, self.size_multiple, x_t, t, degraded)
        assert degraded is not None, "condition_channels is above 0"
        return self.decode(self.encode(degraded))


class Residual(nn.Module):
    """(SiLU, 3x3 convolution) twice, added."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Images) -> Images:
        return features + self.conv2(F.silu(self.conv1(F.silu(features))))


LATENT_REACH = 4.0
"""Standard deviations of latents that are mapped to [-1, 1], the range in which samplers clip."""


@settings
class DiffusersCodecSettings:
    path: str = Field(min_length=1, description="a folder, or hub:owner/name of the Hugging Face hub")


class DiffusersCodec:
    """Latents of an AutoencoderKL or AutoencoderTiny of diffusers, the mean of the posterior, unit variance over 4.

    Large images are encoded and decoded in the tiles of diffusers. Raises ValueError where diffusers is not installed,
    and for a folder that holds neither. Only a `hub:` name is downloaded.
    """

    Settings = DiffusersCodecSettings

    def __init__(self, options: DiffusersCodecSettings):
        self.network = _from_diffusers(options.path).eval().requires_grad_(False)
        config = self.network.config
        self.is_tiny = type(self.network).__name__ == "AutoencoderTiny"
        self.downscale = 2 ** (
            len(config.encoder_block_out_channels if self.is_tiny else config.block_out_channels) - 1
        )
        self.shift = getattr(config, "shift_factor", None) or 0.0
        self.scale = config.scaling_factor / LATENT_REACH

    def encode(self, images: Images) -> Images:
        """As `Codec.encode`."""
        encoded = self.network.to(images.device).encode(to_model_range(images))
        latents = encoded.latents if self.is_tiny else encoded.latent_dist.mode()
        return (latents - self.shift) * self.scale

    def decode(self, latents: Images) -> Images:
        """As `Codec.decode`."""
        return to_unit_range(self.network.to(latents.device).decode(latents / self.scale + self.shift).sample)


def _from_diffusers(path: str):
    try:
        import diffusers
    except ImportError:
        raise ValueError("this codec needs diffusers: pip install restore_diff[latent]") from None
    name, is_local = path.removeprefix(HUB), not path.startswith(HUB)
    if is_local and not (Path(path) / "config.json").is_file():
        raise ValueError(f"options.path: {path}: no folder with a config.json; of the hub: {HUB}owner/name")
    try:
        kind = diffusers.AutoencoderKL.load_config(name, local_files_only=is_local)["_class_name"]
        if kind not in ("AutoencoderKL", "AutoencoderTiny"):
            raise ValueError(f"expected an AutoencoderKL or AutoencoderTiny, found {kind}")
        options = {"local_files_only": is_local, "torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        return getattr(diffusers, kind).from_pretrained(name, **options)
    except Exception as error:  # network, name, permission, damaged file: each a class of its own
        raise ValueError(f"options.path: {path}: {str(error).partition(chr(10))[0]}") from error
