"""Cards: the shipped ones pair files under their published names; every mistake in a card is reported."""

import hashlib
import sys
from pathlib import Path

import pytest

from restore_diff.data.cards import find_cards, load_card
from restore_diff.data.names import DataError
from restore_diff.data.pairs import find_pairs, shared_clean_images
from restore_diff.metrics.protocols import PROTOCOLS

CARDS = find_cards()
CARD = """
name: Mine
task: derain
source: my camera
licence: mine
citation: none
protocols: [rgb]
test:
  num_pairs: 2
  layouts: [{degraded: mine/wet, clean: mine/dry}]
"""
# card, split, degraded folder, clean folder: degraded > clean, ...; files of other splits
EXAMPLES = """
rain100l test Rain100L/input Rain100L/target: 1.png > 1.png, 10.png > 10.png
rain100l train RainTrainL RainTrainL: rain-1.png > norain-1.png; rainstreak-1.png
rain100h test Rain100H/rainy Rain100H: rain-001.png > norain-001.png
rain100l test rain_data_test_Light/rain/X2 rain_data_test_Light/norain: norain-001x2.png > norain-001.png
rain12 test Rain12/rain Rain12/groundtruth: 001_in.png > 001_GT.png
raindrop train raindrop/train/data raindrop/train/gt: 0_rain.png > 0_clean.png
raindrop test raindrop/test_a/input raindrop/test_a/gt: 0_rain.png > 0_rain.png
raindrop_b test raindrop/test_b/data raindrop/test_b/gt: 7_rain.jpg > 7_clean.jpg
outdoor_rain train outdoor-rain/train/input outdoor-rain/train/gt: im_0300_s80_a04.png > im_0300.png,\
 im_0300_s95_a06.png > im_0300.png, im_0351_s80_a04.png > im_0351.png; im_0301_s80_a04.png, im_0350_s100_a05.png
outdoor_rain test test1/input test1/gt: im_0301_s80_a04.png > im_0301.png
allweather train allweather/input allweather/gt: 0_rain.png > 0_rain.png; im_0301_s80_a04.png
snow100k_l train all/synthetic all/gt: city_read_00012.jpg > city_read_00012.jpg
sots_indoor train ITS/hazy ITS/clear: 1_1_0.90179.png > 1.png, 11_1_0.9.png > 11.png
sots_indoor test SOTS/indoor/hazy SOTS/indoor/gt: 1400_1.png > 1400.png, 1400_10.png > 1400.png
sots_outdoor train OTS/hazy OTS/clear: part1/0005_0.8_0.04.jpg > 0005.jpg
sots_outdoor test SOTS/outdoor/hazy SOTS/outdoor/clear: 0001_0.8_0.2.jpg > 0001.png
o_haze test O-HAZE/hazy O-HAZE/GT: 41_outdoor_hazy.jpg > 41_outdoor_GT.jpg;\
 40_outdoor_hazy.jpg, 41_outdoor_hazy_2.jpg
nh_haze train NH-HAZE NH-HAZE: 45_hazy.png > 45_GT.png; 46_hazy.png, 51_hazy.png
nh_haze test NH-HAZE NH-HAZE: 55_hazy.png > 55_GT.png; 45_hazy.png, 50_hazy.png
dense_haze test Dense-Haze/hazy Dense-Haze/GT: 51_hazy.png > 51_GT.png; 50_hazy.png
"""


def test_shipped_cards_are_valid_and_name_known_protocols():
    for path in CARDS.values():
        content = load_card(path)
        assert set(content.protocols) <= set(PROTOCOLS) and (content.train or content.test)
    expected = "rain100l rain100h rain13k rain12 raindrop outdoor_rain snow100k_s snow100k_l sots_indoor sots_outdoor"
    assert {*expected.split(), "o_haze", "nh_haze", "dense_haze", "allweather", "skimage"} <= set(CARDS)


@pytest.mark.parametrize("example", EXAMPLES.strip().splitlines())
def test_a_card_pairs_files_by_their_published_names(make_images, tmp_path, example):
    (card, split, degraded, clean), (files, _, others) = (
        part.split() if at == 0 else part.partition("; ") for at, part in enumerate(example.split(": "))
    )
    pairs = [file.split(" > ") for file in files.split(", ")]
    expected = {(f"{degraded}/{left}", f"{clean}/{right}") for left, right in pairs}
    make_images("", [name for pair in expected for name in pair])
    make_images(degraded, others.split(", ") if others else [])
    found = find_pairs(card, split, tmp_path)
    relative = {
        (str(p.degraded and p.degraded.relative_to(tmp_path)), str(p.clean.relative_to(tmp_path))) for p in found.pairs
    }
    assert relative == expected
    assert found.notes[0].startswith(f"{len(pairs)} {split} pairs were found, ") and found.protocols


def test_a_missing_data_set_is_reported_with_folder_and_source(tmp_path):
    with pytest.raises(DataError, match=r"Rain100L/input and Rain100L/target or .*; from https://www\.icst"):
        find_pairs("rain100l", "test", tmp_path)
    with pytest.raises(DataError, match="Rain12 has no train split"):
        find_pairs("rain12", "train", tmp_path)


def test_skimage_photographs_need_no_import_and_splits_are_disjoint():
    imported = "skimage" in sys.modules
    train, test = (find_pairs("skimage", split, Path("none")) for split in ("train", "test"))
    assert ("skimage" in sys.modules) == imported
    assert [pair.name for pair in test.pairs] == ["chelsea", "coffee", "rocket"] and len(train.pairs) == 11
    assert not shared_clean_images(train, test)
    digests = {hashlib.sha256(pair.clean.read_bytes()).hexdigest() for pair in train.pairs + test.pairs}
    assert len(digests) == 14 and all(pair.degraded is None for pair in train.pairs + test.pairs)


def test_a_card_in_the_current_folder_is_found(make_images, tmp_path, monkeypatch):
    for folder in ("mine/wet", "mine/dry"):
        make_images(folder, ["1.png", "2.png"])
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/mine.yaml").write_text(CARD)
    monkeypatch.chdir(tmp_path)
    found = find_pairs("mine", "test", Path())
    assert (found.name, len(found.pairs), found.protocols, found.notes) == ("Mine", 2, ("rgb",), ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task: derain": "task: dereign"}, "task: Input should be"),
        ({"num_pairs: 2": "num_pairs: 0"}, "test.num_pairs: "),
        ({"clean: mine/dry": "clean: mine/dry, clean_id: '(?P<i>.*)'"}, "needs a group (?P<id>...)"),
        ({"clean: mine/dry": "clean: mine/dry, clean_id: '(?P<id>'"}, "is not a regular expression"),
        ({"licence: mine": "lisence: mine"}, "licence: Field required"),
        ({"name: Mine": "name: ["}, "while parsing"),
        ({"name: Mine": "", "num_pairs: 2": "num_pairs: two"}, "name: Field required; test.num_pairs: "),
    ],
)
def test_all_mistakes_in_a_card_are_reported_with_the_file(tmp_path, changes, expected):
    path, text = tmp_path / "card.yaml", CARD
    for old, new in changes.items():
        text = text.replace(old, new)
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_card(path)
    assert str(caught.value).startswith(f"{path}: ") and expected in str(caught.value)
    assert "\n" not in str(caught.value)
