"""From what a user names to the data sets that are looked at: a card and a folder may hold two, train and test."""

from dataclasses import dataclass, replace
from pathlib import Path

from restore_diff.data.cards import CardConfig, SplitConfig, find_cards, folder_of, load_card
from restore_diff.data.finding import PairList, Split, find_pairs
from restore_diff.data.listing import DataError, list_images
from restore_diff.data.names import PairPath
from restore_diff.doctor.survey import Survey

SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class DataSet:
    """One split of a source. Where its pairs cannot be told, its files are still looked at, each on its own."""

    label: str
    split: Split | None
    """None: a folder that does not say what it is for."""
    pairs: PairList | None
    error: str = ""
    loose: tuple[PairPath, ...] = ()
    survey: Survey | None = None

    def files(self) -> tuple[PairPath, ...]:
        return self.pairs.pairs if self.pairs else self.loose

    def surveyed(self, survey: Survey) -> "DataSet":
        return replace(self, survey=survey)


def data_sets(source: str, root: Path) -> list[DataSet]:
    """The splits of `source` that are on the disk; one with an error where nothing is."""
    found = [_load(source, split, root) for split in _splits(source, root)]
    return [replace(one, label=f"{source} {one.split}" if one.split else source) for one in found]


def _splits(source: str, root: Path) -> list[Split | None]:
    if source in find_cards():
        try:
            return _splits_of_card(load_card(find_cards()[source]), root)
        except DataError:
            return [None]  # loading it again says what is wrong
    folder = Path(source).expanduser()
    inside: list[Split | None] = [split for split in SPLITS if (folder / split).is_dir()]
    return inside or [None]


def _splits_of_card(card: CardConfig, root: Path) -> list[Split | None]:
    """Those of which there is something on the disk; if of none, one that the card has."""
    known: list[Split | None] = [split for split in SPLITS if getattr(card, split) is not None]
    return [split for split in known if _is_on_disk(getattr(card, str(split)), root)] or known[-1:]


def _is_on_disk(split: SplitConfig, root: Path) -> bool:
    places = [(folder_of(layout, root), layout) for layout in split.layouts]
    return bool(split.parts) or any(
        (base / layout.clean).is_dir() and (layout.degraded is None or (base / layout.degraded).is_dir())
        for base, layout in places
    )


def _load(source: str, split: Split | None, root: Path) -> DataSet:
    try:
        return DataSet(source, split, find_pairs(source, split or "test", root))
    except DataError as error:
        return DataSet(source, split, None, str(error), _files_below(source, split))


def _files_below(source: str, split: Split | None) -> tuple[PairPath, ...]:
    """Every image of a folder, or of two, that cannot be told to be pairs."""
    halves = [(source[:at], source[at + 1 :]) for at, char in enumerate(source) if char == ":"]
    candidates = [[Path(source).expanduser() / (split or "")]]
    candidates += [[Path(half).expanduser() for half in both] for both in halves]
    folders = next((those for those in candidates if all(path.is_dir() for path in those)), [])
    files: dict[Path, PairPath] = {}
    for folder in folders:
        try:
            files |= {path: PairPath(None, path, name) for name, path in list_images(folder).items()}
        except DataError:
            continue
    return tuple(files.values())
