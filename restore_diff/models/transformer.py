"""A transformer as the noise network: Restormer's blocks (Zamir et al., CVPR 2022, arXiv 2111.09881).

Attention is over channels, so time and memory grow linearly with the number of pixels. Differences from Restormer: the
noise level, and if wanted a condition such as text, enter each block; all levels of the way up have their level's
width; no refinement blocks follow.
"""

from collections.abc import Iterable
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from restore_diff.models.layers import (
    NORM_EPSILON,
    TimeEmbedding,
    WeatherHead,
    check_inputs,
    check_labels,
    stacked,
    wide_convolution,
    widened,
    zeroed,
)
from restore_diff.settings import NetworkConfig, settings
from restore_diff.tensors import Images, Timesteps


@settings
class TransformerSettings:
    channels: int = Field(default=32, ge=8, le=8192, multiple_of=2, description="at the first level; doubled at each")
    num_blocks: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 1, 2), min_length=1, max_length=12, description="per level; the last, at the smallest size, once"
    )
    head_channels: int = Field(default=32, ge=1, description="channels of one attention head")
    expansion: float = Field(
        default=2.0, gt=0, le=16, description="hidden channels of the feed-forward, over its width"
    )
    token_channels: int = Field(default=0, ge=0, description="of the condition's tokens; 0: no cross-attention")


class Tokens(NamedTuple):
    """What the cross-attention reads."""

    values: Tensor
    """(batch, number, token_channels)"""
    log_weights: Tensor
    """(batch, number): added to the logits of attention; -inf removes a token."""


