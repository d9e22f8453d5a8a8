"""From the name of a data set, or its folder, to the list of its pairs and to whole images."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from restore_diff.data.cards import CardConfig, LayoutConfig, find_cards, folder_of, load_card, nearest_cards
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.listing import DataError, list_images
from restore_diff.data.names import PairPath, match_by_habit, match_by_ids, require_all
from restore_diff.randomness import mix
from restore_diff.tensors import Images

Split = Literal["train", "test"]

Renderer = Callable[[Images, Sequence[int]], Images]
"""(clean (B,3,H,W) in [0, 1], one seed per image) -> degraded, likewise; each image depends on its own seed alone."""

DEGRADED_FOLDERS = (
    "input",
    "inputs",
    "degraded",
    "lq",
    "rain",
    "rainy",
    "rainy_image",
    "hazy",
    "haze",
    "snow",
    "snowy",
)
DEGRADED_FOLDERS += ("synthetic", "raindrop", "drop", "data", "low", "noisy")
CLEAN_FOLDERS = (
    "target",
    "targets",
    "clean",
    "clear",
    "gt",
    "groundtruth",
    "ground_truth",
    "norain",
    "nohaze",
    "nosnow",
)
CLEAN_FOLDERS += ("hq", "high", "sharp")


@dataclass(frozen=True)
class PairList:
    """The images of one split of a data set; `pairs` is never empty."""

    name: str
    pairs: tuple[PairPath, ...]
    protocols: tuple[str, ...] = ()
    """Metric protocols of its published results; empty where they are not known."""
    notes: tuple[str, ...] = ()
    """What a user should read before trusting a number: counts that differ, known leaks."""


class Pair(NamedTuple):
    """An image and what is to be made of it: float32 (3,H,W) in [0, 1]."""

    clean: Tensor
    degraded: Tensor
    name: str


def find_pairs(source: str, split: Split, root: Path) -> PairList:
    """Find a data set by the name of its card, by its folder, or as two folders "DEGRADED:CLEAN".

    The folders of cards lie below `root`. A folder holds two folders with names in use (input/target, rain/norain,
    ...), or clean photographs, directly or in a folder train/ or test/. DataError where files or partners are missing.
    """
    cards = find_cards()
    if source in cards:
        return _from_card(load_card(cards[source]), source, split, root)
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


def require_degraded(pairs: PairList, render: Renderer | None) -> None:
    """DataError for clean photographs without a way to degrade them."""
    if render is None and any(pair.degraded is None for pair in pairs.pairs):
        raise DataError(
            f"{pairs.name} holds clean photographs only: say what to render on them, e.g. data.weather=rain"
        )


def shared_clean_images(train: PairList, test: PairList) -> list[str]:
    """Names of the test pairs whose clean file is, byte for byte, a clean file of the training set."""
    train_sizes = {pair.clean.stat().st_size for pair in train.pairs}
    suspects = [pair for pair in test.pairs if pair.clean.stat().st_size in train_sizes]
    suspect_sizes = {pair.clean.stat().st_size for pair in suspects}
    digests = {_digest(pair.clean) for pair in train.pairs if pair.clean.stat().st_size in suspect_sizes}
    return [pair.name for pair in suspects if _digest(pair.clean) in digests]


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
        degraded_path, clean_path, name = self.pairs.pairs[index]
        clean = read_rgb_uint8(clean_path).float() / 255
        if degraded_path is not None:
            degraded = read_rgb_uint8(degraded_path).float() / 255
            if degraded.shape != clean.shape:
                raise DataError(different_sizes(self.pairs.pairs[index], degraded.shape[1:], clean.shape[1:]))
        else:
            assert self.render is not None
            rendered = self.render(clean[None], [mix(self.seed, "weather", name)])[0]
            degraded = (rendered * 255).round() / 255  # as a file would hold it
        return Pair(clean, degraded, name)


def different_sizes(pair: PairPath, degraded: Sequence[int], clean: Sequence[int]) -> str:
    """The message for a pair whose (height, width) differ."""
    return (
        f"{pair.degraded} is {degraded[1]}x{degraded[0]}, {pair.clean} is {clean[1]}x{clean[0]}: a pair needs one size"
    )


def _from_card(card: CardConfig, source: str, split: Split, root: Path) -> PairList:
    chosen = card.train if split == "train" else card.test
    if chosen is None:
        raise DataError(f"{card.name} has no {split} split")
    for layout in chosen.layouts:
        base = folder_of(layout, root)
        if (base / layout.clean).is_dir() and (layout.degraded is None or (base / layout.degraded).is_dir()):
            pairs = _card_pairs(layout, base)
            notes = list(card.caveats)
            if len(pairs) != chosen.num_pairs:
                notes.insert(0, f"{len(pairs)} {split} pairs were found, {chosen.num_pairs} are published")
            return PairList(card.name, tuple(pairs), card.protocols, tuple(notes))
    places = " or ".join(f"{'' if p.degraded is None else f'{p.degraded} and '}{p.clean}" for p in chosen.layouts)
    raise DataError(f"{source}: not found below {root}; expected {places}; from {card.source}")


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
    photographs = list_images(base, recursive=False)
    return PairList(folder.name, tuple(PairPath(None, path, name) for name, path in photographs.items()))


def _habitual_pairs(degraded: Path, clean: Path) -> tuple[PairPath, ...]:
    return tuple(require_all(match_by_habit(list_images(degraded), list_images(clean)), degraded, clean))


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
