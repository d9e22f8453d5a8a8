"""Pairs: where they are found, checked, held out and read."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from restore_diff.data.archive import num_bytes, open_file, refresh_index, tars_in
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
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.names import (
    CLEAN_FOLDERS,
    DEGRADED_FOLDERS,
    SUFFIXES,
    DataError,
    PairPath,
    first_names,
    list_images,
    match_by_habit,
    match_by_ids,
    require_all,
    side_and_name,
)
from restore_diff.files import printable
from restore_diff.randomness import mix
from restore_diff.settings import Weather
from restore_diff.tensors import Images

# A folder of tar files as a data set: the pairs in them by their names, wherever among the files they lie.

Side = Literal["degraded", "clean"]


def pairs_in_tars(folder: Path) -> tuple[PairPath, ...]:
    """The pairs in all tar files of a folder, in the order and with the names that folders of these images give.

    Degraded are KEY.degraded.png or input/KEY.png, clean are KEY.clean.png or target/KEY.png, and so on with each name
    of such a folder; an image that says neither is left out where others do, else all are clean photographs. DataError
    for what does not pair up, and for two images of one name.
    """
    images: dict[Side | None, dict[str, Path]] = {"degraded": {}, "clean": {}, None: {}}
    for tar, indexed in refresh_index(folder).items():
        for member in indexed.images:
            side, name = side_and_name(member)
            path, earlier = folder / tar / member, images[side].get(name)
            if earlier is not None:
                both = f"{printable(earlier.relative_to(folder))} and {printable(path.relative_to(folder))}"
                raise DataError(f"{folder}: {both} have the same name; keep one of them")
            images[side][name] = path
    degraded, clean, others = (dict(sorted(of_side.items())) for of_side in images.values())
    if degraded and clean:
        matches = match_by_habit(degraded, clean)
        alone = [degraded[name] for name in matches.without_clean] + [clean[name] for name in matches.without_degraded]
        if alone:
            names = first_names([printable(path.relative_to(folder)) for path in alone])
            raise DataError(f"{folder}: {len(alone)} images in its tar files have no partner ({names})")
        return tuple(matches.pairs)
    if degraded or clean:
        raise DataError(f"{folder}: its tar files hold {'degraded' if degraded else 'clean'} images without the others")
    if not others:
        raise DataError(f"0 images in the tar files of {folder} (accepted: {', '.join(SUFFIXES)})")
    return tuple(PairPath(None, path, name) for name, path in others.items())


# From the name of a data set, or its folder, to the list of its pairs. Imports nothing heavy.

Split = Literal["train", "test"]


class NotOnDisk(DataError):
    """None of the places in which a data set is expected exists."""


@dataclass(frozen=True)
class PairList:
    """The images of one split of a data set; `pairs` is never empty."""

    name: str
    pairs: tuple[PairPath, ...]
    protocols: tuple[str, ...] = ()
    """Metric protocols of its published results; empty where they are not known."""
    notes: tuple[str, ...] = ()
    """What a user should read before trusting a number: counts that differ, known leaks."""
    weights: tuple[float, ...] = ()
    """How often training draws from each part of joined data sets, relative to the others; none: it is no mixture."""
    crop_to_min: bool = False
    """Whether pairs of different sizes are cut, at the right and at the bottom, to the size that they share."""


def find_pairs(source: str, split: Split, root: Path) -> PairList:
    """Find a data set by the name of its card, by its folder, or as two folders "DEGRADED:CLEAN".

    The folders of cards lie below `root`. A folder holds two folders with names in use (input/target, rain/norain,
    ...), tar files with such folders or with KEY.clean.png and KEY.degraded.png in them, or clean photographs, directly
    or in a folder train/ or test/. DataError where files or partners are missing.
    """
    if source in find_cards():
        return _from_card(source, split, root, ())
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _from_folder(folder, split)
    for at in (at for at, char in enumerate(source) if char == ":"):
        degraded, clean = Path(source[:at]).expanduser(), Path(source[at + 1 :]).expanduser()
        if degraded.is_dir() and clean.is_dir():
            return PairList(source, _habitual_pairs(degraded, clean))
    if ":" in source:
        raise DataError(f"{source}: one of the two folders of DEGRADED:CLEAN does not exist")
    raise DataError(f"{source}: neither a card nor a folder; {nearest_cards(source)}")


def places_of(split: SplitConfig) -> list[str]:
    """Where the files of a split are looked for: a line for each layout, "DEGRADED and CLEAN" or "CLEAN"."""
    return [f"{'' if p.degraded is None else f'{p.degraded} and '}{p.clean}" for p in split.layouts]


def _from_card(source: str, split: Split, root: Path, joined_by: Sequence[str]) -> PairList:
    """`joined_by`: the cards of which this one is a part, from the outermost on."""
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
    for layout in chosen.layouts:
        base = folder_of(layout, root)
        if (base / layout.clean).is_dir() and (layout.degraded is None or (base / layout.degraded).is_dir()):
            pairs = tuple(pair._replace(weather=chosen.weather) for pair in _card_pairs(layout, base))
            notes = list(card.caveats)
            if len(pairs) != chosen.num_pairs:
                notes.insert(0, f"{len(pairs)} {split} pairs were found, {chosen.num_pairs} are published")
            return PairList(card.name, pairs, card.protocols, tuple(notes))
    expected = " or ".join(places_of(chosen))
    raise NotOnDisk(f"{source}: not found below {root}; expected {expected}; from {card.source}")


def _join(
    card: CardConfig, parts: Sequence[PartConfig], split: Split, root: Path, joined_by: Sequence[str]
) -> PairList:
    """The pairs of all parts one after the other. A part that joins others itself shares its weight among them."""
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
    """What the names of a part's pairs begin with: other for each part."""
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
    base = folder / split if (folder / split).is_dir() else folder
    inside = sorted(path for path in base.iterdir() if path.is_dir())
    degraded = [path for path in inside if path.name.lower() in DEGRADED_FOLDERS]
    clean = [path for path in inside if path.name.lower() in CLEAN_FOLDERS]
    if len(degraded) == len(clean) == 1:
        return PairList(folder.name, _habitual_pairs(degraded[0], clean[0]))
    if degraded or clean:
        names = ", ".join(path.name for path in inside)
        raise DataError(f"{base}: which two folders are the pairs? Found {names}; write DEGRADED:CLEAN to name them")
    if tars_in(base) and not any(path.suffix.lower() in SUFFIXES for path in base.iterdir()):
        return PairList(folder.name, pairs_in_tars(base))
    photographs = list_images(base, recursive=False)
    return PairList(folder.name, tuple(PairPath(None, path, name) for name, path in photographs.items()))


