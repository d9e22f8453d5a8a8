"""Image files of a folder, and pairs of degraded and clean images matched by name."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from restore_diff.data.formats import HEAD_BYTES, recognise
from restore_diff.errors import UserError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".qoi", ".tga"),
)
"""Endings of images in data sets. Formats that only some installations read are left out."""
MAX_NAMED = 10
"""Files that a message lists by name; the others are counted."""


class DataError(UserError):
    """A data set that cannot be used as it is on the disk. The message is one line, with what to do."""


class ImageError(UserError):
    """An image file that cannot be read or written. The message has one line: the path and what to do."""


def is_image(path: Path) -> bool:
    """Return whether a regular file begins like a picture of an accepted format; its name does not matter."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        content = recognise(file.read(HEAD_BYTES))
    return content is not None and not content.advice


def list_images(folder: Path, recursive: bool = True) -> dict[str, Path]:
    """Return the images below a folder by relative name without suffix ("sub/001"), sorted by name.

    An image is recognised by suffix or content; hidden files are ignored. DataError for no image or a repeated name.
    """
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if recursive and not name.startswith((".", "__MACOSX"))]
        files += [Path(parent) / name for name in names if not name.startswith(".")]
    files = sorted(path for path in files if path.is_file())
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
    """Return `a, b, ... and 3 more`: the first names and the number of the others."""
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown}, ... and {len(names) - MAX_NAMED} more"


Key = Callable[[str], str | None]
"""Name of an image without suffix -> part shared with its partner; None if the image is not in the data set."""

DEGRADED_WORDS = (
    *("degraded", "input", "in", "lq", "rain", "rainy", "raindrop", "drop", "haze", "hazy", "snow", "snowy"),
    *("blur", "blurry"),
)
CLEAN_WORDS = ("clean", "clear", "target", "gt", "groundtruth", "hq", "sharp", "norain", "nohaze", "nosnow")
DEGRADED_FOLDERS = (
    *("input", "inputs", "in", "degraded", "lq", "low", "noisy", "data", "synthetic", "rain", "rainy", "rainy_image"),
    *("raindrop", "drop", "hazy", "haze", "snow", "snowy", "blur", "blurry"),
)
CLEAN_FOLDERS = (
    *("target", "targets", "clean", "clear", "gt", "groundtruth", "ground_truth", "hq", "high", "sharp"),
    *("norain", "nohaze", "nosnow"),
)


class PairPath(NamedTuple):
    """The files of a pair; `degraded` is None if the degraded image is to be rendered."""

    degraded: Path | None
    clean: Path
    name: str
    """Unique in the data set: relative path of the degraded file without suffix."""
    weather: str | None = None
    """Weather to render on the clean image, None: as in the config; in unconditional training: the image's label."""
    part: int = 0
    """Index of its part in a joined data set."""


class Matches(NamedTuple):
    pairs: list[PairPath]
    without_clean: list[str]
    without_degraded: list[str]


def match_by_ids(degraded: Mapping[str, Path], clean: Mapping[str, Path], degraded_id: str, clean_id: str) -> Matches:
    """Pair by regular expressions with a group `id`; names that do not match in full are ignored."""
    return _match(degraded, clean, _id_key(degraded_id), _id_key(clean_id))


def match_by_habit(degraded: Mapping[str, Path], clean: Mapping[str, Path]) -> Matches:
    """Pair by the first naming convention under which every image has a partner, else by equal names.

    Conventions: the same name (001, 001); a word before or after it (rain-001, norain-001; 0_rain, 0_clean); several
    degraded images of one clean image, with a suffix after an underscore (1400_3, 1400).
    """
    same_names = _match(degraded, clean, _same, _same)
    if _is_complete(same_names):
        return same_names
    names, bare_names = set(clean), {_bare_clean(name) for name in clean}
    conventions: list[tuple[Key, Key]] = [
        (lambda name: _known_start(name, names), _same),  # first, because a word may be part of the name itself
        (lambda name: _strip(name, DEGRADED_WORDS), _bare_clean),
        (lambda name: _known_start(_strip(name, DEGRADED_WORDS), bare_names), _bare_clean),
    ]
    for degraded_key, clean_key in conventions:
        with contextlib.suppress(DataError):  # two clean images with one key: not this convention
            matches = _match(degraded, clean, degraded_key, clean_key)
            if _is_complete(matches):
                return matches
    return same_names


