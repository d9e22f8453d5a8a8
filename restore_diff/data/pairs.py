"""The pairs of a data set: found by name, checked, held out for validation. Does not import torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from restore_diff.data.archive import images_in_zips, num_bytes, open_file, zips_in
from restore_diff.data.cards import (
    CardConfig,
    LayoutConfig,
    PartConfig,
    SplitConfig,
    find_cards,
    folder_of,
    load_card,
    nearest_cards,
)
from restore_diff.data.names import (
    SUFFIXES,
    DataError,
    PairPath,
    first_names,
    list_images,
    match_by_habit,
    match_by_ids,
    require_all,
    side_and_name,
    side_of,
)
from restore_diff.files import printable

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "test"]
Sizes = Mapping[Path, tuple[int, int]]
"""(height, width) of each file that can be read."""
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "train_set"),
    "test": ("test", "testing", "test_set", "val", "valid", "validation"),
}
"""Folders of a split inside that of a data set, in any case; the first one that exists is used."""
MOST_CROPPED_PX = 8
"""Sides that differ by more are not those of one picture with its border cut off."""


class NotOnDisk(DataError):
    """No folder of the data set exists."""


@dataclass(frozen=True)
class PairList:
    """The images of one split of a data set; `pairs` is never empty."""

    name: str
    pairs: tuple[PairPath, ...]
    protocols: tuple[str, ...] = ()
    """Metric protocols of its published results; empty if unknown."""
    notes: tuple[str, ...] = ()
    """Cautions to print: counts that differ, known leaks."""
    weights: tuple[float, ...] = ()
    """Relative sampling weight of each part in training; empty if no data sets are joined."""
    crop_to_min: bool = False
    """Cut pairs of different sizes at the right and at the bottom to their common size."""


SOURCES: dict[str, Callable[[str, Split, Path], PairList]] = {}
"""Further data sources: `data.train=NAME:ARGUMENT` calls SOURCES[NAME](ARGUMENT, split, data.root)."""


class Pair(NamedTuple):
    """The images of a pair, float32 (3,H,W) in [0, 1]; `degraded` is None in unconditional data sets."""

    clean: Tensor
    degraded: Tensor | None
    name: str


def find_pairs(source: str, split: Split, root: Path) -> PairList:
    """Find a data set by an entry of SOURCES, a card's name, a folder, or two folders "DEGRADED:CLEAN".

    `root` holds the folders of cards. A folder holds two folders with known names (input/target, rain/norain, ...), zip
    files with such folders or with KEY.clean.png and KEY.degraded.png, or clean photographs, directly or in a folder
    of the split (`SPLIT_FOLDERS`). DataError if files or partners are missing.
    """
    name, _, argument = source.partition(":")
    if name in SOURCES:
        return SOURCES[name](argument, split, root)
    if source in find_cards():
        return _from_card(source, split, root, ())
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _from_folder(folder, split)
    if both := two_folders(source):
        return PairList(source, _pairs_of_folders(*both))
    if ":" in source:
        raise DataError(f"{source}: one of the two folders of DEGRADED:CLEAN does not exist")
    raise DataError(f"{source}: neither a card nor a folder; {nearest_cards(source)}")


def two_folders(source: str) -> tuple[Path, Path] | None:
    """Return the folders of DEGRADED:CLEAN if both exist; their names may hold colons."""
    for at in (at for at, char in enumerate(source) if char == ":"):
        degraded, clean = Path(source[:at]).expanduser(), Path(source[at + 1 :]).expanduser()
        if degraded.is_dir() and clean.is_dir():
            return degraded, clean
    return None


def layout_on_disk(split: SplitConfig, root: Path) -> LayoutConfig | None:
    """Return the first layout of a split whose folders exist."""
    for layout in split.layouts:
        folders = [folder_of(layout, root) / side for side in (layout.clean, layout.degraded) if side is not None]
        if all(folder.is_dir() for folder in folders):
            return layout
    return None


def places_of(split: SplitConfig) -> list[str]:
    """Return the expected folders of each layout of a split: "DEGRADED and CLEAN" or "CLEAN"."""
    return [f"{'' if p.degraded is None else f'{p.degraded} and '}{p.clean}" for p in split.layouts]


def _from_card(source: str, split: Split, root: Path, joined_by: Sequence[str]) -> PairList:
    """`joined_by`: the cards that contain this one as a part, outermost first."""
    if source in joined_by:
        raise DataError(f"cards join each other in a circle: {' -> '.join([*joined_by, source])}")
    path = find_cards().get(source)
    if path is None:
        raise DataError(f"{source}: no such card; {nearest_cards(source)}")
    card = load_card(path)
    chosen = card.train if split == "train" else card.test
    if chosen is None:
        raise DataError(f"{card.name} has no {split} split")
    if chosen.parts:
        return _join(card, chosen.parts, split, root, [*joined_by, source])
    layout = layout_on_disk(chosen, root)
    if layout is None:
        expected = " or ".join(places_of(chosen))
        raise NotOnDisk(f"{source}: not found below {root}; expected {expected}; from {card.source}")
    pairs = tuple(pair._replace(weather=chosen.weather) for pair in _card_pairs(layout, folder_of(layout, root)))
    notes = list(card.caveats)
    if len(pairs) != chosen.num_pairs:
        notes.insert(0, f"{len(pairs)} {split} pairs were found, {chosen.num_pairs} are published")
    return PairList(card.name, pairs, card.protocols, tuple(notes))


def _join(
    card: CardConfig, parts: Sequence[PartConfig], split: Split, root: Path, joined_by: Sequence[str]
) -> PairList:
    """Concatenate the pairs of all parts. A part that joins others itself divides its weight among them."""
    found: list[PairList] = []
    problems: list[str] = []
    for part in parts:
        try:
            found.append(_part(part, split, root, joined_by))
        except DataError as error:
            problems.append(str(error))
    if problems:
        count = f"{len(problems)} of its {len(parts)} parts cannot be used"
        raise DataError(f"{joined_by[-1]}: {count}: {'; '.join(dict.fromkeys(problems))}")
    pairs: list[PairPath] = []
    weights: list[float] = []
    notes = list(card.caveats)
    for label, part, of_part in zip(_labels(parts), parts, found, strict=True):
        inner = of_part.weights or (1.0,)
        pairs += [p._replace(name=f"{label}/{p.name}", part=len(weights) + p.part) for p in of_part.pairs]
        weights += [part.weight * weight / sum(inner) for weight in inner]
        notes += [f"{of_part.name}: {note}" for note in of_part.notes]
    return PairList(card.name, tuple(pairs), card.protocols, tuple(dict.fromkeys(notes)), tuple(weights))


def _part(part: PartConfig, split: Split, root: Path, joined_by: Sequence[str]) -> PairList:
    if part.card is not None:
        pairs = _from_card(part.card, split, root, joined_by)
    else:
        folder = root / str(part.folder)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; put {'clean photographs' if part.weather else 'images'} there")
        pairs = _from_folder(folder, split)
    if part.weather is None:
        return pairs
    if any(pair.degraded is not None for pair in pairs.pairs):
        raise DataError(f"{pairs.name} has degraded images of its own: {part.weather} is rendered on clean ones alone")
    return replace(pairs, pairs=tuple(pair._replace(weather=part.weather) for pair in pairs.pairs))


def _labels(parts: Sequence[PartConfig]) -> list[str]:
    """Return a distinct prefix for the pair names of each part."""
    sources = [part.card or Path(str(part.folder)).name for part in parts]
    labels = [f"{source}-{p.weather}" if p.weather else source for source, p in zip(sources, parts, strict=True)]
    earlier = [labels[:at].count(label) for at, label in enumerate(labels)]
    return [f"{label}~{count + 1}" if count else label for label, count in zip(labels, earlier, strict=True)]


def _card_pairs(layout: LayoutConfig, base: Path) -> list[PairPath]:
    clean_folder = base / layout.clean
    if layout.files:
        clean = {Path(file).stem: clean_folder / file for file in layout.files}
        if missing := [str(path) for path in clean.values() if not path.is_file()]:
            raise DataError(f"missing files: {', '.join(missing)}")
    else:
        clean = list_images(clean_folder)
    if layout.degraded is None:
        return [PairPath(None, path, name) for name, path in clean.items()]
    degraded_folder = base / layout.degraded
    matches = match_by_ids(list_images(degraded_folder), clean, layout.degraded_id, layout.clean_id)
    return require_all(matches, degraded_folder, clean_folder)


def _from_folder(folder: Path, split: Split) -> PairList:
    named = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    base = next((named[name] for name in SPLIT_FOLDERS[split] if name in named), folder)
    inside = sorted(path for path in base.iterdir() if path.is_dir())
    degraded = [path for path in inside if side_of(path.name) == "degraded"]
    clean = [path for path in inside if side_of(path.name) == "clean"]
    if len(degraded) == len(clean) == 1:
        return PairList(folder.name, _pairs_of_folders(degraded[0], clean[0]))
    if degraded or clean:
        names = ", ".join(path.name for path in inside)
        raise DataError(f"{base}: which two folders are the pairs? Found {names}; write DEGRADED:CLEAN to name them")
    suffixes = {path.suffix.lower() for path in base.iterdir()}
    if suffixes.isdisjoint(SUFFIXES):
        if zips_in(base):
            return PairList(folder.name, _pairs_in_zips(base))
        if ".tar" in suffixes:
            command = "restore-diff shard -i FOLDER -o SHARDS"
            raise DataError(f"{base}: tar files are not read; unpack them into FOLDER, then write zip files: {command}")
    photographs = list_images(base, recursive=False)
    return PairList(folder.name, tuple(PairPath(None, path, name) for name, path in photographs.items()))


def _pairs_of_folders(degraded: Path, clean: Path) -> tuple[PairPath, ...]:
    return tuple(require_all(match_by_habit(list_images(degraded), list_images(clean)), degraded, clean))


def _pairs_in_zips(folder: Path) -> tuple[PairPath, ...]:
    """Return the pairs in all zip files of a folder, in the order and with the names of the same images in folders.

    Images are KEY.degraded.png and KEY.clean.png, or input/KEY.png and target/KEY.png, with every known folder name as
    the word. If there are such images, others are ignored; else all are clean photographs.
    """
    images: dict[str | None, dict[str, Path]] = {"degraded": {}, "clean": {}, None: {}}
    for zip_path in images_in_zips(folder):
        relative = zip_path.relative_to(folder)
        side, name = side_and_name(Path(*relative.parts[1:]).as_posix())
        earlier = images[side].setdefault(name, zip_path)
        if earlier != zip_path:
            both = f"{printable(earlier.relative_to(folder))} and {printable(relative)}"
            raise DataError(f"{folder}: {both} have the same name; keep one of them")
    degraded, clean, others = (dict(sorted(of_side.items())) for of_side in images.values())
    if degraded and clean:
        matches = match_by_habit(degraded, clean)
        alone = [degraded[name] for name in matches.without_clean] + [clean[name] for name in matches.without_degraded]
        if alone:
            names = first_names([printable(path.relative_to(folder)) for path in alone])
            raise DataError(f"{folder}: {len(alone)} images in its zip files have no partner ({names})")
        return tuple(matches.pairs)
    if degraded or clean:
        present, missing = ("degraded", "clean") if degraded else ("clean", "degraded")
        raise DataError(f"{folder}: its zip files hold {present} images but no {missing} ones")
    if not others:
        raise DataError(f"0 images in the zip files of {folder} (accepted: {', '.join(SUFFIXES)})")
    return tuple(PairPath(None, path, name) for name, path in others.items())


def copies_of(files: Iterable[Path], among: Iterable[Path]) -> set[Path]:
    """Return those of `among` that equal one of `files` byte for byte. Only files of equal length are read."""
    lengths, suspects = ({path: num_bytes(path) for path in set(paths)} for paths in (files, among))
    common = set(lengths.values()) & set(suspects.values())
    digests = {_digest(path) for path, length in lengths.items() if length in common}
    return {path for path, length in suspects.items() if length in common and _digest(path) in digests}


def shared_clean_images(train: PairList, test: PairList) -> list[str]:
    """Return the names of test pairs whose clean file is also in the training set, byte for byte."""
    shared = copies_of((pair.clean for pair in train.pairs), (pair.clean for pair in test.pairs))
    return [pair.name for pair in test.pairs if pair.clean in shared]


def _digest(path: Path) -> bytes:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def crop_to_min(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cut two images (C,H,W) at the right and at the bottom to their common size."""
    height, width = (min(sides) for sides in zip(first.shape[1:], second.shape[1:], strict=True))
    return first[:, :height, :width], second[:, :height, :width]