def _habitual_pairs(degraded: Path, clean: Path) -> tuple[PairPath, ...]:
    return tuple(require_all(match_by_habit(list_images(degraded), list_images(clean)), degraded, clean))


# Files that equal each other byte for byte. Only those of equal length are read.


def copies_of(files: Iterable[Path], among: Iterable[Path]) -> set[Path]:
    """Those of `among` whose content is that of one of `files`; a file is a copy of itself."""
    lengths, suspects = ({path: num_bytes(path) for path in set(paths)} for paths in (files, among))
    common = set(lengths.values()) & set(suspects.values())
    digests = {_digest(path) for path, length in lengths.items() if length in common}
    return {path for path, length in suspects.items() if length in common and _digest(path) in digests}


def shared_clean_images(train: PairList, test: PairList) -> list[str]:
    """Names of the test pairs whose clean file is, byte for byte, a clean file of the training set."""
    shared = copies_of((pair.clean for pair in train.pairs), (pair.clean for pair in test.pairs))
    return [pair.name for pair in test.pairs if pair.clean in shared]


def _digest(path: Path) -> bytes:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


# Whole pairs of images, for validation and test.

Renderer = Callable[[Images, Sequence[int], Sequence[Weather | None]], Images]
"""(clean (B,3,H,W) in [0, 1], for each image a seed, and its weather or None for any) -> degraded, likewise.

Each image depends on its own seed and weather alone.
"""


class Pair(NamedTuple):
    """An image and what is to be made of it: float32 (3,H,W) in [0, 1]."""

    clean: Tensor
    degraded: Tensor
    name: str


def require_degraded(pairs: PairList, render: Renderer | None) -> None:
    """DataError for clean photographs without a way to degrade them."""
    if render is None and any(pair.degraded is None for pair in pairs.pairs):
        raise DataError(
            f"{pairs.name} holds clean photographs only: say what to render on them, e.g. data.weather=rain"
        )


