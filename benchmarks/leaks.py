"""Recall of changed pictures: python benchmarks/leaks.py FOLDER [--against FOLDER ...]

Change each photograph of FOLDER in many ways, search for the results among the originals, and print the recall and the
number of wrong matches. The folders of --against must hold other pictures, so that every match there is wrong.
"""

import argparse
import io
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.leaks import Fingerprint, find_matches, fingerprint
from restore_diff.data.names import list_images

TURNS = {
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "upside down": Image.Transpose.FLIP_TOP_BOTTOM,
    "quarter turn": Image.Transpose.ROTATE_90,
    "half turn": Image.Transpose.ROTATE_180,
    "transposed": Image.Transpose.TRANSPOSE,
}


def changes(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """(name, changed picture)"""
    yield "unchanged", image
    for border in (4, 8, 12, 16):
        yield f"crop of {border} px", cropped(image, border)
    yield "corner of 8 px", image.crop((8, 8, image.width, image.height))
    for name, turn in TURNS.items():
        yield name, image.transpose(turn)
    for factor in (0.5, 0.75, 1.5, 2.0):
        yield f"size x {factor}", scaled(image, factor)
    yield "256 x 256", image.resize((256, 256), Image.Resampling.BICUBIC)
    for quality in (40, 50):
        yield f"JPEG {quality}", compressed(image, quality)
    for gamma in (0.8, 1.25):
        yield f"gamma {gamma}", with_gamma(image, gamma)
    turned = scaled(ImageOps.mirror(cropped(image, 8)), 0.75).transpose(Image.Transpose.ROTATE_90)
    yield "all at once", compressed(with_gamma(turned, 0.9), 60)


def cropped(image: Image.Image, border: int) -> Image.Image:
    return image.crop((border, border, image.width - border, image.height - border))


def scaled(image: Image.Image, factor: float) -> Image.Image:
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def with_gamma(image: Image.Image, gamma: float) -> Image.Image:
    return image.point([round(255 * (level / 255) ** gamma) for level in range(256)] * 3)


def read(folder: Path) -> Iterator[Image.Image]:
    for path in list_images(folder).values():
        yield Image.fromarray(read_rgb_uint8(path).permute(1, 2, 0).numpy())


def fingerprints(images: Iterable[Image.Image]) -> list[Fingerprint]:
    return [fingerprint(np.asarray(image)) for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    originals: list[Fingerprint] = []
    changed: dict[str, list[Fingerprint]] = {}
    for image in read(args.folder):
        originals += fingerprints([image])
        for name, result in changes(image):
            changed.setdefault(name, []).extend(fingerprints([result]))
    started = time.perf_counter()
    for name, prints in changed.items():
        matches = find_matches(originals, prints)
        found = [match for match in matches if match.first == match.second and match.kind != "same scene"]
        lowest = min((match.similarity for match in found), default=0)
        false = sum(match.first != match.second for match in matches)
        print(f"{name:15} found {len(found)} of {len(prints)}, similarity >= {lowest:.2f}, others matched: {false}")
    for folder in args.against:
        others = fingerprints(read(folder))
        num = len(find_matches(originals, others))
        print(f"{folder.name}: {num} matches of {len(originals)} x {len(others)} pictures")
    print(f"matched in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
