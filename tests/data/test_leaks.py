"""Pictures are recognised after every change that data sets make to them, and unrelated pictures do not match."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from restore_diff.data.leaks import (
    SAME_PICTURE,
    SAME_SCENE,
    TURNS,
    Fingerprint,
    aligned_similarity,
    descriptors,
    find_matches,
    fingerprint,
    groups,
    own_similarity,
)

NAMES = ("astronaut.png", "coffee.png", "chelsea.png", "camera.png", "rocket.jpg", "motorcycle_left.png", "ihc.png")
FOLDER = Path(skimage.__file__).parent / "data"


def texture(seed: int) -> Image.Image:
    """A cloudy picture of 320 x 240 with detail at every size, as in photographs."""
    draw = np.random.default_rng(seed)
    octaves = [gaussian_filter(draw.normal(size=(240, 320, 3)), (2**k, 2**k, 0.5)) * 2**k for k in range(1, 6)]
    mixed = sum(octaves) / np.std(sum(octaves))
    return Image.fromarray((128 + 45 * mixed).clip(0, 255).astype(np.uint8))


PICTURES = [Image.open(FOLDER / name).convert("RGB").resize((360, 270)) for name in NAMES]
PICTURES += [texture(seed) for seed in range(8)]


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, left_top: int, right_bottom: int) -> Image.Image:
    return image.crop((left_top, left_top, image.width - right_bottom, image.height - right_bottom))


def with_gamma(image: Image.Image, gamma: float) -> Image.Image:
    return image.point([round(255 * (level / 255) ** gamma) for level in range(256)] * 3)


def changed_in_all_ways(image: Image.Image) -> Image.Image:
    return compressed(scaled(ImageOps.mirror(cropped(with_gamma(image, 0.9), 8, 8)), 0.75), 50)


CHANGES = {
    "crop of 8 px": lambda image: cropped(image, 8, 8),
    "crop of a corner": lambda image: cropped(image, 8, 0),
    "mirrored": ImageOps.mirror,
    "quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "half size": lambda image: scaled(image, 0.5),
    "made square": lambda image: image.resize((256, 256)),
    "JPEG": lambda image: compressed(image, 40),
    "brighter": lambda image: with_gamma(image, 0.8),
    "all at once": changed_in_all_ways,
}


def fingerprints(pictures: Sequence[Image.Image]) -> list[Fingerprint]:
    return [fingerprint(np.asarray(picture)) for picture in pictures]


@pytest.fixture(scope="module")
def originals() -> list[Fingerprint]:
    return fingerprints(PICTURES)


@pytest.mark.parametrize("change", CHANGES)
def test_every_changed_picture_is_found_and_no_other(originals, change):
    matches = find_matches(originals, fingerprints([CHANGES[change](picture) for picture in PICTURES]))
    assert [(match.first, match.second) for match in matches] == [(i, i) for i in range(len(PICTURES))]
    assert {match.kind for match in matches} == {"same picture"}


def test_unrelated_pictures_do_not_match(originals):
    assert find_matches(originals) == []


def test_flat_pictures_match_by_their_pixels_only():
    flat = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "red", "#646464", "#656565")]
    (match,) = find_matches(fingerprints(flat))
    assert match[:3] == (0, 2, "same pixels") and match.similarity == 1
    faint = 120 + np.asarray(texture(5)) // 96
    assert faint.std() > 0.3 and not descriptors([fingerprint(faint.astype(np.uint8))]).any()


def test_a_small_picture_without_its_border_is_found():
    small = [scaled(picture, 0.4) for picture in PICTURES]
    prints, without_border = fingerprints(small), fingerprints([cropped(picture, 8, 8) for picture in small])
    found = find_matches(prints, without_border) + find_matches(without_border, prints)
    assert sum(match.first == match.second for match in found) >= 2 * 14
    assert all(match.first == match.second for match in found)


@pytest.mark.parametrize("turn", range(len(TURNS)))
def test_the_orientation_of_a_match_is_named(originals, turn):
    pixels = np.asarray(PICTURES[0])
    turned = pixels.swapaxes(0, 1) if turn & 4 else pixels
    turned = np.flip(turned, tuple(axis for axis, bit in ((0, 2), (1, 1)) if turn & bit))
    back = (0, 1, 2, 3, 4, 6, 5, 7)[turn]  # the quarter turns undo each other, every other one itself
    (match,) = find_matches(originals[:1], [fingerprint(np.ascontiguousarray(turned))])
    assert match.turn == TURNS[back]
    if turn == 6:
        to_the_left = fingerprints([PICTURES[0].transpose(Image.Transpose.ROTATE_90)])
        assert find_matches(originals[:1], to_the_left)[0].turn == "turned right by 90 degrees"


def test_views_from_nearby_points_are_one_scene_and_not_one_picture():
    common, other = np.asarray(texture(1), float), np.asarray(texture(2), float)
    mixed = Image.fromarray((0.65 * common + 0.35 * other).clip(0, 255).astype(np.uint8))
    (match,) = find_matches(fingerprints([texture(1)]), fingerprints([mixed]))
    assert match.kind == "same scene" and SAME_SCENE <= match.similarity < SAME_PICTURE
    stereo = [Image.open(FOLDER / f"motorcycle_{side}.png") for side in ("left", "right")]
    (match,) = find_matches(fingerprints(stereo))
    assert match.kind == "same scene"


def test_one_edge_in_an_empty_sky_is_not_a_match():
    rows, columns = np.mgrid[:64, :64]
    hill = np.where(rows > 50 - columns / 8, 60.0, 180.0)
    another = np.where(rows > 52 - columns / 6, 60.0, 180.0)
    assert aligned_similarity(hill, another) < SAME_SCENE
    assert own_similarity(hill) < SAME_SCENE  # reported as too plain


def test_brightness_contrast_and_a_shift_do_not_change_the_similarity():
    whole = np.asarray(texture(3).convert("L").resize((66, 66)), float)
    picture, shifted = whole[:64, :64], 0.8 * whole[2:, 1:65] + 30
    assert aligned_similarity(picture, shifted) == pytest.approx(own_similarity(picture), abs=0.02)


def test_each_pair_within_a_list_is_reported_once_and_joins_a_group(originals):
    prints = originals[:3] + fingerprints([ImageOps.mirror(PICTURES[1]), PICTURES[2]])
    matches = find_matches(prints)
    assert [match[:3] for match in matches] == [(1, 3, "same picture"), (2, 4, "same pixels")]
    chain = [matches[0]._replace(first=i, second=j) for i, j in ((0, 2), (2, 4))]
    labels = groups(5, chain)
    assert labels[0] == labels[2] == labels[4] and len(set(labels)) == 3


def test_copies_are_found_across_blocks_and_progress_is_reported(monkeypatch, originals):
    monkeypatch.setattr("restore_diff.data.leaks.BLOCK", 4)
    mirrored = fingerprints([ImageOps.mirror(PICTURES[0]), ImageOps.mirror(PICTURES[9])])
    counts: list[int] = []
    found = {(match.first, match.second) for match in find_matches(originals + mirrored, None, counts.append)}
    assert found == {(0, len(PICTURES)), (9, len(PICTURES) + 1)} and sum(counts) == len(PICTURES) + 2
