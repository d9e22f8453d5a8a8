"""Damaged and small training images are reported before the training or when they are read, or are replaced."""

import logging
from pathlib import Path

import pytest
import torch
from reading import half, names, same, take

from restore_diff.data.images import ImageError, scan_files
from restore_diff.data.loading import TrainingBatches
from restore_diff.data.names import DataError
from restore_diff.data.pairs import PairList, find_pairs


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def spoil(path: Path) -> None:
    """Change a byte in the middle; length, header and end stay."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def photographs(make_images) -> PairList:
    """Six photographs of 40 px."""
    return find_pairs(str(make_images("photos", [f"{i}.png" for i in range(6)], size=(40, 40))), "train", Path())


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_file_is_reported_before_the_training(make_images, data_config, suffix):
    folder = make_images("photos", [f"{i}.{suffix}" for i in range(4)], size=(40, 40))
    pairs = find_pairs(str(folder), "train", Path())
    for number in (1, 3):
        cut(folder / f"{number}.{suffix}")
    with pytest.raises(ImageError) as caught:
        TrainingBatches(pairs, half, data_config(cache_mib=0), 2, 1, seed=0)
    assert str(caught.value).startswith(f"{folder}/1.{suffix}: damaged or truncated")
    assert str(caught.value).endswith("; 1 more files cannot be read") and "\n" not in str(caught.value)


def test_a_file_with_appended_data_is_intact(make_images):
    files = ("a.png", "b.jpg", "c.webp")
    folder = make_images("photos", list(files))
    for name in files:
        (folder / name).write_bytes((folder / name).read_bytes() + b"appended")
    scan = scan_files(folder / name for name in files)
    assert len(scan.sizes) == 3 and not scan.damaged


@pytest.mark.parametrize("damage", [cut, spoil])
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_a_damaged_pair_is_replaced_and_no_other_place_changes(photographs, data_config, caplog, damage, cache_mib):
    def batches(**changes) -> TrainingBatches:
        return TrainingBatches(photographs, half, data_config(cache_mib=cache_mib, on_bad="skip", **changes), 4, 1, 0)

    whole = take(batches(), 13)
    damage(photographs.pairs[2].clean)
    with caplog.at_level(logging.WARNING, logger="restore_diff"):
        expected = take(batches(), 12)
    order = names(whole)
    assert "2" in order[:48] and "2" not in names(expected)
    for place, name in enumerate(names(expected)):
        assert name == next(follower for follower in order[place:] if follower != "2")
    for before, after in zip(whole, expected, strict=False):
        for row in range(4):
            assert before.names[row] == "2" or torch.equal(before.clean[row], after.clean[row])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "photos/2.png: damaged or truncated" in message
    assert ("1 damaged files: " in message) != message.startswith("skipped: ")
    for num_workers in (0, 2):
        resumed = take(batches(num_workers=num_workers), 5, step=7)
        assert same([b._replace(damaged=()) for b in resumed], [b._replace(damaged=()) for b in expected[7:]])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damage_seen_only_in_decoding_stops_the_run(photographs, data_config, num_workers):
    spoil(photographs.pairs[2].clean)
    batches = TrainingBatches(photographs, half, data_config(cache_mib=0, num_workers=num_workers), 6, 1, seed=0)
    with pytest.raises(ImageError, match=r"^[^\n]*photos/2\.png: damaged or truncated[^\n]*$"):
        take(batches, 1)
    with pytest.raises(ImageError, match=r"photos/2\.png: damaged or truncated"):  # cached images are decoded before
        TrainingBatches(photographs, half, data_config(), 6, 1, seed=0)


def test_a_data_set_of_damaged_files_is_refused(photographs, data_config):
    for pair in photographs.pairs:
        cut(pair.clean)
    with pytest.raises(ImageError, match="; 5 more files cannot be read"):
        TrainingBatches(photographs, half, data_config(on_bad="skip"), 2, 1, seed=0)


def test_small_images_are_refused_skipped_or_padded(photographs, make_images, data_config, caplog):
    small = make_images("photos", ["small.png"], size=(40, 12))
    pairs = find_pairs(str(small), "train", Path())

    def batches(**changes) -> TrainingBatches:
        return TrainingBatches(pairs, half, data_config(crop_size_px=32, augmentation="none", **changes), 7, 1, 0)

    with pytest.raises(DataError) as caught:
        batches()
    rule = "photos: 1 images are smaller than data.crop_size_px=32: "
    advice = "set data.on_small=pad or skip, or a smaller crop"
    assert str(caught.value) == f"{rule}{small}/small.png is 12x40; {advice}"

    skipping = batches(on_small="skip")
    assert "1 of 7 pairs are smaller than the crop, left out" in caplog.text
    assert sorted(names(take(skipping, 6))) == sorted(list("012345") * 7)

    (batch,) = take(batches(on_small="pad"), 1)
    crop = batch.clean[batch.names.index("small")]
    mirrored = crop[..., 11:21].flip(-1)  # 12 columns: 10 mirrored at the left and at the right
    assert crop.shape == (3, 32, 32)
    assert torch.equal(crop[..., :10], mirrored) and torch.equal(crop[..., 22:], mirrored)


def test_both_images_of_a_small_pair_are_padded_alike(make_images, data_config):
    make_images("set/lq", ["a.png"], size=(5, 9))
    gt = make_images("set/gt", ["a.png"], size=(5, 9))
    (gt / "a.png").write_bytes((gt.parent / "lq/a.png").read_bytes())
    pairs = find_pairs(str(gt.parent), "train", Path())
    (batch,) = take(TrainingBatches(pairs, None, data_config(crop_size_px=16, on_small="pad"), 4, 1, seed=0), 1)
    assert torch.equal(batch.clean, batch.degraded) and batch.clean.shape == (4, 3, 16, 16)  # type: ignore[arg-type]