def different_sizes(pair: PairPath, degraded: Sequence[int], clean: Sequence[int]) -> str:
    """Return the message for a pair whose (height, width) differ."""
    return (
        f"{pair.degraded} is {degraded[1]}x{degraded[0]}, {pair.clean} is {clean[1]}x{clean[0]}: a pair needs one size"
    )


def files_of(pairs: PairList) -> Iterable[Path]:
    """Yield every file, clean and degraded; shared files repeat."""
    return (path for pair in pairs.pairs for path in (pair.clean, pair.degraded) if path is not None)


def require_equal_sizes(pairs: PairList, sizes: Sizes) -> int:
    """Raise DataError for pairs of different sizes; with `crop_to_min`, if they differ by more than 8 px.

    Return the number of pairs that differ by less. Files of unknown size are skipped.
    """
    most = MOST_CROPPED_PX if pairs.crop_to_min else 0
    refused, num_cut = [], 0
    for pair in pairs.pairs:
        if pair.degraded is not None and pair.degraded in sizes and pair.clean in sizes:
            of_both = sizes[pair.degraded], sizes[pair.clean]
            difference = size_difference(*of_both)
            num_cut += 0 < difference <= most
            if difference > most:
                refused.append(different_sizes(pair, *of_both))
    if refused:
        rule = f"pairs differ in size by more than {most} px" if most else "pairs of different sizes"
        raise DataError(f"{pairs.name}: {len(refused)} {rule}: {first_names(refused)}")
    return num_cut


