"""Checks of data sets."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from restore_diff.data.cards import CardConfig, SplitConfig, find_cards, folder_of, load_card
from restore_diff.data.decoding import ImageError
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.leaks import Fingerprint, Match, descriptors, find_matches, fingerprint, is_plain
from restore_diff.data.names import DataError, PairPath, first_names, list_images
from restore_diff.data.pairs import MOST_CROPPED_PX, PairList, Split, find_pairs

# What one look at something found.

Status = Literal["ok", "note", "warn", "FAIL"]
"""note: nothing is wrong, but good to know. warn: a number may not mean what it seems to. FAIL: it will not work."""


@dataclass(frozen=True)
class Check:
    subject: str
    """"machine", or the data set."""
    name: str
    status: Status
    text: str
    advice: str = ""
    """What to do about it."""
    items: Sequence[str] = ()
    """All files or pairs that are meant; a line shows the first of them."""

    def line(self) -> str:
        """One line: status, name, what was found, what to do."""
        named = f": {first_names(self.items)}" if self.items else ""
        return f"{self.status:4}  {self.name:10}  {self.text}{named}{f'; {self.advice}' if self.advice else ''}"

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON, with every item."""
        return vars(self) | {"items": list(self.items)}


# Every file of a data set decoded once, as training and scoring decode it.


@dataclass(frozen=True)
class Picture:
    height: int
    width: int
    is_grey: bool
    fingerprint: Fingerprint


@dataclass
class Survey:
    """What the files hold: each is in one of the first two."""

    pictures: dict[Path, Picture] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)
    psnr: dict[str, float] = field(default_factory=dict)
    """dB of degraded against clean, by the name of the pair; infinite where they are equal."""


def survey(pairs: Iterable[PairPath], num_threads: int, on_read: Callable[[int], object]) -> Survey:
    """Decode all files, each clean one once; `on_read` hears how many files were done."""
    by_clean: dict[Path, list[PairPath]] = {}
    for pair in pairs:
        by_clean.setdefault(pair.clean, []).append(pair)
    found = Survey()
    with ThreadPoolExecutor(num_threads) as pool:  # Pillow and numpy work outside the interpreter's lock
        waiting = [pool.submit(_read_all, clean, those) for clean, those in by_clean.items()]
        try:
            for done in as_completed(waiting):
                part = done.result()
                found.pictures |= part.pictures
                found.unreadable |= part.unreadable
                found.psnr |= part.psnr
                on_read(len(part.pictures) + len(part.unreadable))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _read_all(clean: Path, pairs: list[PairPath]) -> Survey:
    """A clean file and all degraded ones that belong to it."""
    found = Survey()
    of_clean = _read(clean, found)
    for pair in pairs:
        if pair.degraded is None:
            continue
        pixels = _read(pair.degraded, found)
        if pixels is not None and of_clean is not None and pixels.shape == of_clean.shape:
            found.psnr[pair.name] = _psnr(pixels, of_clean)
    return found


def _read(path: Path, found: Survey) -> np.ndarray | None:
    """The pixels, uint8 (H,W,3), noted in `found`; None where there are none."""
    try:
        pixels = np.ascontiguousarray(read_rgb_uint8(path).permute(1, 2, 0).numpy())
    except ImageError as error:
        found.unreadable[path] = str(error)
        return None
    is_grey = bool((pixels[..., :1] == pixels[..., 1:]).all())
    found.pictures[path] = Picture(pixels.shape[0], pixels.shape[1], is_grey, fingerprint(pixels))
    return pixels


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    squared = np.square(first.astype(np.float32) - second).mean(dtype=np.float64)
    return 10 * math.log10(255**2 / squared) if squared else math.inf


# From what a user names to the data sets that are looked at: a card and a folder may hold two, train and test.

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


# Pictures of one data set in another: what is trained on must not be tested on.


def clean_files(one: DataSet) -> list[Path]:
    """Its clean files that could be read, each once, in the order of the pairs."""
    assert one.survey is not None
    return [path for path in dict.fromkeys(pair.clean for pair in one.files()) if path in one.survey.pictures]


