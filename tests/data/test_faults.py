"""What is wrong with training images is told before the training or when it is met, and may be treated instead."""

import itertools
import logging
from pathlib import Path

import pytest
import torch

from restore_diff.data.images import ImageError, scan_files
from restore_diff.data.loading import Batch, TrainingBatches
from restore_diff.data.names import DataError, PairPath
from restore_diff.data.pairs import PairList, find_pairs


def half(clean, seeds, weathers):
    return clean / 2


def take(batches: TrainingBatches, num: int, step: int = 0) -> list[Batch]:
    return list(itertools.islice(batches.iter_from(step), num))


def names(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.names]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def spoil(path: Path) -> None:
    """Change a byte in the middle: length, header and end stay as they are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def photographs(make_images) -> PairList:
    """Six photographs of 40 px."""
    return find_pairs(str(make_images("photos", [f"{i}.png" for i in range(6)], size=(40, 40))), "train", Path())


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_file_is_named_before_the_training_whatever_the_cache(make_images, data_config, suffix):
    folder = make_images("photos", [f"{i}.{suffix}" for i in range(4)], size=(40, 40))
    pairs = find_pairs(str(folder), "train", Path())
    for number in (1, 3):
        cut(folder / f"{number}.{suffix}")
    with pytest.raises(ImageError) as caught:
        TrainingBatches(pairs, half, data_config(cache_mib=0), 2, 1, seed=0)
    assert str(caught.value).startswith(f"{folder}/1.{suffix}: damaged or truncated")
    assert str(caught.value).endswith("; 1 more files cannot be read") and "\n" not in str(caught.value)


def test_a_file_with_something_appended_is_whole(make_images):
    for name in ("a.png", "b.jpg", "c.webp"):
        path = make_images("photos", [name]) / name
        path.write_bytes(path.read_bytes() + b"appended")
    scan = scan_files((path := make_images("photos", [])) / name for name in ("a.png", "b.jpg", "c.webp"))
    assert len(scan.sizes) == 3 and not scan.damaged and path.is_dir()


@pytest.mark.parametrize("damage", [cut, spoil])
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_a_damaged_pair_is_replaced_by_the_next_and_no_other_place_changes(
    photographs, data_config, caplog, damage, cache_mib
):
    def config(**changes):
        return data_config(cache_mib=cache_mib, on_bad="skip", **changes)

    whole = take(TrainingBatches(photographs, half, config(), 4, 1, seed=0), 12)
    order = names(take(TrainingBatches(photographs, half, config(), 4, 1, seed=0), 13))
    damage(photographs.pairs[2].clean)
    with caplog.at_level(logging.WARNING, logger="restore_diff"):
        expected = take(TrainingBatches(photographs, half, config(), 4, 1, seed=0), 12)
    assert "2" in names(whole) and "2" not in names(expected)
    for place, name in enumerate(names(expected)):
        assert name == next(follower for follower in order[place:] if follower != "2")
    for before, after in zip(whole, expected, strict=True):
        for row in range(4):
            assert before.names[row] == "2" or torch.equal(before.clean[row], after.clean[row])
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "photos/2.png: damaged or truncated" in told[0]
    assert ("1 damaged files: " in told[0]) != told[0].startswith("skipped: ")
    for num_workers in (0, 2):  # the same after a resume and with workers
        resumed = take(TrainingBatches(photographs, half, config(num_workers=num_workers), 4, 1, seed=0), 5, step=7)
        for one, other in zip(resumed, expected[7:], strict=True):
            assert one.names == other.names and torch.equal(one.clean, other.clean)


def test_damage_that_only_decoding_shows_stops_the_run_with_the_path(photographs, data_config):
    spoil(photographs.pairs[2].clean)
    batches = TrainingBatches(photographs, half, data_config(cache_mib=0), 6, 1, seed=0)
    with pytest.raises(ImageError, match=r"photos/2\.png: damaged or truncated"):
        take(batches, 1)
    with pytest.raises(ImageError, match=r"photos/2\.png: damaged or truncated"):  # what is cached is decoded before
        TrainingBatches(photographs, half, data_config(), 6, 1, seed=0)


def test_where_every_file_is_damaged_nothing_is_trained(photographs, data_config):
    for pair in photographs.pairs:
        cut(pair.clean)
    with pytest.raises(ImageError, match="; 5 more files cannot be read"):
        TrainingBatches(photographs, half, data_config(on_bad="skip"), 2, 1, seed=0)


def test_images_smaller_than_the_crop_are_refused_left_out_or_padded(photographs, make_images, data_config, caplog):
    small = make_images("photos", ["small.png"], size=(40, 12))
    pairs = find_pairs(str(small), "train", Path())
    config = {"crop_size_px": 32, "augmentation": "none"}
    with pytest.raises(DataError) as caught:
        TrainingBatches(pairs, half, data_config(**config), 7, 1, seed=0)
    rule = "photos: 1 images are smaller than data.crop_size_px=32: "
    advice = "set data.on_small=pad or skip, or a smaller crop"
    assert str(caught.value) == f"{rule}{small}/small.png is 12x40; {advice}"

    skipping = TrainingBatches(pairs, half, data_config(**config, on_small="skip"), 7, 1, seed=0)
    assert "1 of 7 pairs are smaller than the crop, left out" in caplog.text
    assert sorted(names(take(skipping, 6))) == sorted(list("012345") * 7)

    batch = take(TrainingBatches(pairs, half, data_config(**config, on_small="pad"), 7, 1, seed=0), 1)[0]
    crop = batch.clean[batch.names.index("small")]
    assert crop.shape == (3, 32, 32)  # 12 columns: 10 mirrored at the left and at the right
    assert torch.equal(crop[..., :10], crop[..., 11:21].flip(-1)) and torch.equal(
        crop[..., 22:], crop[..., 11:21].flip(-1)
    )


def test_both_images_of_a_small_pair_are_padded_alike(make_images, data_config):
    make_images("set/lq", ["a.png"], size=(5, 9))
    gt = make_images("set/gt", ["a.png"], size=(5, 9))
    (gt / "a.png").write_bytes((gt.parent / "lq/a.png").read_bytes())
    pairs = find_pairs(str(gt.parent), "train", Path())
    batch = take(TrainingBatches(pairs, None, data_config(crop_size_px=16, on_small="pad"), 4, 1, seed=0), 1)[0]
    assert torch.equal(batch.clean, batch.degraded) and batch.clean.shape == (4, 3, 16, 16)


def test_a_mixture_is_the_same_for_any_number_of_workers_processes_and_entry(make_images, data_config):
    folders = [make_images(folder, [f"{i}.png" for i in range(num)]) for folder, num in (("a", 5), ("b", 3))]
    pairs = tuple(
        PairPath(None, path, f"{part}/{path.stem}", "rain", part)
        for part, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
    )
    mixture = PairList("toy", pairs, weights=(1.0, 2.5))

    def batches(num_workers=0, rank=0, world=1) -> TrainingBatches:
        return TrainingBatches(mixture, half, data_config(num_workers=num_workers), 6, 1, 0, rank, world)

    whole = take(batches(), 20)
    assert names(take(batches(num_workers=2), 20)) == names(whole)
    assert names(take(batches(), 5, step=15)) == names(whole[15:])
    ranks = [take(batches(rank=rank, world=2), 20) for rank in range(2)]
    assert [name for both in zip(*ranks, strict=True) for name in names(list(both))] == names(whole)
