"""Pairs are found by name, and held out by photograph; files that do not fit are reported."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from reading import parts_of

from restore_diff.data import pairs as pairs_module
from restore_diff.data.loading import PairedImageDataset
from restore_diff.data.names import DataError, PairPath
from restore_diff.data.pairs import PairList, Split, find_pairs, hold_out, shared_clean_images


def listed(source: Path | str, split: Split = "test") -> PairList:
    return find_pairs(str(source), split, Path("none"))


def found(source: Path | str, split: Split = "test") -> dict[str, str]:
    """Return name -> clean name, in the order of the list."""
    pairs = listed(source, split).pairs
    assert [pair.name for pair in pairs] == sorted(pair.name for pair in pairs)
    return {pair.name: pair.clean.stem for pair in pairs}


def refusal(source: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        listed(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("folders", "pairs"),
    [
        ("input target", {"1.png": "1.jpg", "2.png": "2.PNG", "10.png": "10.png"}),
        ("LQ GT", {"sub/1.png": "sub/1.png", "other/1.png": "other/1.png"}),
        ("rain norain", {"rain-001.png": "norain-001.png", "rain-002.png": "norain-002.png"}),
        ("data gt", {"0_rain.png": "0_clean.png", "1_rain.png": "1_clean.png"}),
        ("hazy GT", {"01_outdoor_hazy.jpg": "01_outdoor_GT.jpg"}),
        ("hazy clear", {"1400_3.png": "1400.png", "1400_10.png": "1400.png", "1401_3.png": "1401.png"}),
        ("haze gt", {"0001_0.8_0.2.jpg": "0001.png", "0002_1_0.04.jpg": "0002.png"}),
        ("input_crops target_crops", {"0001_s001.png": "0001_s001.png"}),  # Restormer
        ("blur_crops sharp_crops", {"0001-s001.png": "0001-s001.png"}),  # NAFNet
        ("Snow Gt", {"1.tif": "1.tif"}),  # CSD
        ("in gt", {"im_1_s80_a04.png": "im_1.png"}),
        ("blur gt", {"blur_1.png": "gt_1.png"}),
        ("in/snow in/clean", {"im_1_s80_a04.png": "im_1.png", "im_11_s80_a04.png": "im_11.png"}),
    ],
)
def test_known_folders_pair_up_by_name(make_images, tmp_path, folders, pairs):
    degraded, clean = folders.split()
    make_images(degraded, list(pairs))
    make_images(clean, list(set(pairs.values())))
    (tmp_path / clean / ".DS_Store").write_bytes(b"\0")
    expected = {(tmp_path / degraded / left, tmp_path / clean / right) for left, right in pairs.items()}
    assert {pair[:2] for pair in listed((tmp_path / degraded).parent).pairs} == expected


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "Test"), ("train_set", "test_set"), ("training", "val")]
)
def test_folders_of_splits_are_entered_by_their_usual_names(make_images, tmp_path, train, test):
    for split, names in ((train, ["1.png", "2.png"]), (test, ["3.png"])):
        make_images(f"set/{split}/input", names)
        make_images(f"set/{split}/groundtruth", names)
    assert list(found(tmp_path / "set", "train")) == ["1", "2"] and list(found(tmp_path / "set", "test")) == ["3"]


def test_validation_folders_are_used_only_where_there_is_no_test_folder(make_images, tmp_path):
    for split, names in (("val", ["1.png"]), ("test", ["2.png"])):
        make_images(f"set/{split}", names)
    assert list(found(tmp_path / "set", "test")) == ["2"]


def test_two_folders_with_any_name_are_given_by_a_colon(make_images):
    wet, dry = make_images("wet", ["1.png"]), make_images("dry", ["1.png"])
    assert found(f"{wet}:{dry}") == {"1": "1"}
    assert "does not exist" in refusal(f"{wet}:{dry}x")


def test_a_source_of_a_plugin_is_found_before_cards_and_folders(make_images, monkeypatch):
    photographs = listed(make_images("photos", ["a.png"]))
    calls = []

    def source(argument: str, split: str, root: Path) -> PairList:
        calls.append((argument, split, root))
        return photographs

    monkeypatch.setitem(pairs_module.SOURCES, "rain100l", source)
    for text in ("rain100l", "rain100l:s3://bucket/x:y"):
        assert find_pairs(text, "train", Path("data")) is photographs
    assert calls == [(argument, "train", Path("data")) for argument in ("", "s3://bucket/x:y")]


def test_a_folder_of_images_is_clean_photographs(make_images, tmp_path):
    make_images("photos", ["b.png", "a.jpg", "c.png", ".hidden.png", "._b.png"])
    (tmp_path / "photos/desktop.ini").write_text("[x]")
    (tmp_path / "photos/c.png").rename(tmp_path / "photos/c")  # recognised by its content
    photographs = listed(tmp_path / "photos")
    assert [(pair.name, pair.degraded) for pair in photographs.pairs] == [("a", None), ("b", None), ("c", None)]
    with pytest.raises(DataError, match="clean photographs only"):
        PairedImageDataset(photographs, None, seed=0)


def test_missing_partners_are_named_up_to_ten_and_counted(make_images, tmp_path):
    make_images("input", [f"{i:02}.png" for i in range(30)])
    make_images("target", [f"{i:02}.png" for i in range(15)] + ["x.png"])
    message = refusal(tmp_path)
    assert "15 degraded images have no clean partner (15, 16, " in message and "24, ... and 5 more)" in message
    assert "1 clean images have no degraded partner (x)" in message


@pytest.mark.parametrize(
    ("degraded", "clean"),
    [
        (["1.png", "1_2.png", "2.png"], ["1.png", "2.png"]),  # 1_2 is not a second version of 1: its partner is missing
        (["a.png", "b.png"], ["b.png", "c.png"]),
        (["A.png"], ["a.png"]),
        (["rain-001.png"], ["norain-011.png"]),
        (["100_1.png"], ["10.png"]),
    ],
)
def test_similar_names_are_not_a_pair(make_images, tmp_path, degraded, clean):
    make_images("input", degraded)
    make_images("target", clean)
    assert "do not pair up" in refusal(tmp_path)


def test_folders_that_are_empty_or_ambiguous_are_refused(make_images, tmp_path):
    (tmp_path / "text").mkdir()
    for i in range(3):
        (tmp_path / "text" / f"{i}.txt").write_text("no image")
    assert refusal(tmp_path / "text").startswith(f"0 images under {tmp_path / 'text'} (found 3 files; accepted: .png")
    for folder in ("half/input", "half/result", "two/input"):
        make_images(folder, ["1.png"])
    assert "which two folders" in refusal(tmp_path / "half")
    make_images("two/target", ["1.png", "1.jpg"])
    assert "1.jpg and 1.png have the same name" in refusal(tmp_path / "two")
    assert "neither a card nor a folder; did you mean rain100l" in refusal("rain100")
    assert "cards: " in refusal("/nowhere")


def test_pairs_come_whole_in_unit_range_and_of_equal_size(make_images, tmp_path):
    for folder in ("input", "target"):
        make_images(folder, ["1.png"], size=(9, 14))
    pairs = listed(tmp_path)
    clean, degraded, name = PairedImageDataset(pairs, None, seed=0)[0]
    assert name == "1" and degraded is not None and clean.shape == degraded.shape == (3, 9, 14)
    for folder, image in (("input", degraded), ("target", clean)):
        with Image.open(tmp_path / folder / "1.png") as file:
            assert (image * 255).round().byte()[:, 2, 5].tolist() == list(file.getpixel((5, 2)))  # type: ignore[arg-type]
    make_images("input", ["1.png"], size=(9, 15))
    with pytest.raises(DataError, match=r"input/1\.png is 15x9, .*target/1\.png is 14x9"):
        PairedImageDataset(pairs, None, seed=0)[0]


def test_rendered_weather_depends_on_seed_and_name_only(make_images, tmp_path):
    def render(clean, seeds, weathers):
        return torch.stack([(image + seed % 1000 / 1000) / 2 for image, seed in zip(clean, seeds, strict=True)])

    pairs = listed(make_images("photos", ["a.png", "b.png", "c.png"]))
    images = [PairedImageDataset(pairs, render, seed=3)[at] for at in range(3)]
    alone = PairedImageDataset(PairList("one", pairs.pairs[2:]), render, seed=3)[0].degraded
    other = PairedImageDataset(pairs, render, seed=4)[2].degraded
    assert alone is not None and other is not None and not torch.equal(alone, other)
    assert torch.equal(alone, images[2].degraded)  # type: ignore[arg-type]
    offsets = [2 * image.degraded - image.clean for image in images]  # type: ignore[operator]
    assert not torch.allclose(offsets[0], offsets[1])


def test_test_images_that_were_trained_on_are_named(make_images, tmp_path):
    make_images("train", ["a.png", "b.png"])
    make_images("test", ["x.png", "y.png"])
    (tmp_path / "test/z.png").write_bytes((tmp_path / "train/b.png").read_bytes())
    train, test = (find_pairs(str(tmp_path / split), split, Path("none")) for split in ("train", "test"))
    assert shared_clean_images(train, test) == ["z"]
    assert shared_clean_images(train, PairList("other", test.pairs[:2])) == []


def versions(num_clean: int, num_versions: int = 3) -> PairList:
    """Pairs of several degraded versions of each clean image."""
    each = [(i, v) for i in range(num_clean) for v in range(num_versions)]
    pairs = [PairPath(Path(f"{i}_{v}.png"), Path(f"{i}.png"), f"{i}_{v}") for i, v in each]
    return PairList("toy", tuple(pairs), ("rgb",), ("a note",))


def held_out(pairs: PairList, num_clean: int) -> tuple[PairList, PairList]:
    training, validation = hold_out(pairs, num_clean)
    assert validation is not None
    assert {pair.clean for pair in validation.pairs}.isdisjoint(pair.clean for pair in training.pairs)
    return training, validation


def test_all_versions_of_a_held_out_photograph_leave_training():
    training, validation = held_out(versions(40), 8)
    assert len({pair.clean for pair in validation.pairs}) == len(validation.pairs) == 8
    assert len(training.pairs) == 3 * 32


def test_at_most_a_fifth_is_held_out():
    assert len(held_out(versions(11), 8)[0].pairs) == 3 * 9
    for pairs, num_clean in ((versions(4), 8), (versions(1, 1), 8), (versions(40), 0)):
        assert hold_out(pairs, num_clean) == (pairs, None)


def test_the_held_out_choice_depends_on_names_only():
    pairs = versions(40)
    reverse = PairList("toy", tuple(reversed(pairs.pairs)))
    first, second = ({pair.clean for pair in held_out(one, 4)[1].pairs} for one in (pairs, reverse))
    assert first == second
    paths = [Path(f"{folder:02}/1.png") for folder in range(40)]  # equal names: the first paths
    equal = PairList("toy", tuple(PairPath(None, path, str(path)) for path in paths))
    assert [pair.clean for pair in held_out(equal, 4)[1].pairs] == paths[:4]


def test_each_part_gives_and_validates_up_to_a_fifth_of_its_own(monkeypatch):
    monkeypatch.setattr("restore_diff.data.pairs.copies_of", lambda files, among: set(files))  # there are no files
    training, validation = held_out(parts_of(100, 10, 4, weights=(1, 1, 1)), 8)
    assert Counter(pair.part for pair in validation.pairs) == {0: 6, 1: 2}
    assert Counter(pair.part for pair in training.pairs) == {0: 94, 1: 8, 2: 4}
    assert Counter(pair.part for pair in hold_out(parts_of(10, 90, weights=(1, 1), folder="same"), 30)[0].pairs)[0] == 8
    training, validation = held_out(parts_of(20, 20, 20, weights=(1, 1, 1), folder="same"), 4)
    assert not validation.weights and training.weights == (1, 1, 1)
    assert len({pair.clean for pair in validation.pairs}) == 4 and len(validation.pairs) == 12
    assert len(training.pairs) == 48


def test_a_copy_of_a_held_out_photograph_leaves_training_too(make_images):
    first = make_images("first", [f"{i}.png" for i in range(5)])
    second = make_images("second", [f"{i}.png" for i in range(7)])
    for path in first.iterdir():
        (second / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    both = listed(first).pairs + tuple(pair._replace(part=1) for pair in listed(second).pairs)
    training, validation = held_out(PairList("twice", both, weights=(1, 1)), 8)
    assert len(validation.pairs) == 1 + 2
    held = {pair.clean.read_bytes() for pair in validation.pairs}
    assert held.isdisjoint(pair.clean.read_bytes() for pair in training.pairs)
