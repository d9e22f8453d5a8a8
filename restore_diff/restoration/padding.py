"""Growing images to the size that a network takes, and cutting them back."""

import torch
from torch import Tensor

from restore_diff.tensors import Images


def pad_to(images: Images, height: int, width: int) -> Images:
    """Grow at the bottom and at the right by mirroring, without repeating the edge, as often as it takes.

    A side of 1 px has nothing to mirror and is repeated. ValueError when the images are larger already.
    """
    if height < images.shape[-2] or width < images.shape[-1]:
        raise ValueError(f"cannot pad {images.shape[-2]} x {images.shape[-1]} to the smaller {height} x {width}")
    rows = _mirrored(images.shape[-2], height, images.device)
    columns = _mirrored(images.shape[-1], width, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


def crop_to(images: Images, height: int, width: int) -> Images:
    """Undo `pad_to`."""
    return images[..., :height, :width]


def _mirrored(old: int, new: int, device: torch.device) -> Tensor:
    """(new,) int64: 0 1 .. old-1 old-2 .. 1 0 1 .."""
    period = max(2 * (old - 1), 1)
    phase = torch.arange(new, device=device) % period
    return torch.minimum(phase, period - phase) if old > 1 else phase
