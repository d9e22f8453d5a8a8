"""What Pillow does not do for TIFF files: write 16 bits per sample in colour."""

import io
import zlib

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

SUBDIRECTORIES = (34665, 34853)
"""EXIF and GPS."""


def encode(samples: Tensor, exif: bytes, icc_profile: bytes) -> bytes:
    """The file that holds `samples` (C,H,W), integers in 0..65535: one strip, deflated. Tags: Adobe TIFF 6.0.

    C: 1 grey, 3 RGB, 4 RGB + alpha.
    """
    channels, height, width = samples.shape
    pixels = samples.permute(1, 2, 0).numpy().astype("<u2")
    differences = pixels.copy()  # predictor 2: each sample less the same one of the pixel to the left
    differences[:, 1:] -= pixels[:, :-1]
    strip = zlib.compress(differences.tobytes())
    directory = ImageFileDirectory_v2()
    block = Image.Exif()
    block.load(exif)
    for tag in block:
        directory[tag] = block.get_ifd(tag) if tag in SUBDIRECTORIES else block[tag]
    tags: dict[int, object] = {
        256: width,
        257: height,
        258: (16,) * channels,  # bits per sample
        259: 8,  # deflate
        262: 1 if channels == 1 else 2,  # grey, RGB
        273: (0,),  # where the strip starts: after this directory, as `save` fills in
        277: channels,
        278: height,  # rows per strip
        279: (len(strip),),
        284: 1,  # samples of a pixel lie together
        317: 2,  # predictor
    }
    if channels == 4:
        tags[338] = (2,)  # the fourth is alpha, by which the others are not multiplied
    if icc_profile:
        tags[34675] = icc_profile
    for tag, value in tags.items():
        directory[tag] = value
    file = io.BytesIO()
    directory.save(file)
    return file.getvalue() + strip