def fingerprints(one: DataSet) -> list[Fingerprint]:
    """Of `clean_files`."""
    assert one.survey is not None
    return [one.survey.pictures[path].fingerprint for path in clean_files(one)]


def matches_within(one: DataSet) -> list[Match]:
    """Among `clean_files`, with a progress bar."""
    prints = fingerprints(one)
    with tqdm(total=len(prints), unit="picture", desc=f"{one.label}: duplicates", leave=False, disable=None) as bar:
        return find_matches(prints, None, bar.update)


def matches_between(first: DataSet, second: DataSet) -> list[Match]:
    """Of the clean files of both, with a progress bar."""
    others = fingerprints(second)
    label = f"{first.label} / {second.label}: leaks"
    with tqdm(total=len(others), unit="picture", desc=label, leave=False, disable=None) as bar:
        return find_matches(fingerprints(first), others, bar.update)


def check_leaks(first: DataSet, second: DataSet) -> list[Check]:
    """The clean pictures that both hold: the same ones are a failure, other views of a scene a warning.

    Two sets that are both for training, or both for testing, may share what they like.
    """
    subject = f"{first.label} / {second.label}"
    files, others = clean_files(first), clean_files(second)
    matches = matches_between(first, second)
    checks = []
    same = [match for match in matches if match.kind != "same scene"]
    if same:
        num = len({match.second for match in same})
        text = f"{num} of {len(others)} clean pictures of {second.label} are also in {first.label}"
        named = [described(match, files, others) for match in same]
        if first.split is not None and first.split == second.split:
            checks.append(Check(subject, "shared", "note", text, f"both are to {first.split}", named))
        else:
            advice = "keep them out of training, or divide anew by --split"
            checks.append(Check(subject, "leaks", "FAIL", text, advice, named))
    else:
        text = f"none of {len(files)} x {len(others)} clean pictures is in both"
        checks.append(Check(subject, "leaks", "ok", text))
    scenes = [described(match, files, others) for match in matches if match.kind == "same scene"]
    if scenes:
        text = f"{len(scenes)} pairs of clean pictures show nearly the same scene"
        checks.append(Check(subject, "scenes", "warn", text, "look at them; frames of one film leak too", scenes))
    return checks


def described(match: Match, first: Sequence[Path], second: Sequence[Path]) -> str:
    """`a.png = b.png (same picture, mirrored left to right, similarity 0.96)`"""
    names = [first[match.first], second[match.second]]
    shown = [path.name for path in names]
    if shown[0] == shown[1]:
        shown = ["/".join(path.parts[-3:]) for path in names]
    more = [match.kind, match.turn, "" if match.kind == "same pixels" else f"similarity {match.similarity:.2f}"]
    return f"{shown[0]} = {shown[1]} ({', '.join(part for part in more if part)})"


# What is wrong within one data set: names, files, sizes, pairs of different pictures, pictures that come twice.

LEAST_LIKE = 0.35
"""Descriptors of a degraded image and its clean one are more alike than this, see docs/doctor.md."""
CLEARLY_LIKE = 0.6


def check_set(one: DataSet, crop_size_px: int) -> Iterator[Check]:
    """The checks of a data set whose files were read."""
    assert one.survey is not None
    yield _layout(one)
    if one.pairs:
        yield from (Check(one.label, "known", "note", note) for note in one.pairs.notes)
    yield _readable(one, one.survey)
    if not one.survey.pictures:
        return
    yield _sizes(one, one.survey)
    yield from _crops(one, one.survey, crop_size_px)
    yield _colours(one, one.survey)
    if one.pairs:
        yield from _pairs(one, one.survey)
        yield from _repeated(one, one.survey)