class Transformer(nn.Module):
    """(x_t, t, degraded) -> prediction, 0 everywhere before training, when each block is the identity.

    From the config of networks it reads `unshuffle`, `hint`, `labels`, `recognise` and the numbers of channels.
    Raises ValueError for settings that do not fit together.
    """

    Settings = TransformerSettings

    def __init__(self, config: NetworkConfig, options: TransformerSettings):
        super().__init__()
        widths = [options.channels * 2**level for level in range(len(options.num_blocks))]
        _check(config, options, widths)
        self.config = config
        folded, embedding_channels = config.unshuffle**2, 4 * options.channels

        def blocks(level: int) -> nn.ModuleList:
            number = options.num_blocks[level]
            return nn.ModuleList(Block(widths[level], embedding_channels, options) for _ in range(number))

        levels = range(len(widths) - 1)
        self.conv_in = nn.Conv2d((config.condition_channels + config.image_channels) * folded, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(options.channels, embedding_channels)
        tokens = options.token_channels
        self.null_token = nn.Parameter(torch.randn(tokens) * tokens**-0.5) if tokens else None
        self.weather_embedding = nn.Embedding(len(config.labels), tokens) if config.hint else None
        self.encoder = nn.ModuleList(blocks(level) for level in levels)
        self.downs = nn.ModuleList(nn.Conv2d(widths[i], widths[i] // 2, 3, padding=1) for i in levels)
        self.middle = blocks(-1)
        self.ups = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i + 1] * 2, 3, padding=1) for i in levels)
        self.merges = nn.ModuleList(nn.Conv2d(2 * widths[i], widths[i], 1) for i in levels)
        self.decoder = nn.ModuleList(blocks(level) for level in levels)
        self.conv_out = zeroed(nn.Conv2d(widths[0], config.image_channels * folded, 3, padding=1))
        self.weather_head = WeatherHead(widths, len(config.labels)) if config.recognise else None

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return self.config.unshuffle * 2 ** len(self.downs)

    def forward(
        self,
        x_t: Images,
        t: Timesteps,
        degraded: Images | None,
        weather: Tensor | None = None,
        tokens: Tensor | None = None,
        token_mask: Tensor | None = None,
    ) -> Images:
        """The raw output, float32, in x_t's shape. `degraded` has x_t's size; None if the config has no condition.

        `weather`: rows of `labels.hints`, one for all images or one each, for a config with `hint`. `tokens`: (batch or
        1, number, token_channels), e.g. of a text encoder, of which `token_mask` (batch or 1, number), bool, keeps
        those that are True. Without either, the condition is unknown.

        Raises ValueError for a condition that the network does not take or of another shape, and for a size that is no
        multiple of `size_multiple`.
        """
        condition = self._tokens(x_t.shape[0], weather, tokens, token_mask)
        skips, features, embedding = self._encode(x_t, t, degraded, condition)
        for up, merge, blocks in reversed(list(zip(self.ups, self.merges, self.decoder, strict=True))):
            features = merge(torch.cat([F.pixel_shuffle(up(features), 2), skips.pop()], dim=1))
            features = _through(blocks, features, embedding, condition)  # pyright: ignore[reportArgumentType]
        return F.pixel_shuffle(wide_convolution(self.conv_out, features), self.config.unshuffle)

    def recognise(self, x_t: Images, t: Timesteps, degraded: Images) -> Tensor:
        """Logits of each label for `degraded`, (batch, num_labels), float32, for a config with `recognise`.

        Computed from the features of the network at pure noise, the last t, without a hint. They get no gradient.
        """
        assert self.weather_head is not None, "model.recognise is false"
        with torch.no_grad():
            skips, features, _ = self._encode(x_t, t, degraded, self._tokens(x_t.shape[0], None, None, None))
        return self.weather_head([*skips, features])

    def _encode(
        self, x_t: Images, t: Timesteps, degraded: Images | None, condition: Tokens | None
    ) -> tuple[list[Images], Images, Tensor]:
        """The features of each level but the last, those of the last, and the embedding."""
        check_inputs(self.config, self.size_multiple, x_t, t, degraded)
        features = self.conv_in(stacked(self.config, x_t, degraded, self.conv_in.weight.dtype))
        embedding = F.silu(self.time_embedding(t)).to(features.dtype)
        skips = []
        for blocks, down in zip(self.encoder, self.downs, strict=True):
            skips.append(_through(blocks, features, embedding, condition))  # pyright: ignore[reportArgumentType]
            features = F.pixel_unshuffle(down(skips[-1]), 2)
        return skips, _through(self.middle, features, embedding, condition), embedding

    def _tokens(self, batch: int, weather: Tensor | None, tokens: Tensor | None, mask: Tensor | None) -> Tokens | None:
        """The condition's tokens after the learned one for "unknown", which is always there."""
        if self.null_token is None:
            if tokens is not None:
                raise ValueError("tokens: this network takes none, model.options.token_channels is 0")
            return None
        unknown = self.null_token[None, None]
        if self.weather_embedding is not None and weather is not None:
            tokens, mask = self.weather_embedding.weight[None], weather
        elif tokens is None:
            tokens = unknown[:, :0]
        if tokens.dim() != 3 or tokens.shape[2] != unknown.shape[2]:
            wanted = f"(batch, number, {unknown.shape[2]})"
            raise ValueError(f"tokens must be {wanted}, model.options.token_channels, got {tuple(tokens.shape)}")
        weights = tokens.new_ones(tokens.shape[:2]) if mask is None else mask.to(tokens)
        values = torch.cat([unknown.expand(batch, 1, -1), tokens.to(unknown).expand(batch, -1, -1)], dim=1)
        return Tokens(values, F.pad(weights.expand(batch, -1), (1, 0), value=1).log())


def _through(blocks: Iterable[nn.Module], features: Images, embedding: Tensor, condition: Tokens | None) -> Images:
    for block in blocks:
        features = block(features, embedding, condition)
    return features


