"""What is wrong within one data set: names, files, sizes, pairs of different pictures, pictures that come twice."""

import math
from collections.abc import Iterator
from pathlib import Path

from restore_diff.data.checks import MOST_CROPPED_PX
from restore_diff.data.leaks import descriptors, is_plain
from restore_diff.data.names import PairPath
from restore_diff.doctor.check import Check, Status
from restore_diff.doctor.leak_checks import clean_files, described, fingerprints, matches_within
from restore_diff.doctor.sets import DataSet
from restore_diff.doctor.survey import Survey

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
