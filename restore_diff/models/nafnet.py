"""A U-Net of gated blocks without activation functions: NAFNet (Chen et al., 2022, arXiv 2204.04676), conditioned on t.

Its 1x1 and depthwise convolutions cost a fraction of the 3x3 convolutions of `UNet`. It normalises each pixel over its
channels alone and pools over nothing, so that a pixel sees the same whatever the size of image or tile around it: the
channel attention of the original is left out for that.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_diff.models.config import NetworkConfig
from restore_diff.models.inputs import check_inputs
from restore_diff.models.layers import NORM_EPSILON, TimeEmbedding, WeatherEmbedding, wide_convolution, zeroed
from restore_diff.tensors import Images, Timesteps


class NAFNet(nn.Module):
    """(x_t, t, degraded) -> prediction, 0 everywhere before training; what `UNet` says of its arguments holds here.

    `num_blocks` blocks at each size on the way down and on the way up, `mid_blocks` at the smallest; channels of each
    size as `channel_multipliers` say. Attention, groups and dropout of the config mean nothing here.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        if config.recognise:
            raise ValueError("recognise=true is for kind=unet")
        self.config = config
        widths = [config.base_channels * multiplier for multiplier in config.channel_multipliers]
        pairs = list(pairwise(widths))
        num, folded, embedded = config.num_blocks, config.unshuffle**2, 4 * widths[0]

        self.conv_in = nn.Conv2d((config.condition_channels + config.image_channels) * folded, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], embedded)
        self.weather_embedding = WeatherEmbedding(embedded) if config.hint else None
        self.encoders = nn.ModuleList(_blocks(num, width, embedded) for width, _ in pairs)
        self.downs = nn.ModuleList(nn.Conv2d(width, below, 2, stride=2) for width, below in pairs)
        self.middle = _blocks(config.mid_blocks, widths[-1], embedded)
        self.ups = nn.ModuleList(nn.Conv2d(below, 4 * width, 1, bias=False) for width, below in reversed(pairs))
        self.decoders = nn.ModuleList(_blocks(num, width, embedded) for width, _ in reversed(pairs))
        self.conv_out = zeroed(nn.Conv2d(widths[0], config.image_channels * folded, 3, padding=1))

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return self.config.unshuffle * 2 ** (len(self.config.channel_multipliers) - 1)

    def forward(self, x_t: Images, t: Timesteps, degraded: Images | None, weather: Tensor | None = None) -> Images:
        """As `UNet.forward`."""
        check_inputs(self.config, self.size_multiple, x_t, t, degraded)
        inputs = x_t if degraded is None else torch.cat([degraded, x_t], dim=1)
        inputs = F.pixel_unshuffle(inputs.to(self.conv_in.weight.dtype), self.config.unshuffle)
        # Channels last: there the norm over channels reads memory in order.
        features = self.conv_in(inputs.contiguous(memory_format=torch.channels_last))
        embedding = self.time_embedding(t)
        if self.weather_embedding is not None and weather is not None:
            embedding = embedding + self.weather_embedding(weather)
        embedding = F.silu(embedding).to(features.dtype)

        skips = []
        for blocks, down in zip(self.encoders, self.downs, strict=True):
            skips.append(_through(blocks, features, embedding))
            features = down(skips[-1])
        features = _through(self.middle, features, embedding)
        for blocks, up in zip(self.decoders, self.ups, strict=True):
            features = _through(blocks, F.pixel_shuffle(up(features), 2) + skips.pop(), embedding)
        return F.pixel_shuffle(wide_convolution(self.conv_out, features), self.config.unshuffle).contiguous()


class GatedBlock(nn.Module):
    """Depthwise convolution, then a layer per pixel, each normalised, modulated by t, and gated by its own other half.

    A gate multiplies one half of the channels by the other (SimpleGate). Starts as the identity.
    """

    def __init__(self, num_channels: int, embedding_channels: int):
        super().__init__()
        self.modulation = zeroed(nn.Linear(embedding_channels, 4 * num_channels))  # Peebles & Xie (2023), adaLN
        self.norm1 = PixelNorm(num_channels)
        self.conv1 = nn.Conv2d(num_channels, 2 * num_channels, 1)
        self.depthwise = nn.Conv2d(2 * num_channels, 2 * num_channels, 3, padding=1, groups=2 * num_channels)
        self.conv2 = zeroed(nn.Conv2d(num_channels, num_channels, 1))
        self.norm2 = PixelNorm(num_channels)
        self.conv3 = nn.Conv2d(num_channels, 2 * num_channels, 1)
        self.conv4 = zeroed(nn.Conv2d(num_channels, num_channels, 1))

    def forward(self, features: Images, embedding: Tensor) -> Images:
        """`embedding`: (batch, embedding_channels), SiLU already applied."""
        scale1, shift1, scale2, shift2 = self.modulation(embedding)[:, :, None, None].chunk(4, 1)
        hidden = torch.addcmul(shift1, self.norm1(features), 1 + scale1)
        features = features + self.conv2(_gated(self.depthwise(self.conv1(hidden))))
        hidden = torch.addcmul(shift2, self.norm2(features), 1 + scale2)
        return features + self.conv4(_gated(self.conv3(hidden)))


class PixelNorm(nn.LayerNorm):
    """Normalises each pixel over its channels (Ba et al., 2016)."""

    def __init__(self, num_channels: int):
        super().__init__(num_channels, NORM_EPSILON)

    def forward(self, input: Images) -> Images:
        """(batch, channels, height, width) in and out, in the dtype of the input."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).to(input.dtype)


def _gated(features: Images) -> Images:
    kept, gate = features.chunk(2, 1)
    return kept * gate


def _blocks(number: int, num_channels: int, embedding_channels: int) -> nn.ModuleList:
    return nn.ModuleList(GatedBlock(num_channels, embedding_channels) for _ in range(number))


def _through(blocks: nn.Module, features: Images, embedding: Tensor) -> Images:
    for block in blocks.children():
        features = block(features, embedding)
    return features