class Block(nn.Module):
    """Attention over channels, over the condition's tokens if there are any, and a feed-forward, each added.

    Shift and scale of each norm and the gate of each branch follow from the time: adaLN-Zero (Peebles and Xie, ICCV
    2023, section 3.2). The gates start at zero, so that the block starts as the identity.
    """

    def __init__(self, channels: int, embedding_channels: int, options: TransformerSettings):
        super().__init__()
        self.attention = TransposedAttention(channels, options.head_channels)
        self.cross = CrossAttention(channels, options) if options.token_channels else None
        self.feed_forward = GatedFeedForward(channels, round(channels * options.expansion))
        self.modulation = zeroed(nn.Linear(embedding_channels, (6 if self.cross is None else 9) * channels))

    def forward(self, features: Images, embedding: Tensor, condition: Tokens | None) -> Images:
        """`embedding`: (batch, embedding_channels), SiLU already applied."""
        modulation = self.modulation(embedding)[:, :, None, None].chunk(9 if self.cross is not None else 6, dim=1)
        shift, scale, gate = modulation[:3]
        features = features + gate * self.attention(_modulated(features, shift, scale))
        if self.cross is not None and condition is not None:
            shift, scale, gate = modulation[6:]
            features = features + gate * self.cross(_modulated(features, shift, scale), condition)
        shift, scale, gate = modulation[3:6]
        return features + gate * self.feed_forward(_modulated(features, shift, scale))


def _modulated(features: Images, shift: Tensor, scale: Tensor) -> Images:
    """Layer norm over the channels of each pixel, then shift and scale."""
    normed = F.layer_norm(features.permute(0, 2, 3, 1), features.shape[1:2], eps=NORM_EPSILON).permute(0, 3, 1, 2)
    return torch.addcmul(shift, normed, 1 + scale)


def transposed_attention(query: Tensor, key: Tensor, value: Tensor, temperature: Tensor) -> Tensor:
    """Attention of channels to channels, Zamir et al. (2022), eq. 1: a (channels, channels) map, whatever the size.

    All (batch, heads, channels, pixels); `temperature` (heads, 1, 1) multiplies the cosine of two channels' maps.
    """
    query, key = (F.normalize(widened(maps), dim=-1).to(value.dtype) for maps in (query, key))
    return (query @ key.mT * temperature).softmax(dim=-1).to(value.dtype) @ value


class TransposedAttention(nn.Module):
    """Multi-Dconv head transposed attention: query, key and value by 1x1, then depthwise 3x3 convolutions."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(channels // head_channels, 1, 1))
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Images) -> Images:
        maps = self.depthwise(self.to_qkv(features))
        split = "b (three heads c) h w -> three b heads c (h w)"
        query, key, value = rearrange(maps, split, three=3, heads=len(self.temperature))
        read = transposed_attention(query, key, value, self.temperature)
        return self.to_out(rearrange(read, "b heads c (h w) -> b (heads c) h w", h=features.shape[2]))


class CrossAttention(nn.Module):
    """Each pixel reads the condition's tokens, Vaswani et al. (2017), eq. 1: linear in pixels, too."""

    def __init__(self, channels: int, options: TransformerSettings):
        super().__init__()
        self.num_heads = channels // options.head_channels
        self.to_q = nn.Conv2d(channels, channels, 1, bias=False)
        self.to_kv = nn.Linear(options.token_channels, 2 * channels, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Images, condition: Tokens) -> Images:
        query = rearrange(self.to_q(features), "b (heads c) h w -> b heads (h w) c", heads=self.num_heads)
        projected = self.to_kv(condition.values)
        key, value = rearrange(projected, "b n (two heads c) -> two b heads n c", two=2, heads=self.num_heads)
        bias = condition.log_weights[:, None, None].to(query.dtype)
        read = F.scaled_dot_product_attention(query, key.to(query.dtype), value.to(query.dtype), attn_mask=bias)
        return self.to_out(rearrange(read, "b heads (h w) c -> b (heads c) h w", h=features.shape[2]))


class GatedFeedForward(nn.Module):
    """Gated depthwise-convolution feed-forward, Zamir et al. (2022), eq. 2: GELU of one half gates the other."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.to_hidden = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.to_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, features: Images) -> Images:
        gate, hidden = self.depthwise(self.to_hidden(features)).chunk(2, dim=1)
        return self.to_out(F.gelu(gate) * hidden)


def _check(config: NetworkConfig, options: TransformerSettings, widths: list[int]) -> None:
    if widths[0] % options.head_channels:
        raise ValueError(f"options.head_channels={options.head_channels} must divide options.channels={widths[0]}")
    if config.hint and not options.token_channels:
        raise ValueError("hint=true needs options.token_channels above 0: the hint is read by cross-attention")
    check_labels(config)
