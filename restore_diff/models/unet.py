"""The denoising U-Net of Ho et al. (2020), conditioned on a degraded image as in Özdenizci & Legenstein (2023)."""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_diff.models.autoencoder import Autoencoder
from restore_diff.models.layers import (
    NORM_EPSILON,
    Downsample,
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    Upsample,
    WeatherEmbedding,
    WeatherHead,
    check_inputs,
    check_labels,
    stacked,
    wide_convolution,
    zeroed,
)
from restore_diff.models.transformer import Transformer
from restore_diff.registry import make
from restore_diff.settings import NetworkConfig
from restore_diff.tensors import Images, Timesteps


class UNet(nn.Module):
    """(x_t, t, degraded) -> prediction, 0 everywhere before training.

    Computes diffusers' UNet2DModel with downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, from
    parameters of the same names and shapes; its input is cat([degraded, x_t]). With unshuffle > 1 the same network
    stands between a pixel-unshuffle and a pixel-shuffle (Shi et al., 2016, arXiv 1609.05158).

    Weights may be bfloat16, or float32 under autocast: the time embedding and the last convolution stay in float32.

    Raises ValueError for a config whose numbers do not fit together.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        _check(config)
        self.config = config
        widths = _widths(config)
        levels = range(len(widths))
        folded = config.unshuffle**2

        self.conv_in = nn.Conv2d((config.condition_channels + config.image_channels) * folded, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], _embedding_channels(config))
        self.weather_embedding = (
            WeatherEmbedding(len(config.labels), _embedding_channels(config)) if config.hint else None
        )
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in levels)
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(levels))
        self.conv_norm_out = nn.GroupNorm(config.num_groups, widths[0], NORM_EPSILON)
        self.conv_out = zeroed(nn.Conv2d(widths[0], config.image_channels * folded, 3, padding=1))
        self.weather_head = (
            WeatherHead([*_skip_widths(config), widths[-1]], len(config.labels)) if config.recognise else None
        )

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return self.config.unshuffle * 2 ** (len(self.config.channel_multipliers) - 1)

    def forward(self, x_t: Images, t: Timesteps, degraded: Images | None, weather: Tensor | None = None) -> Images:
        """The raw output, float32, in x_t's shape. `degraded` has x_t's size; None if the config has no condition.

        `weather`: rows of `labels.hints`, one for all images or one each, for a config with `hint`; None: unknown.

        Raises ValueError for a condition that is missing, superfluous or of another shape, and for a size that is no
        multiple of `size_multiple`.
        """
        skips, features, embedding = self._encode(x_t, t, degraded, weather)
        for block in self.up_blocks:
            features = block(features, skips, embedding)
        features = wide_convolution(self.conv_out, F.silu(self.conv_norm_out(features)))
        return F.pixel_shuffle(features, self.config.unshuffle)

    def recognise(self, x_t: Images, t: Timesteps, degraded: Images) -> Tensor:
        """Logits of each label for `degraded`, (batch, num_labels), float32, for a config with `recognise`.

        Computed from the features of the network at pure noise, the last t, without a hint. They get no gradient.
        """
        assert self.weather_head is not None, "model.recognise is false"
        with torch.no_grad():
            skips, features, _ = self._encode(x_t, t, degraded, None)
        return self.weather_head([*skips, features])

    def _encode(
        self, x_t: Images, t: Timesteps, degraded: Images | None, weather: Tensor | None
    ) -> tuple[list[Images], Images, Tensor]:
        """The skips, the features at the smallest size, and the embedding."""
        check_inputs(self.config, self.size_multiple, x_t, t, degraded)
        features = self.conv_in(stacked(self.config, x_t, degraded, self.conv_in.weight.dtype))
        embedding = self.time_embedding(t)
        if self.weather_embedding is not None and weather is not None:
            embedding = embedding + self.weather_embedding(weather)
        embedding = F.silu(embedding).to(features.dtype)

        skips = [features]
        for block in self.down_blocks:
            skips += block(skips[-1], embedding)
        return skips, self.mid_block(skips[-1], embedding), embedding


class DownBlock(nn.Module):
    """The residual blocks of one level on the way down, then half the size unless it is the last level."""

    def __init__(self, config: NetworkConfig, level: int):
        super().__init__()
        widths = _widths(config)
        width = widths[level]
        inputs = [widths[max(level - 1, 0)]] + [width] * (config.num_blocks - 1)
        self.resnets = nn.ModuleList(_residual(config, channels, width) for channels in inputs)
        self.attentions = nn.ModuleList(_attention(config, width, level in config.attention_levels) for _ in inputs)
        self.downsamplers = nn.ModuleList([Downsample(width)] if level < len(widths) - 1 else [])

    def forward(self, features: Images, embedding: Tensor) -> list[Images]:
        """The output of each layer, in order: the way up reads them all."""
        outputs = []
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            features = attention(resnet(features, embedding))
            outputs.append(features)
        for downsample in self.downsamplers:
            outputs.append(downsample(features))
        return outputs


class MidBlock(nn.Module):
    """Two residual blocks at the smallest size, with attention in between."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        width = _widths(config)[-1]
        self.resnets = nn.ModuleList(_residual(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([_attention(config, width, config.mid_attention)])

    def forward(self, features: Images, embedding: Tensor) -> Images:
        features = self.attentions[0](self.resnets[0](features, embedding))
        return self.resnets[1](features, embedding)


class UpBlock(nn.Module):
    """The residual blocks of one level on the way up, each reading a skip, then twice the size unless at full size."""

    def __init__(self, config: NetworkConfig, level: int):
        super().__init__()
        widths = _widths(config)
        below, width, above = widths[min(level + 1, len(widths) - 1)], widths[level], widths[max(level - 1, 0)]
        inputs = [below] + [width] * config.num_blocks
        skips = [width] * config.num_blocks + [above]
        totals = [channels + skip for channels, skip in zip(inputs, skips, strict=True)]
        self.resnets = nn.ModuleList(_residual(config, total, width) for total in totals)
        self.attentions = nn.ModuleList(_attention(config, width, level in config.attention_levels) for _ in totals)
        self.upsamplers = nn.ModuleList([Upsample(width)] if level > 0 else [])

    def forward(self, features: Images, skips: list[Images], embedding: Tensor) -> Images:
        """Takes its skips off the end of the list."""
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            features = attention(resnet(torch.cat([features, skips.pop()], dim=1), embedding))
        for upsample in self.upsamplers:
            features = upsample(features)
        return features


def _widths(config: NetworkConfig) -> list[int]:
    return [config.base_channels * multiplier for multiplier in config.channel_multipliers]


def _skip_widths(config: NetworkConfig) -> list[int]:
    """Channels of each skip: of the first convolution, then of the blocks of each level and what follows them."""
    widths = _widths(config)
    following = [1] * (len(widths) - 1) + [0]
    return widths[:1] + [w for w, more in zip(widths, following, strict=True) for _ in range(config.num_blocks + more)]


def _embedding_channels(config: NetworkConfig) -> int:
    return 4 * _widths(config)[0]


def _residual(config: NetworkConfig, in_channels: int, out_channels: int) -> ResidualBlock:
    return ResidualBlock(in_channels, out_channels, _embedding_channels(config), config.num_groups, config.dropout)


def _attention(config: NetworkConfig, width: int, present: bool) -> SelfAttention | nn.Identity:
    return SelfAttention(width, config.head_channels, config.num_groups) if present else nn.Identity()


def _check(config: NetworkConfig) -> None:
    check_labels(config)
    widths = _widths(config)
    for width in widths:
        if width % config.num_groups:
            raise ValueError(f"num_groups={config.num_groups} must divide the channels of every level, {widths}")
    for level in config.attention_levels:
        if level >= len(widths):
            raise ValueError(f"attention_levels must be below the {len(widths)} levels, got {config.attention_levels}")
    attended = [widths[level] for level in config.attention_levels] + [widths[-1]] * config.mid_attention
    for width in attended:
        if config.head_channels and width % config.head_channels:
            raise ValueError(f"head_channels={config.head_channels} must divide the channels under attention, {width}")


Network: TypeAlias = UNet
"""Or any module with its interface: forward(x_t, t, degraded, **condition), `size_multiple`."""

MODELS: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "transformer": Transformer, "autoencoder": Autoencoder}
"""Networks by the name in `model.kind`: (config[, options]) -> module."""


def make_network(config: NetworkConfig) -> Network:
    """An untrained network. Raises ValueError for an unknown kind, and for numbers that do not fit together."""
    return make(MODELS, config.kind, "model.kind", config.options, config)
