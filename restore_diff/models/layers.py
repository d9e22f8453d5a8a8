"""The layers of the U-Net of Ho et al. (2020), named as in diffusers' UNet2DModel, so that weights move by copying."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from restore_diff.settings import NetworkConfig
from restore_diff.tensors import Images, Timesteps

NORM_EPSILON = 1e-6  # Ho et al.'s; diffusers' default is 1e-5

Layer = TypeVar("Layer", bound="nn.Conv2d | nn.Linear")


def zeroed(layer: Layer) -> Layer:
    """Set the weights to zero, so that the branch that ends here starts as nothing added."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it has that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def wide_linear(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """The output of a linear layer, in float32 under any autocast and for any dtype of its weights."""
    weight, bias = widened(layer.weight), None if layer.bias is None else widened(layer.bias)
    with torch.autocast(inputs.device.type, enabled=False):
        return F.linear(inputs.to(weight.dtype), weight, bias)


def wide_convolution(layer: nn.Conv2d, features: Images) -> Images:
    """The output of a 3x3 convolution, in float32 under any autocast and for any dtype of its weights."""
    weight, bias = widened(layer.weight), None if layer.bias is None else widened(layer.bias)
    with torch.autocast(features.device.type, enabled=False):
        return F.conv2d(widened(features), weight, bias, padding=1)


def sinusoids(t: Timesteps, num_channels: int) -> Tensor:
    """(batch, num_channels) float32: sines, then cosines, at frequencies 1 to 1/10000; Vaswani et al. (2017), 3.5."""
    half = num_channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / (half - 1)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * exponents)  # (batch, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def check_labels(config: NetworkConfig) -> None:
    """Raise ValueError for labels that a hint cannot hold, and for detection without a hint."""
    if config.recognise and not config.hint:
        raise ValueError("recognise=true needs hint=true: the detected weather becomes the hint")
    if config.labels[0] != "none":
        raise ValueError(f"labels must begin with none, got {', '.join(config.labels)}")


def check_inputs(config: NetworkConfig, size_multiple: int, x_t: Images, t: Timesteps, degraded: Images | None) -> None:
    """Raise ValueError for a condition that is missing, superfluous or of another shape, and for a wrong size."""
    batch, channels, height, width = x_t.shape
    given = 0 if degraded is None else degraded.shape[1]
    if (channels, given) != (config.image_channels, config.condition_channels):
        wanted = f"{config.image_channels} and {config.condition_channels}"
        raise ValueError(f"x_t and degraded must have {wanted} channels, got {channels} and {given}")
    if degraded is not None and (degraded.shape[0], *degraded.shape[2:]) != (batch, height, width):
        raise ValueError(f"degraded must match x_t {tuple(x_t.shape)}, got {tuple(degraded.shape)}")
    if t.shape != (batch,):
        raise ValueError(f"t must have one entry per image, ({batch},), got {tuple(t.shape)}")
    if height % size_multiple or width % size_multiple:
        raise ValueError(f"height and width must be multiples of {size_multiple}, got {height} x {width}")


def stacked(config: NetworkConfig, x_t: Images, degraded: Images | None, dtype: torch.dtype) -> Images:
    """cat([degraded, x_t]) with space folded into channels by `unshuffle`: the input of the first convolution."""
    images = x_t if degraded is None else torch.cat([degraded, x_t], dim=1)
    return F.pixel_unshuffle(images.to(dtype), config.unshuffle)


class TimeEmbedding(nn.Module):
    """Two linear layers over the sinusoids of t, in float32 under any autocast and for any dtype of weights."""

    def __init__(self, num_channels: int, embedding_channels: int):
        super().__init__()
        self.linear_1 = nn.Linear(num_channels, embedding_channels)
        self.linear_2 = nn.Linear(embedding_channels, embedding_channels)

    def forward(self, t: Timesteps) -> Tensor:
        """(batch, embedding_channels), float32."""
        hidden = wide_linear(self.linear_1, sinusoids(t, self.linear_1.in_features))
        return wide_linear(self.linear_2, F.silu(hidden))


class WeatherEmbedding(nn.Linear):
    """Weather hints, rows of `labels.hints`, to a vector added to the embedding of t; 0 before training."""

    def __init__(self, num_labels: int, embedding_channels: int):
        super().__init__(num_labels, embedding_channels, bias=False)
        zeroed(self)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, embedding_channels), in float32 as the embedding of t is."""
        return wide_linear(self, input)