def _layout(one: DataSet) -> Check:
    if one.pairs is None:
        return Check(one.label, "names", "FAIL", one.error)
    pairs = one.pairs.pairs
    with_degraded = [pair for pair in pairs if pair.degraded is not None]
    if not with_degraded:
        return Check(one.label, "names", "ok", f"{len(pairs)} clean photographs, to render weather on")
    num_clean = len({pair.clean for pair in pairs})
    return Check(
        one.label, "names", "ok", f"{len(pairs)} pairs of {num_clean} clean images, by {_habit(with_degraded)}"
    )


def _habit(pairs: list[PairPath]) -> str:
    """How the names of pairs go together, by an example where they are not equal."""
    example = next((p for p in pairs if p.degraded is not None and p.degraded.stem != p.clean.stem), None)
    if example is None or example.degraded is None:
        return "equal names"
    return f"names like {example.degraded.name} and {example.clean.name}"


def _readable(one: DataSet, survey: Survey) -> Check:
    num_read = len(survey.pictures)
    if not survey.unreadable:
        return Check(one.label, "files", "ok", f"{num_read} files decoded to their end, 8 bits per sample")
    text = f"{len(survey.unreadable)} of {num_read + len(survey.unreadable)} files cannot be used"
    return Check(one.label, "files", "FAIL", text, "replace or convert them", sorted(survey.unreadable.values()))


def _sizes(one: DataSet, survey: Survey) -> Check:
    most = MOST_CROPPED_PX if one.pairs and one.pairs.crop_to_min else 0
    different = []
    for pair in one.files():
        if pair.degraded in survey.pictures and pair.clean in survey.pictures:
            of_degraded, of_clean = survey.pictures[pair.degraded], survey.pictures[pair.clean]
            off = max(abs(of_degraded.height - of_clean.height), abs(of_degraded.width - of_clean.width))
            if off > most:
                sizes = f"{of_degraded.width}x{of_degraded.height} and {of_clean.width}x{of_clean.height}"
                different.append(f"{pair.name} ({sizes})")
    if different:
        text = f"{len(different)} pairs differ in size"
        return Check(one.label, "sizes", "FAIL", text, "crop them to the part that they share", different)
    sizes = sorted((p.width * p.height, p.width, p.height) for p in survey.pictures.values())
    (_, *least), (_, *largest) = sizes[0], sizes[-1]
    span = f"{least[0]}x{least[1]}" if least == largest else f"{least[0]}x{least[1]} to {largest[0]}x{largest[1]}"
    pairs = "both of a pair alike" if survey.psnr else "all read"
    return Check(one.label, "sizes", "ok", f"{span}, {pairs}")


def _crops(one: DataSet, survey: Survey, crop_size_px: int) -> Iterator[Check]:
    """Only training takes crops; a folder that does not say what it is for may be for either."""
    if one.split == "test":
        return
    small = [
        f"{path.name} ({picture.width}x{picture.height})"
        for path, picture in sorted(survey.pictures.items())
        if min(picture.width, picture.height) < crop_size_px
    ]
    rule = f"the crop of {crop_size_px} px (data.crop_size_px)"
    if small:
        status: Status = "FAIL" if one.split == "train" else "warn"
        advice = "set data.on_small=pad or skip, or a smaller crop"
        yield Check(one.label, "crop", status, f"{len(small)} images are smaller than {rule}", advice, small)
    else:
        yield Check(one.label, "crop", "ok", f"no image is smaller than {rule}")


def _colours(one: DataSet, survey: Survey) -> Check:
    grey = [path for path, picture in survey.pictures.items() if picture.is_grey]
    uneven = [
        pair.name
        for pair in one.files()
        if pair.degraded in survey.pictures
        and pair.clean in survey.pictures
        and survey.pictures[pair.degraded].is_grey != survey.pictures[pair.clean].is_grey
    ]
    if uneven:
        return Check(one.label, "colour", "warn", f"{len(uneven)} pairs are grey on one side only", "", uneven)
    kinds = f"{len(grey)} of {len(survey.pictures)} files are grey" if grey else "all files are in colour"
    return Check(one.label, "colour", "ok", kinds)