class PairedImageDataset(Dataset[Pair]):
    """Whole images for validation and test, the same ones each time.

    Where there is no degraded file, `render` makes it from the clean image, by a seed of (seed, name) alone.
    """

    def __init__(self, pairs: PairList, render: Renderer | None, seed: int):
        require_degraded(pairs, render)
        self.pairs = pairs
        self.render = render
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs.pairs)

    def __getitem__(self, index: int) -> Pair:
        """ImageError for a file that cannot be read, DataError for a pair of different sizes."""
        pair = self.pairs.pairs[index]
        clean = read_rgb_uint8(pair.clean).float() / 255
        if pair.degraded is not None:
            degraded = read_rgb_uint8(pair.degraded).float() / 255
            if degraded.shape != clean.shape:
                if not self.pairs.crop_to_min:
                    raise DataError(different_sizes(pair, degraded.shape[1:], clean.shape[1:]))
                degraded, clean = crop_to_min(degraded, clean)
        else:
            assert self.render is not None
            rendered = self.render(clean[None], [mix(self.seed, "weather", pair.name)], [pair.weather])[0]
            degraded = (rendered * 255).round() / 255  # as a file would hold it
        return Pair(clean, degraded, pair.name)


def crop_to_min(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two images (C,H,W), cut at the right and at the bottom to the size that they share."""
    height, width = (min(sides) for sides in zip(first.shape[1:], second.shape[1:], strict=True))
    return first[:, :height, :width], second[:, :height, :width]


def different_sizes(pair: PairPath, degraded: Sequence[int], clean: Sequence[int]) -> str:
    """The message for a pair whose (height, width) differ."""
    return (
        f"{pair.degraded} is {degraded[1]}x{degraded[0]}, {pair.clean} is {clean[1]}x{clean[0]}: a pair needs one size"
    )


# Whether the images of a data set have the sizes that they are to be used with.

Sizes = Mapping[Path, tuple[int, int]]
"""(height, width) of each file that can be read."""

MOST_CROPPED_PX = 8
"""Sides that differ by more are not those of one picture with its border cut."""


def files_of(pairs: PairList) -> Iterable[Path]:
    """Every file, clean and degraded; one that several pairs share, several times."""
    return (path for pair in pairs.pairs for path in (pair.clean, pair.degraded) if path is not None)


def require_equal_sizes(pairs: PairList, sizes: Sizes) -> int:
    """DataError that names the first pairs whose sizes differ; where they may be cut alike, by more than a few pixels.

    Returns how many differ and may. Nothing is said of files whose size is not known.
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
    """By how many pixels two (height, width) differ, at the side where they differ more."""
    return max(abs(left - right) for left, right in zip(first, second, strict=True))


def require_crops(pairs: PairList, sizes: Sizes, crop_size_px: int) -> None:
    """DataError that names the first images smaller than the crop."""
    small = list(dict.fromkeys(p.clean for p in pairs.pairs if _is_small(p, sizes, crop_size_px)))
    if small:
        named = first_names([f"{path} is {sizes[path][1]}x{sizes[path][0]}" for path in small])
        rule = f"{len(small)} images are smaller than data.crop_size_px={crop_size_px}"
        advice = "set data.on_small=pad or skip, or a smaller crop"
        raise DataError(f"{pairs.name}: {rule}: {named}; {advice}")


def without_small(pairs: PairList, sizes: Sizes, crop_size_px: int) -> PairList:
    """The pairs from which a crop can be taken; there may be none."""
    return replace(pairs, pairs=tuple(pair for pair in pairs.pairs if not _is_small(pair, sizes, crop_size_px)))


def _is_small(pair: PairPath, sizes: Sizes, crop_size_px: int) -> bool:
    return pair.clean in sizes and min(sizes[pair.clean]) < crop_size_px


# Validation pairs, held out of the training set so that the test set chooses nothing.


def hold_out(pairs: PairList, num_clean: int) -> tuple[PairList, PairList | None]:
    """(training pairs, validation pairs): `num_clean` clean images leave the training set, at most a fifth of them.

    Which ones depends on their names alone; all degraded versions of a clean image go together, and the first of them
    is the one to validate on. Of joined parts, each gives up to a fifth of its own in turn, and validates what it has
    of the images held out; a copy of one, byte for byte, leaves the training set too. None where nothing can be spared.
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
    return mix(0, "validation", side_and_name(path.name)[1])