def size_difference(first: tuple[int, int], second: tuple[int, int]) -> int:
    """Return the larger difference in pixels between two heights and two widths."""
    return max(abs(left - right) for left, right in zip(first, second, strict=True))


def hold_out(pairs: PairList, num_clean: int) -> tuple[PairList, PairList | None]:
    """Return (training pairs, validation pairs): `num_clean` clean images, at most a fifth, leave the training set.

    The choice depends on names only. All degraded versions of a clean image go together; the first one is validated.
    Joined parts give up to a fifth each, in turn, and each part validates its own pairs of the held-out images; exact
    copies of these leave the training set too. None if no image can be spared.
    """
    held = _choose(pairs, num_clean)
    if not held:
        return pairs, None
    first: dict[tuple[int, Path], PairPath] = {}
    for pair in pairs.pairs:
        if pair.clean in held:
            first.setdefault((pair.part, pair.clean), pair)
    validation = tuple(sorted(first.values(), key=lambda pair: pair.name))
    gone = held | copies_of(held, {pair.clean for pair in pairs.pairs}) if pairs.weights else held
    remaining = tuple(pair for pair in pairs.pairs if pair.clean not in gone)
    return replace(pairs, pairs=remaining), replace(pairs, pairs=validation, notes=(), weights=())


def _choose(pairs: PairList, num_clean: int) -> set[Path]:
    parts = [{p.clean for p in pairs.pairs if p.part == part} for part in range(len(pairs.weights) or 1)]
    spared = [sorted(clean, key=lambda path: (_rank(path), path))[: len(clean) // 5] for clean in parts]
    held: set[Path] = set()
    for path in (path for turn in zip_longest(*spared) for path in turn if path is not None):
        if len(held) < num_clean and all(len(held & clean) < len(clean) // 5 for clean in parts if path in clean):
            held.add(path)
    return held


def _rank(path: Path) -> int:
    from restore_diff.randomness import mix  # imports torch, which finding pairs does not need

    return mix(0, "validation", side_and_name(path.name)[1])