def _pairs(one: DataSet, survey: Survey) -> Iterator[Check]:
    equal = sorted(name for name, value in survey.psnr.items() if math.isinf(value))
    if equal:
        text = f"{len(equal)} degraded images are their clean ones, pixel by pixel"
        yield Check(one.label, "equal", "warn", text, "there is nothing to learn from them, and no score", equal)
    values = sorted((value, name) for name, value in survey.psnr.items() if math.isfinite(value))
    if values:
        mean = sum(value for value, _ in values) / len(values)
        ends = f"from {values[0][0]:.1f} ({values[0][1]}) to {values[-1][0]:.1f} ({values[-1][1]})"
        yield Check(one.label, "PSNR", "ok", f"degraded against clean: {mean:.2f} dB on average, {ends}")
    if survey.psnr:
        yield _mispaired(one, survey)


def _mispaired(one: DataSet, survey: Survey) -> Check:
    """Weather changes brightness more than what the picture shows; PSNR cannot tell haze from another picture."""
    pairs = [p for p in one.files() if p.degraded in survey.pictures and p.clean in survey.pictures]
    clean = list(dict.fromkeys(pair.clean for pair in pairs))
    of_clean = descriptors([survey.pictures[path].fingerprint for path in clean]).reshape(len(clean), -1)
    place = {path: index for index, path in enumerate(clean)}
    named = []
    for pair in pairs:
        assert pair.degraded is not None
        own = descriptors([survey.pictures[pair.degraded].fingerprint]).reshape(-1)
        alike = of_clean @ own
        if own.any() and of_clean[place[pair.clean]].any() and alike[place[pair.clean]] < LEAST_LIKE:
            nearest = int(alike.argmax())
            hint = f", it looks like {clean[nearest].name}" if alike[nearest] > CLEARLY_LIKE else ""
            named.append(f"{pair.degraded.name} with {pair.clean.name}{hint}")
    if named:
        text = f"{len(named)} pairs show different pictures"
        return Check(one.label, "partners", "warn", text, "look at them: probably mispaired", named)
    return Check(one.label, "partners", "ok", "the two images of each pair show the same picture")


def _repeated(one: DataSet, survey: Survey) -> Iterator[Check]:
    files = clean_files(one)
    prints = fingerprints(one)
    matches = matches_within(one)
    for kinds, name, text in (
        (("same pixels", "same picture"), "duplicates", "clean pictures come twice"),
        (("same scene",), "scenes", "clean pictures show nearly the same"),
    ):
        of_kind = [described(match, files, files) for match in matches if match.kind in kinds]
        advice = (
            "keep one of each; in a test set they count double" if name == "duplicates" else "keep them in one split"
        )
        if of_kind:
            yield Check(one.label, name, "warn", f"{len(of_kind)} {text}", advice, of_kind)
        else:
            yield Check(one.label, name, "ok", f"no {text}")
    plain = [path.name for path, p in zip(files, prints, strict=True) if is_plain(p)]
    if plain:
        text = f"{len(plain)} clean pictures are too plain to be known again when they are changed"
        yield Check(one.label, "plain", "note", text, "equal pixels are still found", plain)
    twice = _degraded_twice(one, survey)
    if twice:
        text = f"{len(twice)} degraded images belong to two clean ones"
        yield Check(one.label, "twice", "warn", text, "one of the two is wrong", twice)


def _degraded_twice(one: DataSet, survey: Survey) -> list[str]:
    """Equal pixels, but clean images that differ."""
    seen: dict[bytes, tuple[Path, bytes]] = {}
    named = []
    for pair in one.files():
        if pair.degraded in survey.pictures and pair.clean in survey.pictures:
            clean = survey.pictures[pair.clean].fingerprint.digest
            earlier = seen.setdefault(survey.pictures[pair.degraded].fingerprint.digest, (pair.degraded, clean))
            if earlier[1] != clean:
                named.append(f"{pair.degraded.name} = {earlier[0].name}")
    return named
