"""3x3 convolutions by F(4x4, 3x3) of Winograd (1980), as Lavin and Gray (2016, arXiv 1509.09308) put it.

A tile of 4x4 outputs depends on 6x6 inputs d and the 3x3 weights g: A^T ((G g G^T) * (B^T d B)) A takes 36 products for
each pair of channels where the sum itself takes 144. Transforming tiles is bound by memory, so it pays for wide layers
alone. In float32 the result is off by one to two millionths of its standard deviation, about twice as far as the sum.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from restore_diff.tensors import Images

TILE = 4  # outputs of a tile along an axis
READ = 6  # inputs that they depend on
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Of interpolation, infinity apart. With the usual 0, 1, -1, 2, -2 the error is twice as large."""

LEAST_CHANNELS, LEAST_TILES = 128, 64
"""About from where on it takes less time than the sum: fewer tiles do not pay for transforming the weights."""
PART_BYTES = 8_000_000
"""Of transformed tiles at once: they stay in the caches."""


def pays(features: Images, weight: Tensor) -> bool:
    """Whether `convolution` is the faster one here: in float32 on a CPU, for whole tiles and wide layers."""
    batch, channels, height, width = features.shape
    return (
        features.device.type == "cpu"
        and features.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and height % TILE == width % TILE == 0
        and min(channels, len(weight)) >= LEAST_CHANNELS
        and batch * height * width >= LEAST_TILES * TILE**2
    )


def convolution(features: Images, weight: Tensor, bias: Tensor) -> Images:
    """`F.conv2d(features, weight, bias, padding=1)`, channels last, for heights and widths that are multiples of 4."""
    return _Convolution.apply(features, weight, bias)  # type: ignore[no-any-return]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Images, weight: Tensor, bias: Tensor) -> Images:
        """Part by part; the transformed inputs of the parts are kept for the way back."""
        batch, channels, height, width = ctx.shape = features.shape
        to_outputs, to_products, _ = _transforms(features.dtype)
        weights = _transformed(weight).transpose(1, 2)  # (36, in, out)
        tiles = _tiles(_padded(features))
        result = features.new_empty(batch, height, width, len(weight))
        kept = []
        for part in _parts(features.shape, len(weight)):
            read = (to_products @ tiles[:, :, *part].reshape(READ**2, -1)).view(READ**2, -1, channels)
            products = torch.bmm(read, weights)  # (36, tiles, out)
            sums = torch.addmm(bias.repeat(products.shape[1]), to_outputs, products.view(READ**2, -1))
            into = _in_tiles(result)[:, :, *part]
            into.copy_(sums.view(into.shape))
            kept.append(read)
        ctx.save_for_backward(weight, *kept)
        return result.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Images) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The adjoints of the linear maps of the forward pass, in reverse."""
        weight, *kept = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        to_outputs, to_products, to_weights = _transforms(weight.dtype)
        weights = _transformed(weight)  # (36, out, in)
        of_weights = torch.empty_like(weights)
        of_padded = weight.new_empty(batch, height + 2, width + 2, channels)
        of_padded[:, -2:] = 0
        of_padded[:, :, -2:] = 0
        above, below = _in_tiles(grad_outputs[0].permute(0, 2, 3, 1).contiguous()), _tiles(of_padded)
        parts = _parts(ctx.shape, len(weight))
        for number in reversed(range(len(parts))):  # upwards, as `_fold` needs it
            of_sums = above[:, :, *parts[number]].reshape(TILE**2, -1)
            of_products = (to_outputs.t() @ of_sums).view(READ**2, -1, len(weight))
            is_first = number == len(parts) - 1
            of_weights.baddbmm_(of_products.transpose(1, 2), kept[number], beta=0 if is_first else 1)
            of_read = to_products.t() @ torch.bmm(of_products, weights).view(READ**2, -1)
            _fold(of_read, below[:, :, *parts[number]])
        of_weight = (to_weights.t() @ of_weights.view(READ**2, -1)).t().reshape(weight.shape)
        return of_padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2), of_weight, grad_outputs[0].sum((0, 2, 3))


def _padded(features: Images) -> Tensor:
    """(batch, height + 2, width + 2, channels), zeros around."""
    batch, channels, height, width = features.shape
    padded = features.new_empty(batch, height + 2, width + 2, channels)
    padded[:, :: height + 1] = 0
    padded[:, :, :: width + 1] = 0
    padded[:, 1:-1, 1:-1] = features.permute(0, 2, 3, 1)
    return padded


def _fold(of_read: Tensor, tiles: Tensor) -> None:
    """Put each tile's part to where `_tiles` has it from, added where it overlaps the tiles below and to the right."""
    of_read = of_read.view(tiles.shape)
    near, far = slice(0, TILE), slice(TILE, READ)
    tiles[near, near] = of_read[near, near]
    for down, across in ((near, far), (far, near), (far, far)):
        tiles[down, across] += of_read[down, across]


def _tiles(padded: Tensor) -> Tensor:
    """(6, 6, batch, rows, columns, channels): what each tile reads, a view in which neighbours overlap."""
    batch, height, width, channels = padded.shape
    image, line, place, _ = padded.stride()
    size = (READ, READ, batch, height // TILE, width // TILE, channels)
    return padded.as_strided(size, (line, place, image, TILE * line, TILE * place, 1))


def _in_tiles(images: Tensor) -> Tensor:
    """(batch, height, width, channels) as (4, 4, batch, rows, columns, channels), a view."""
    tiles = images.unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE))
    return tiles.permute(2, 4, 0, 1, 3, 5)


def _parts(shape: torch.Size, out_channels: int) -> list[tuple[slice, slice]]:
    """Images, and rows of their tiles, that are worked on at once."""
    batch, in_channels, height, width = shape
    rows = height // TILE
    num_rows = max(1, PART_BYTES // (4 * READ**2 * (width // TILE) * max(in_channels, out_channels)))
    num_images, num_rows = max(1, num_rows // rows), min(num_rows, rows)
    starts = product(range(0, batch, num_images), range(0, rows, num_rows))
    return [(slice(image, image + num_images), slice(row, row + num_rows)) for image, row in starts]


def _transformed(weight: Tensor) -> Tensor:
    """(36, out, in), of weights (out, in, 3, 3)."""
    return (_transforms(weight.dtype)[2] @ weight.reshape(-1, 9).t()).view(READ**2, *weight.shape[:2])


@cache
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A^T, B^T and G, each for both axes at once: (16, 36), (36, 36) and (36, 9)."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    outputs, inputs, weights = (points.new_zeros(shape) for shape in ((TILE, READ), (READ, READ), (READ, 3)))
    for place, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        outputs[:, place] = points[place] ** torch.arange(TILE)
        inputs[place, :-1] = _polynomial(others)
        weights[place] = points[place] ** torch.arange(3) / prod(point - other for other in others)
    outputs[-1, -1] = weights[-1, -1] = 1
    inputs[-1] = _polynomial(POINTS)
    both = [torch.kron(matrix, matrix).to(dtype) for matrix in (outputs, inputs, weights)]
    return both[0], both[1], both[2]


def _polynomial(roots: Sequence[float]) -> Tensor:
    """Coefficients of the product of (x - root), from that of 1 on."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients
