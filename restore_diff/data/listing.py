"""Which files of a folder are its images."""

import os
from collections.abc import Sequence
from pathlib import Path

from restore_diff.data.errors import DataError
from restore_diff.data.formats import SUFFIXES, is_image

NUM_NAMED = 10
"""Files that a message names before it goes on to count."""


def list_images(folder: Path, recursive: bool = True) -> dict[str, Path]:
    """The images below a folder by relative name without suffix ("sub/001"), sorted by it; hidden files are ignored.

    A file counts by its suffix or its content. DataError when there is none, or when two have the same name.
    """
    files = _visible_files(folder, recursive)
    images: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() not in SUFFIXES and not is_image(path):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in images:
            raise DataError(f"{folder}: {images[stem].name} and {path.name} have the same name; keep one of them")
        images[stem] = path
    if not images:
        raise DataError(f"0 images under {folder} (found {len(files)} files; accepted: {', '.join(SUFFIXES)})")
    return dict(sorted(images.items()))


def first_names(names: Sequence[str]) -> str:
    """`a, b, ... and 3 more`: the first names and how many there are beyond."""
    shown = ", ".join(names[:NUM_NAMED])
    return shown if len(names) <= NUM_NAMED else f"{shown}, ... and {len(names) - NUM_NAMED} more"


def _visible_files(folder: Path, recursive: bool) -> list[Path]:
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if recursive and not name.startswith((".", "__MACOSX"))]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    return [path for path in sorted(found) if path.is_file()]
