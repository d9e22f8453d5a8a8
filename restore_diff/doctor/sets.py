"""Checks of data sets: file names, unreadable files, sizes, mispaired images, duplicates, train-test leaks."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from restore_diff.data.cards import CardConfig, find_cards, load_card
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.leaks import Fingerprint, Match, descriptors, find_matches, fingerprint, is_plain
from restore_diff.data.names import DataError, ImageError, PairPath, list_images
from restore_diff.data.pairs import (
    MOST_CROPPED_PX,
    PairList,
    Split,
    find_pairs,
    layout_on_disk,
    two_folders,
)
from restore_diff.doctor.machine import Check, Status

SPLITS: tuple[Split, ...] = ("train", "test")
MIN_PAIR_SIMILARITY = 0.35
"""Least correlation of the descriptors of a degraded image and its clean one, measured in docs/doctor.md."""
CLEAR_SIMILARITY = 0.6
"""Least correlation at which another clean image is named as the probable partner."""


@dataclass(frozen=True)
class Picture:
    height: int
    width: int
    is_grey: bool
    fingerprint: Fingerprint

    def size(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass
class Survey:
    """The content of all files; each file is in `pictures` or in `unreadable`."""

    pictures: dict[Path, Picture] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)
    psnr: dict[str, float] = field(default_factory=dict)
    """dB of degraded against clean by the name of the pair; infinite where they are equal."""


@dataclass(frozen=True)
class DataSet:
    """One split of a source, with all files decoded."""

    label: str
    split: Split | None
    """None: the folder does not indicate its split."""
    pairs: PairList | None
    """None where the files could not be paired."""
    error: str
    files: tuple[PairPath, ...]
    """The pairs; without pairs, each image of the folders alone."""
    survey: Survey

    def readable_pairs(self) -> list[tuple[PairPath, Picture, Picture]]:
        """(pair, degraded picture, clean picture) of all pairs whose two files were decoded."""
        found = self.survey.pictures
        both = ((pair, found.get(pair.degraded or pair.clean), found.get(pair.clean)) for pair in self.files)
        return [(pair, a, b) for pair, a, b in both if pair.degraded is not None and a is not None and b is not None]

    def clean(self) -> dict[Path, Fingerprint]:
        """Decoded clean files, each once, in the order of the pairs."""
        paths = dict.fromkeys(pair.clean for pair in self.files)
        return {path: self.survey.pictures[path].fingerprint for path in paths if path in self.survey.pictures}

    def duplicates(self) -> list[Match]:
        """Matches among `clean`, with a progress bar."""
        return _matches(list(self.clean().values()), None, f"{self.label}: duplicates")


def _matches(first: list[Fingerprint], second: list[Fingerprint] | None, label: str) -> list[Match]:
    with tqdm(total=len(second or first), unit="picture", desc=label, leave=False, disable=None) as bar:
        return find_matches(first, second, bar.update)


def data_sets(source: str, root: Path, num_threads: int) -> Iterator[DataSet]:
    """Decode the splits of `source` that are on the disk; one data set with an error where there are none."""
    for split in _splits(source, root):
        label = f"{source} {split}" if split else source
        try:
            pairs, error = find_pairs(source, split or "test", root), ""
            files = pairs.pairs
        except DataError as reason:
            pairs, error, files = None, str(reason), _files_below(source, split)
        num_files = len({path for pair in files for path in (pair.clean, pair.degraded) if path is not None})
        with tqdm(total=num_files, unit="file", desc=label, disable=None) as bar:
            yield DataSet(label, split, pairs, error, files, _survey(files, num_threads, bar))


def _splits(source: str, root: Path) -> Sequence[Split | None]:
    if source in find_cards():
        try:
            return _splits_of_card(load_card(find_cards()[source]), root)
        except DataError:
            return [None]  # find_pairs raises it again
    folder = Path(source).expanduser()
    return [split for split in SPLITS if (folder / split).is_dir()] or [None]


def _splits_of_card(card: CardConfig, root: Path) -> Sequence[Split]:
    """The splits with files on the disk; without any, the last split of the card."""
    known: list[Split] = [split for split in SPLITS if getattr(card, split) is not None]
    found: list[Split] = [s for s in known if getattr(card, s).parts or layout_on_disk(getattr(card, s), root)]
    return found or known[-1:]


def _files_below(source: str, split: Split | None) -> tuple[PairPath, ...]:
    """Every image of a folder, or of two "DEGRADED:CLEAN", whose names could not be paired."""
    folder = Path(source).expanduser() / (split or "")
    files: dict[Path, PairPath] = {}
    for below in [folder] if folder.is_dir() else two_folders(source) or ():
        with contextlib.suppress(DataError):
            files |= {path: PairPath(None, path, name) for name, path in list_images(below).items()}
    return tuple(files.values())


def _survey(pairs: Iterable[PairPath], num_threads: int, bar: tqdm) -> Survey:
    """Decode all files as training does, each clean one once."""
    by_clean: dict[Path, list[PairPath]] = {}
    for pair in pairs:
        by_clean.setdefault(pair.clean, []).append(pair)
    found = Survey()
    with ThreadPoolExecutor(num_threads) as pool:  # Pillow and numpy release the interpreter lock
        for part in pool.map(_read_group, by_clean, by_clean.values()):  # an interrupt cancels the rest
            found.pictures |= part.pictures
            found.unreadable |= part.unreadable
            found.psnr |= part.psnr
            bar.update(len(part.pictures) + len(part.unreadable))
    return found


def _read_group(clean: Path, pairs: list[PairPath]) -> Survey:
    """Decode a clean file and all its degraded versions."""
    found = Survey()
    expected = _read(clean, found)
    for pair in pairs:
        pixels = _read(pair.degraded, found) if pair.degraded is not None else None
        if pixels is not None and expected is not None and pixels.shape == expected.shape:
            squared = np.square(pixels.astype(np.float32) - expected).mean(dtype=np.float64)
            found.psnr[pair.name] = 10 * math.log10(255**2 / squared) if squared else math.inf
    return found


def _read(path: Path, found: Survey) -> np.ndarray | None:
    """Return the pixels, uint8 (H,W,3), or None where the file cannot be decoded, and record it in `found`."""
    try:
        pixels = np.ascontiguousarray(read_rgb_uint8(path).permute(1, 2, 0).numpy())
    except ImageError as error:
        found.unreadable[path] = str(error)
        return None
    is_grey = bool((pixels[..., :1] == pixels[..., 1:]).all())
    found.pictures[path] = Picture(pixels.shape[0], pixels.shape[1], is_grey, fingerprint(pixels))
    return pixels


def check_leaks(first: DataSet, second: DataSet) -> Iterator[Check]:
    """Find clean pictures that are in both sets. Equal pictures are a failure unless both sets are of one split."""
    subject, ours, theirs = f"{first.label} / {second.label}", first.clean(), second.clean()
    matches = _matches(list(ours.values()), list(theirs.values()), f"{subject}: leaks")
    equal = [match for match in matches if match.kind != "same scene"]
    text = f"{len({match.second for match in equal})} of {len(theirs)} clean pictures of {second.label} are also in "
    named = _described(equal, list(ours), list(theirs))
    if not equal:
        yield Check(subject, "leaks", "ok", f"no clean picture in both, {len(ours)} x {len(theirs)} compared")
    elif first.split is not None and first.split == second.split:
        yield Check(subject, "shared", "note", text + first.label, f"both are for {first.split}", named)
    else:
        advice = "exclude them from training, or write a new split with --split"
        yield Check(subject, "leaks", "FAIL", text + first.label, advice, named)
    scenes = _described([match for match in matches if match.kind == "same scene"], list(ours), list(theirs))
    if scenes:
        text = f"{len(scenes)} pairs of clean pictures show nearly the same scene"
        yield Check(subject, "scenes", "warn", text, "inspect them; frames of one film are leaks too", scenes)


def _described(matches: Sequence[Match], first: Sequence[Path], second: Sequence[Path]) -> list[str]:
    """For each match `a.png = b.png (same picture, mirrored left to right, similarity 0.96)`."""
    lines = []
    for match in matches:
        paths = first[match.first], second[match.second]
        is_ambiguous = paths[0].name == paths[1].name
        names = " = ".join("/".join(path.parts[-3:]) if is_ambiguous else path.name for path in paths)
        similarity = "" if match.kind == "same pixels" else f"similarity {match.similarity:.2f}"
        lines.append(f"{names} ({', '.join(filter(None, (match.kind, match.turn, similarity)))})")
    return lines


def check_set(one: DataSet, crop_size_px: int) -> Iterator[Check]:
    """Check one data set alone."""
    yield _names(one)
    for note in one.pairs.notes if one.pairs else ():
        yield Check(one.label, "known", "note", note)
    yield _readable(one)
    if not one.survey.pictures:
        return
    yield _sizes(one)
    if one.split != "test":  # only training takes crops
        yield _crops(one, crop_size_px)
    yield _colours(one)
    if one.pairs:
        yield from _pairs(one)
        yield from _repeated(one)


def _names(one: DataSet) -> Check:
    if one.pairs is None:
        return Check(one.label, "names", "FAIL", one.error)
    degraded = [(pair.degraded, pair.clean) for pair in one.files if pair.degraded is not None]
    if not degraded:
        return Check(one.label, "names", "ok", f"{len(one.files)} clean photographs, to render weather on")
    example = next((both for both in degraded if both[0].stem != both[1].stem), None)
    rule = f"names like {example[0].name} and {example[1].name}" if example else "equal names"
    num_clean = len({pair.clean for pair in one.files})
    return Check(one.label, "names", "ok", f"{len(one.files)} pairs of {num_clean} clean images, by {rule}")


def _readable(one: DataSet) -> Check:
    num_read, unreadable = len(one.survey.pictures), one.survey.unreadable
    if not unreadable:
        return Check(one.label, "files", "ok", f"{num_read} files decoded completely, 8 bits per sample")
    text = f"{len(unreadable)} of {num_read + len(unreadable)} files cannot be used"
    return Check(one.label, "files", "FAIL", text, "replace or convert them", sorted(unreadable.values()))


def _sizes(one: DataSet) -> Check:
    max_difference = MOST_CROPPED_PX if one.pairs and one.pairs.crop_to_min else 0
    different = [
        f"{pair.name} ({degraded.size()} and {clean.size()})"
        for pair, degraded, clean in one.readable_pairs()
        if max(abs(degraded.height - clean.height), abs(degraded.width - clean.width)) > max_difference
    ]
    if different:
        text = f"{len(different)} pairs differ in size"
        return Check(one.label, "sizes", "FAIL", text, "crop both images to their common part", different)
    ordered = sorted(one.survey.pictures.values(), key=lambda picture: (picture.width * picture.height, picture.width))
    span = " to ".join(dict.fromkeys((ordered[0].size(), ordered[-1].size())))
    return Check(one.label, "sizes", "ok", f"{span}, {'equal within each pair' if one.survey.psnr else 'all read'}")


def _crops(one: DataSet, crop_size_px: int) -> Check:
    pictures = sorted(one.survey.pictures.items())
    small = [f"{path.name} ({p.size()})" for path, p in pictures if min(p.width, p.height) < crop_size_px]
    rule = f"smaller than the crop of {crop_size_px} px (data.crop_size_px)"
    if not small:
        return Check(one.label, "crop", "ok", f"no image is {rule}")
    status: Status = "FAIL" if one.split == "train" else "warn"
    advice = "set data.on_small=pad or skip, or a smaller crop"
    return Check(one.label, "crop", status, f"{len(small)} images are {rule}", advice, small)


def _colours(one: DataSet) -> Check:
    uneven = [pair.name for pair, degraded, clean in one.readable_pairs() if degraded.is_grey != clean.is_grey]
    if uneven:
        return Check(one.label, "colour", "warn", f"only one image is grey in {len(uneven)} pairs", "", uneven)
    num_grey, num = sum(picture.is_grey for picture in one.survey.pictures.values()), len(one.survey.pictures)
    return Check(one.label, "colour", "ok", f"{num_grey} of {num} files are grey" if num_grey else "no file is grey")


def _pairs(one: DataSet) -> Iterator[Check]:
    equal = sorted(name for name, value in one.survey.psnr.items() if math.isinf(value))
    if equal:
        text = f"{len(equal)} degraded images equal their clean ones in every pixel"
        yield Check(one.label, "equal", "warn", text, "remove them from training and test", equal)
    values = sorted((value, name) for name, value in one.survey.psnr.items() if math.isfinite(value))
    if values:
        mean = sum(value for value, _ in values) / len(values)
        ends = f"from {values[0][0]:.1f} ({values[0][1]}) to {values[-1][0]:.1f} ({values[-1][1]})"
        yield Check(one.label, "PSNR", "ok", f"degraded against clean: {mean:.2f} dB on average, {ends}")
    if one.survey.psnr:
        yield _partners(one)
        yield from _degraded_twice(one)


def _partners(one: DataSet) -> Check:
    """Compare descriptors, because weather changes brightness and so PSNR more than it changes structure."""
    pairs = one.readable_pairs()
    clean = list(dict.fromkeys(pair.clean for pair, _, _ in pairs))
    index = {path: number for number, path in enumerate(clean)}
    of_clean = descriptors([one.survey.pictures[path].fingerprint for path in clean]).reshape(len(clean), -1)
    named = []
    for pair, degraded, _ in pairs:
        assert pair.degraded is not None
        own, partner = descriptors([degraded.fingerprint]).reshape(-1), index[pair.clean]
        similarity = of_clean @ own
        if own.any() and of_clean[partner].any() and similarity[partner] < MIN_PAIR_SIMILARITY:
            nearest = int(similarity.argmax())
            hint = f", similar to {clean[nearest].name}" if similarity[nearest] > CLEAR_SIMILARITY else ""
            named.append(f"{pair.degraded.name} with {pair.clean.name}{hint}")
    if named:
        text = f"{len(named)} pairs show different pictures"
        return Check(one.label, "partners", "warn", text, "inspect them; they are probably mispaired", named)
    return Check(one.label, "partners", "ok", "the two images of each pair show the same picture")


def _degraded_twice(one: DataSet) -> Iterator[Check]:
    seen: dict[bytes, tuple[Path, bytes]] = {}
    named = []
    for pair, degraded, clean in one.readable_pairs():
        assert pair.degraded is not None
        content = pair.degraded, clean.fingerprint.digest
        earlier = seen.setdefault(degraded.fingerprint.digest, content)
        if earlier[1] != content[1]:
            named.append(f"{pair.degraded.name} = {earlier[0].name}")
    if named:
        text = f"{len(named)} degraded images are paired with two different clean images"
        yield Check(one.label, "twice", "warn", text, "remove the wrong pair", named)


def _repeated(one: DataSet) -> Iterator[Check]:
    clean, matches = one.clean(), one.duplicates()
    for is_scene, name, text, advice in (
        (False, "duplicates", "clean pictures are repeated", "keep one of each; in a test set they count twice"),
        (True, "scenes", "clean pictures show nearly the same scene", "keep them in one split"),
    ):
        found = [match for match in matches if (match.kind == "same scene") == is_scene]
        described = _described(found, list(clean), list(clean))
        status: Status = "warn" if found else "ok"
        yield Check(one.label, name, status, f"{len(found) or 'no'} {text}", advice if found else "", described)
    plain = [path.name for path, of_picture in clean.items() if is_plain(of_picture)]
    if plain:
        text = f"{len(plain)} clean pictures have too little detail to be recognised after a change"
        yield Check(one.label, "plain", "note", text, "equal pixels are still found", plain)
