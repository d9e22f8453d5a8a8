"""Which pixels a leaning stroke may touch: many strokes at once, each in the picture that it is painted on."""

import torch
from torch import Tensor


def pixels_in_reach(
    x: Tensor, y: Tensor, tilt: Tensor, half_height: Tensor, half_width: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """List each pixel in reach of each stroke: (index of the stroke, row, column), stroke by stroke, row by row.

    A stroke covers the rows within `half_height` of its middle (x, y), and of each row the columns within `half_width`
    of its axis, which leans by `tilt` (radians, less than a quarter turn; positive: the lower end to the right).
    """
    stroke, row = _ranges(y - half_height, y + half_height, height)
    x, y, slope, reach = spread(stroke, x, y, tilt.tan(), half_width)
    middle = x + (row - y) * slope
    line, column = _ranges(middle - reach, middle + reach, width)
    stroke, row = spread(line, stroke, row)
    return stroke, row, column


def spread(index: Tensor, *values: Tensor) -> list[Tensor]:
    """`value[index]` of each, much faster on a CPU."""
    return [value.index_select(0, index) for value in values]


def _ranges(first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Whole numbers from first[i] to last[i] that lie in 0 .. size - 1, all i one after another: (i, number)."""
    start = first.ceil().clamp(min=0).long()
    count = (last.floor().clamp(max=size - 1).long() - start + 1).clamp(min=0)
    index = torch.repeat_interleave(count)
    skipped = count.cumsum(0) - count
    return index, torch.arange(len(index), device=first.device) + (start - skipped).index_select(0, index)
