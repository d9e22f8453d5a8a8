"""Zero-shot restoration: from a file to the measured image that the guidance of an unconditional network expects."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from restore_diff.data.images import read_image, scan_files
from restore_diff.data.names import ImageError
from restore_diff.diffusion.operators import Colorize, Inpaint, SuperResolve, operator_of
from restore_diff.errors import UserError
from restore_diff.files import printable
from restore_diff.restoration.restorer import MAX_PIXELS_IN_ONE_PIECE
from restore_diff.tensors import Images


class MaskError(UserError):
    """A mask that cannot be used, or that does not fit an image."""


def preparation(task: str) -> Callable[[Images], Images]:
    """The function from an image in [0, 1] to the measured image of a task such as "inpaint:mask.png".

    Inpainting: NaN where the mask is white; without a file, the image has NaN already. Super-resolution: enlarged, each
    pixel a square. Colours: the luma in each channel. Else unchanged. Raises ValueError for an unknown task, MaskError
    for a mask that is missing or not black and white; the function, for an image that does not fit.
    """
    operator = operator_of(task)
    if isinstance(operator, Inpaint) and operator.mask:
        return _Masking(Path(operator.mask))
    if isinstance(operator, SuperResolve):
        return lambda images: _enlarged(images, operator.factor)
    if isinstance(operator, Colorize):
        return lambda images: torch.einsum("bchw,c->bhw", images, images.new_tensor(operator.LUMA))[:, None].repeat(
            1, 3, 1, 1
        )
    return lambda images: images


def require_mask_fits(task: str, files: Iterable[Path]) -> None:
    """Raise MaskError if the task has a mask, and a file another size; files that cannot be read are skipped."""
    operator = operator_of(task)
    if isinstance(operator, Inpaint) and operator.mask:
        masking = _Masking(Path(operator.mask))
        for path, size in scan_files(files, is_suspect=lambda path: False).sizes.items():
            masking.require_fits(size, f"{printable(path)} is")


class _Masking:
    """NaN where a mask is white."""

    def __init__(self, path: Path):
        try:
            pixels = read_image(path).pixels
        except ImageError as error:
            raise MaskError(f"mask {error}") from error
        self.name, self.mask = printable(path), pixels[0] > 0.5
        if not bool(((pixels == 0) | (pixels == 1)).all()) or not bool((pixels == pixels[:1]).all()):
            rule = "a mask is black (keep) and white (fill in) only"
            raise MaskError(f"mask {self.name}: {rule}; save it as PNG, without grey edges or JPEG")
        if not bool(self.mask.any()):
            raise MaskError(f"mask {self.name}: nothing to fill in, no pixel is white")

    def require_fits(self, size: tuple[int, ...], what: str) -> None:
        height, width = self.mask.shape
        if size != (height, width):
            raise MaskError(f"mask {self.name} is {width}x{height}, but {what} {size[1]}x{size[0]}: give both one size")

    def __call__(self, images: Images) -> Images:
        self.require_fits(tuple(images.shape[-2:]), "the image is")
        return images.masked_fill(self.mask.to(images.device), torch.nan)


def _enlarged(images: Images, factor: int) -> Images:
    height, width = (side * factor for side in images.shape[-2:])
    if height * width > MAX_PIXELS_IN_ONE_PIECE:  # bands could cut the squares
        limit = f"the limit is {MAX_PIXELS_IN_ONE_PIECE:,} pixels; restore parts of it"
        raise ValueError(f"sr:{factor} would enlarge the image to {width}x{height}, {limit}")
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
