"""From the name of a data set, or its folder, to the list of its pairs. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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
from restore_diff.data.formats import SUFFIXES
from restore_diff.data.listing import DataError, list_images
from restore_diff.data.names import (
    CLEAN_FOLDERS,
    DEGRADED_FOLDERS,
    PairPath,
    match_by_habit,
    match_by_ids,
    require_all,
)
from restore_diff.data.shards import pairs_in_tars
from restore_diff.data.tar_index import tars_in

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
