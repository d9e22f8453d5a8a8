"""Cards pair files under published names, or join data sets; every mistake in a card is reported."""

import hashlib
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from reading import take

from restore_diff.data.cards import find_cards, load_card
from restore_diff.data.loading import PairedImageDataset, TrainingBatches
from restore_diff.data.names import DataError
from restore_diff.data.pairs import PairList, find_pairs, shared_clean_images
from restore_diff.metrics.protocols import PROTOCOLS

CARDS = find_cards()
HEAD = "name: {}\ntask: all_weather\nsource: somewhere.org/{}\nlicence: mine\ncitation: none\nprotocols: [rgb]\n"
WET = "train: {num_pairs: 3, layouts: [{degraded: wet/input, clean: wet/gt}]}\n"
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


@pytest.fixture
def write_card(tmp_path, monkeypatch):
    """write_card("name", text) makes a card in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets").mkdir()

    def write(name: str, text: str) -> Path:
        path = tmp_path / "datasets" / f"{name}.yaml"
        path.write_text(HEAD.format(name, name) + text)
        return path

    return write


@pytest.fixture
def mixture(write_card, make_images) -> PairList:
    """Three real pairs with weight 2, five photographs in rain, and the same five in snow."""
    for folder in ("wet/input", "wet/gt"):
        make_images(folder, ["0.png", "1.png", "2.png"])
    make_images("photos", [f"{i}.png" for i in range(5)])
    write_card("wet", WET)
    folders = [f"{{folder: photos, weather: {weather}}}" for weather in ("rain", "snow")]
    write_card("mixed", parts("{card: wet, weight: 2}", *folders))
    return find_pairs("mixed", "train", Path())


def parts(*written: str) -> str:
    return f"train: {{parts: [{', '.join(written)}]}}\n"


def refusal(source: str) -> str:
    with pytest.raises(DataError) as caught:
        find_pairs(source, "train", Path())
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_a_card_in_the_current_folder_is_found(make_images, write_card):
    for folder in ("wet/input", "wet/gt"):
        make_images(folder, ["1.png", "2.png"])
    write_card("wet", WET.replace("3", "2"))
    found = find_pairs("wet", "train", Path())
    assert (found.name, len(found.pairs), found.protocols, found.notes) == ("wet", 2, ("rgb",), ())


def test_a_card_joins_cards_and_folders_each_with_its_weather(mixture):
    assert Counter((pair.name.split("/")[0], pair.weather, pair.part) for pair in mixture.pairs) == {
        ("wet", None, 0): 3,
        ("photos-rain", "rain", 1): 5,
        ("photos-snow", "snow", 2): 5,
    }
    assert len({pair.name for pair in mixture.pairs}) == 13 and mixture.weights == (2, 1, 1)


def test_a_part_that_joins_others_divides_its_weight_among_them(mixture, write_card):
    write_card("outer", parts("{card: mixed, weight: 6}", "{card: wet, weight: 2}", "{card: wet}"))
    outer = find_pairs("outer", "train", Path())
    assert outer.weights == (3, 1.5, 1.5, 2, 1)
    assert Counter(pair.part for pair in outer.pairs) == {0: 3, 1: 5, 2: 5, 3: 3, 4: 3}
    assert {pair.name.rsplit("/", 1)[0] for pair in outer.pairs if pair.part >= 3} == {"wet", "wet~2"}


def test_a_split_of_photographs_sets_its_weather(write_card, make_images):
    make_images("dry", ["a.png"])
    write_card("clean", "train: {num_pairs: 1, weather: haze, layouts: [{clean: dry}]}\n")
    assert [pair.weather for pair in find_pairs("clean", "train", Path()).pairs] == ["haze"]


def test_every_missing_part_is_reported_with_its_source(write_card):
    write_card("wet", WET)
    write_card("mixed", parts("{card: wet}", "{folder: photos, weather: rain}", "{card: wett}"))
    assert refusal("mixed") == (
        "mixed: 3 of its 3 parts cannot be used: wet: not found below .; expected wet/input and wet/gt; from "
        "somewhere.org/wet; photos: no such folder; put clean photographs there; wett: no such card; did you mean wet?"
    )


def test_a_circle_of_cards_is_refused(write_card):
    write_card("a", parts("{card: b}"))
    write_card("b", parts("{card: a}"))
    assert "cards join each other in a circle: a -> b -> a" in refusal("a")


def test_weather_is_not_rendered_on_a_part_with_degraded_images(mixture, write_card):
    write_card("wrong", parts("{card: wet, weather: rain}", "{folder: wet, weather: rain}"))
    reason = "wet has degraded images of its own: rain is rendered on clean ones alone"
    assert refusal("wrong") == f"wrong: 2 of its 2 parts cannot be used: {reason}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WET.replace("num_pairs: 3", "num_pairs: 0"), "train.num_pairs: "),
        (
            WET.replace("gt}", "gt, clean_id: '(?P<i>.*)'}"),
            "train.layouts.0.clean_id: '(?P<i>.*)' needs a group (?P<id>",
        ),
        (
            WET.replace("gt}", "gt, clean_id: '(?P<id>'}"),
            "train.layouts.0.clean_id: '(?P<id>' is not a regular express",
        ),
        (parts("{card: a, wheight: 2}"), "train.parts.0.wheight: unknown key; did you mean weight?"),
        (parts("{card: a, weight: 0}"), "train.parts.0.weight: Input should be greater than 0"),
        (parts("{weight: 1}"), "train.parts.0: a part is either a card or a folder"),
        (parts("{card: a, folder: b}"), "train.parts.0: a part is either a card or a folder"),
        ("train: {num_pairs: 1}\n", "train: a split has either layouts or parts"),
        ("train: {layouts: [{clean: a}]}\n", "train: num_pairs is missing"),
        ("train: {num_pairs: 1, parts: [{card: a}]}\n", "train: num_pairs and weather belong to layouts"),
        ("train: {num_pairs: 1, weather: rain, layouts: [{clean: a, degraded: b}]}\n", "train: weather is rendered on"),
        ("train: {num_pairs: 1, layouts: [{clean: a, degradde: b}]}\n", "train.layouts.0.degradde: unknown key; did"),
        ("trian: {}\n", "trian: unknown key; did you mean train?"),
        (WET + "task: derain\n", "while constructing a mapping"),
        ("name: [", "while parsing"),
    ],
)
def test_mistakes_in_a_card_are_reported_with_file_and_key(write_card, text, message):
    path = write_card("card", text)
    with pytest.raises(DataError) as caught:
        load_card(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_all_mistakes_in_a_card_are_reported(write_card):
    path = write_card("card", WET.replace("3", "two"))
    path.write_text(path.read_text().replace("all_weather", "wether").replace("licence", "lisence"))
    with pytest.raises(DataError) as caught:
        load_card(path)
    for message in ("licence: Field required", "lisence: unknown key", "task: Input should be", "train.num_pairs: "):
        assert message in str(caught.value)


def test_the_cards_of_the_documentation_are_valid(write_card):
    text = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text()
    whole, joined = (block.partition("```")[0] for block in text.split("```yaml\n")[1:])
    path = write_card("documented", joined)
    assert [part.weight for part in load_card(path).train.parts] == [1, 0.5, 2]  # type: ignore[union-attr]
    path.write_text(whole)
    assert load_card(path).test.weather == "rain"  # type: ignore[union-attr]


def test_the_weather_card_runs_after_a_bare_install():
    train, test = (find_pairs("weather", split, Path("none")) for split in ("train", "test"))
    kinds = ("rain", "haze", "snow", "raindrop")
    assert train.weights == (1, 1, 1, 1) and Counter(p.weather for p in train.pairs) == dict.fromkeys(kinds, 11)
    assert Counter(p.weather for p in test.pairs) == dict.fromkeys(kinds, 3)


def test_a_pair_is_rendered_with_its_own_weather(mixture, data_config):
    levels = {"rain": 0.2, "snow": 0.8}

    def render(clean, seeds, weathers):
        return torch.stack([torch.full_like(image, levels[w]) for image, w in zip(clean, weathers, strict=True)])

    for batch in take(TrainingBatches(mixture, render, data_config(), 8, 1, seed=0), 6):
        for degraded, name in zip(batch.degraded, batch.names, strict=True):  # type: ignore[arg-type]
            part = name.split("/")[0]
            assert part == "wet" or bool((degraded == levels[part.removeprefix("photos-")]).all())
    images = PairedImageDataset(mixture, render, seed=0)
    assert [round(float(images[i].degraded.mean()), 1) for i in (3, 12)] == [0.2, 0.8]  # type: ignore[union-attr]