class WeatherHead(nn.Module):
    """Features of several layers to logits of the labels, from their means and deviations over the image.

    The statistics of each layer are normalised separately, so that all layers have equal weight.
    """

    def __init__(self, widths: list[int], num_labels: int, hidden_channels: int = 64):
        super().__init__()
        self.hidden = nn.Linear(2 * sum(widths), hidden_channels)
        self.out = zeroed(nn.Linear(hidden_channels, num_labels))

    def forward(self, features: list[Images]) -> Tensor:
        """(batch, num_labels), in float32 under any autocast."""
        wide = [widened(layer).flatten(2) for layer in features]
        pooled = [part for layer in wide for part in (layer.mean(2), layer.std(2, correction=0))]
        normed = torch.cat([F.layer_norm(part, part.shape[1:]) for part in pooled], dim=1)
        return wide_linear(self.out, F.silu(wide_linear(self.hidden, normed)))


class ResidualBlock(nn.Module):
    """(norm, SiLU, convolution) twice, time added in between, around a shortcut. The shortcut alone before training."""

    def __init__(self, in_channels: int, out_channels: int, embedding_channels: int, num_groups: int, dropout: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels, NORM_EPSILON)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding_channels, out_channels)
        self.norm2 = nn.GroupNorm(num_groups, out_channels, NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        changes = in_channels != out_channels
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, features: Images, embedding: Tensor) -> Images:
        """`embedding`: (batch, embedding_channels), SiLU already applied."""
        hidden = self.conv1(F.silu(self.norm1(features)))
        hidden = hidden + self.time_emb_proj(embedding)[:, :, None, None]
        hidden = self.conv2(self.dropout(F.silu(self.norm2(hidden))))
        return self.conv_shortcut(features) + hidden


class SelfAttention(nn.Module):
    """Each position reads all others; scaled dot product, Vaswani et al. (2017), eq. 1. Starts as the identity."""

    def __init__(self, num_channels: int, head_channels: int, num_groups: int):
        super().__init__()
        self.num_heads = num_channels // (head_channels or num_channels)
        self.group_norm = nn.GroupNorm(num_groups, num_channels, NORM_EPSILON)
        self.to_q = nn.Linear(num_channels, num_channels)
        self.to_k = nn.Linear(num_channels, num_channels)
        self.to_v = nn.Linear(num_channels, num_channels)
        self.to_out = nn.ModuleList([zeroed(nn.Linear(num_channels, num_channels))])

    def forward(self, features: Images) -> Images:
        """(batch, channels, height, width) in and out."""
        tokens = rearrange(self.group_norm(features), "b c h w -> b (h w) c")
        query, key, value = (
            rearrange(project(tokens), "b n (heads d) -> b heads n d", heads=self.num_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        read = F.scaled_dot_product_attention(query, key, value)
        read = self.to_out[0](rearrange(read, "b heads n d -> b n (heads d)"))
        return features + rearrange(read, "b (h w) c -> b c h w", h=features.shape[2])


class Downsample(nn.Module):
    """Half the size by a convolution of stride 2."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(num_channels, num_channels, 3, stride=2)

    def forward(self, features: Images) -> Images:
        return self.conv(F.pad(features, (0, 1, 0, 1)))  # right and bottom only, as Ho et al. (TensorFlow's "SAME")


class Upsample(nn.Module):
    """Twice the size by repeating pixels, then a convolution."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(num_channels, num_channels, 3, padding=1)

    def forward(self, features: Images) -> Images:
        return self.conv(F.interpolate(features, scale_factor=2, mode="nearest"))