def require_all(matches: Matches, degraded_folder: Path, clean_folder: Path) -> list[PairPath]:
    """Return the pairs; DataError that names the images without partner, if there are any."""
    problems = []
    if matches.without_clean:
        count, names = len(matches.without_clean), first_names(matches.without_clean)
        problems.append(f"{count} degraded images have no clean partner ({names})")
    if matches.without_degraded:
        count, names = len(matches.without_degraded), first_names(matches.without_degraded)
        problems.append(f"{count} clean images have no degraded partner ({names})")
    if problems or not matches.pairs:
        found = "; ".join(problems) or "no name fits the rule of the card"
        raise DataError(f"{degraded_folder} and {clean_folder} do not pair up: {found}")
    return matches.pairs


def side_and_name(file: str) -> tuple[Literal["degraded", "clean"] | None, str]:
    """Return the side of KEY.clean.png (last word) or clean/KEY.png (innermost folder with such a name), and KEY."""
    *folders, last = Path(file).with_suffix("").as_posix().split("/")
    stem, dot, word = last.rpartition(".")
    if dot and (side := side_of(word)):
        return side, "/".join([*folders, stem])
    for at in reversed(range(len(folders))):
        if side := side_of(folders[at]):
            return side, "/".join([*folders[:at], *folders[at + 1 :], last])
    return None, "/".join([*folders, last])


def side_of(word: str) -> Literal["degraded", "clean"] | None:
    """Return the side that a folder's name stands for, in any case, also with _crops behind it; None: unknown."""
    word = word.lower().removesuffix("_crops")
    return "degraded" if word in DEGRADED_FOLDERS else "clean" if word in CLEAN_FOLDERS else None


def _match(degraded: Mapping[str, Path], clean: Mapping[str, Path], degraded_key: Key, clean_key: Key) -> Matches:
    clean_by_key: dict[str, str] = {}
    for name in clean:
        key = clean_key(name)
        if key is None:
            continue
        if key in clean_by_key:
            both = f"{clean[clean_by_key[key]].name} and {clean[name].name}"
            raise DataError(f"{clean[name].parent}: {both} are both the clean image of {key!r}; keep one of them")
        clean_by_key[key] = name
    pairs, without_clean, used = [], [], set()
    for name, path in degraded.items():
        key = degraded_key(name)
        if key is not None and key in clean_by_key:
            used.add(key)
            pairs.append(PairPath(path, clean[clean_by_key[key]], name))
        elif key is not None:
            without_clean.append(name)
    return Matches(pairs, without_clean, [name for key, name in clean_by_key.items() if key not in used])


def _is_complete(matches: Matches) -> bool:
    return not matches.without_clean and not matches.without_degraded


def _same(name: str) -> str:
    return name


def _bare_clean(name: str) -> str:
    return _strip(name, CLEAN_WORDS)


def _id_key(pattern: str) -> Key:
    compiled = re.compile(pattern)

    def key(name: str) -> str | None:
        match = compiled.fullmatch(name)
        return match["id"] if match else None

    return key


def _strip(name: str, words: tuple[str, ...]) -> str:
    """Return the name without one of the words before or after a separator; its folders stay."""
    folder, slash, stem = name.rpartition("/")
    any_word = "|".join(words)
    return folder + slash + re.sub(rf"^(?:{any_word})[-_ ]+(?=.)|(?<=.)[-_ ]+(?:{any_word})$", "", stem, flags=re.I)


def _known_start(name: str, known: set[str]) -> str:
    """Return the longest known name that `name` extends after an underscore; else `name`_, which has no partner."""
    start, underscore, _ = name.rpartition("_")
    while underscore and start not in known:
        start, underscore, _ = start.rpartition("_")
    return start if underscore else f"{name}_"
