"""A training batch depends on seed and step only, whatever is damaged; the order of places, and augmentation."""

import itertools
import logging
import multiprocessing
import os
import time
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from reading import half, joined, names, parts_of, same, take

from restore_diff.data import loading, workers
from restore_diff.data.images import scan_files
from restore_diff.data.loading import (
    BLOCK,
    Order,
    PairedImageDataset,
    TrainingBatches,
    augment,
    pad_to,
    random_crops,
    share_out,
)
from restore_diff.data.names import DataError, ImageError, PairPath
from restore_diff.data.pairs import PairList, find_pairs
from restore_diff.data.workers import Transport, choose_transport
from restore_diff.randomness import generator
from restore_diff.settings import RainConfig
from restore_diff.weather.rain import render_rain
from restore_diff.weather.renderer import Rendering, WeatherRenderer

STREAKS = Rendering(render_rain, RainConfig(density=(0.02, 0.02), length_px=(4.0, 8.0)))


def renderer(**mixture: float) -> WeatherRenderer:
    return WeatherRenderer(mixture, {"rain": STREAKS}, camera=lambda images, seeds: images)  # type: ignore[arg-type]


RAIN = renderer(rain=1.0)


@pytest.fixture
def photographs(make_images) -> PairList:
    """Seven clean photographs of different sizes."""
    for i in range(7):
        make_images("photos", [f"{i}.png"], size=(12 + i, 20 - i))
    return find_pairs(str(make_images("photos", [])), "train", Path("none"))


@pytest.fixture
def negatives(make_images) -> PairList:
    """Five pairs whose degraded image is the negative of the clean one."""
    clean = make_images("gt", [f"{i}.png" for i in range(5)], size=(14, 17))
    (clean.parent / "lq").mkdir()
    for path in clean.iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(clean.parent / "lq" / path.name)
    return find_pairs(str(clean.parent), "train", Path("none"))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_batches_do_not_depend_on_workers_cache_or_entry(photographs, data_config, cache_mib):
    expected = take(TrainingBatches(photographs, RAIN, data_config(), 6, 2, seed=1), 12)
    for num_workers in (0, 2, 4):
        config = data_config(num_workers=num_workers, cache_mib=cache_mib)
        batches = TrainingBatches(photographs, RAIN, config, 6, 2, seed=1)
        assert same(take(batches, 12), expected)
        assert same(take(batches, 4, step=4), expected[8:])


def test_a_photograph_without_weather_is_its_own_target(photographs, data_config):
    noisy = WeatherRenderer({"none": 1.0, "rain": 1.0}, {"rain": STREAKS}, camera=lambda images, seeds: images * 0.9)
    batch = joined(take(TrainingBatches(photographs, noisy, data_config(), 8, 1, seed=0), 2))
    assert set(batch.weathers) == {"none", "rain"}
    for weather, clean, degraded in zip(batch.weathers, batch.clean, batch.degraded, strict=True):
        assert torch.equal(clean, degraded) == (weather == "none")
    whole = PairedImageDataset(photographs, WeatherRenderer({"none": 1.0}, {}, noisy.camera), seed=0)
    assert torch.equal(whole[0].clean, whole[0].degraded)


def test_a_sample_depends_on_its_position_not_on_the_batch(photographs, data_config):
    whole = joined(take(TrainingBatches(photographs, RAIN, data_config(), 12, 1, seed=1), 2))
    assert whole.positions == list(range(24))
    for batch_size, num_micro_batches, world in ((12, 3, 1), (12, 1, 2), (12, 2, 3), (4, 1, 1), (1, 1, 1)):
        num = 24 // batch_size * num_micro_batches
        ranks = [
            take(TrainingBatches(photographs, RAIN, data_config(), batch_size, num_micro_batches, 1, rank, world), num)
            for rank in range(world)
        ]
        assert same([joined([part for parts in zip(*ranks, strict=True) for part in parts])], [whole])


def test_several_crops_of_an_image_are_neighbours_and_different(photographs, data_config):
    config = data_config(crops_per_image=3, augmentation="none")
    batch = joined(take(TrainingBatches(photographs, RAIN, config, 5, 1, seed=0), 21))
    for start in range(0, 105, 3):
        assert len(set(batch.names[start : start + 3])) == 1
        first, second, third = batch.clean[start : start + 3]
        assert not torch.equal(first, second) or not torch.equal(second, third)
    assert sorted(batch.names[:21]) == sorted(str(i) for i in range(7) for _ in range(3))


@pytest.mark.parametrize("render", [None, RAIN])
def test_pairs_are_cropped_at_the_same_place_and_not_rendered_on(negatives, data_config, render):
    config = data_config(augmentation="flips_and_turns")
    batch = joined(take(TrainingBatches(negatives, render, config, 8, 1, seed=0), 8))
    assert batch.clean.dtype == torch.float32 and batch.clean.std() > 0.2
    assert torch.allclose(batch.degraded, 1 - batch.clean, atol=1e-6)  # type: ignore[arg-type]
    assert batch.weathers == [None] * 64


def test_rendered_weather_is_new_for_each_sample_and_drawn_last(photographs, data_config):
    seeds_seen: list[int] = []

    def render(clean, seeds, weathers):
        seeds_seen.extend(seeds)
        return clean / 2

    batch = joined(take(TrainingBatches(photographs, render, data_config(), 8, 1, seed=0), 4))
    assert len(set(seeds_seen)) == len(batch.names) == 32 and torch.equal(batch.degraded, batch.clean / 2)  # type: ignore[arg-type]


def test_a_batch_holds_the_weather_rendered_on_each_image(photographs, data_config):
    batch = joined(take(TrainingBatches(photographs, renderer(rain=1.0, none=1.0), data_config(), 8, 1, seed=0), 4))
    unchanged = (batch.clean == batch.degraded).flatten(1).all(1).tolist()
    of_kind = {
        kind: [same for same, weather in zip(unchanged, batch.weathers, strict=True) if weather == kind]
        for kind in batch.weathers
    }
    assert of_kind.keys() == {"rain", "none"} and all(of_kind["none"])
    assert sum(of_kind["rain"]) < len(of_kind["rain"]) / 4  # a small crop may lie between the streaks


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("data", ["photographs", "negatives"])
def test_unconditional_batches_hold_clean_images_only(request, data_config, num_workers, data):
    pairs, config = request.getfixturevalue(data), data_config(num_workers=num_workers)
    batches = TrainingBatches(pairs, None, config, 6, 1, seed=1, conditional=False)
    usual = TrainingBatches(pairs, half, config, 6, 1, seed=1)
    assert batches.num_images == len(pairs.pairs) and batches.order.fingerprint() == usual.order.fingerprint()
    for batch, expected in zip(take(batches, 3), take(usual, 3), strict=True):
        assert batch.degraded is None and batch.names == expected.names
        assert torch.equal(batch.clean, expected.clean) and batch.weathers == [None] * 6
    images = PairedImageDataset(pairs, None, seed=0, conditional=False)
    assert images[0].degraded is None and torch.equal(images[0].clean, PairedImageDataset(pairs, half, seed=0)[0].clean)


def test_one_image_of_the_size_of_the_crop_fills_any_batch(make_images, data_config):
    pairs = find_pairs(str(make_images("one", ["a.png"], size=(8, 8))), "train", Path("none"))
    batch = joined(take(TrainingBatches(pairs, RAIN, data_config(augmentation="none"), 16, 1, seed=0), 1))
    assert batch.clean.shape == (16, 3, 8, 8) and torch.equal(batch.clean, batch.clean[:1].expand(16, -1, -1, -1))
    assert not torch.equal(batch.degraded[0], batch.degraded[1])  # type: ignore[index]


def test_cached_images_are_read_once_within_the_limit(photographs, make_images, data_config):
    batches = TrainingBatches(photographs, RAIN, data_config(cache_mib=1), 7, 1, seed=0)
    assert batches.num_cached == batches.num_images == 7
    expected = take(batches, 2)
    for pair in photographs.pairs:
        pair.clean.unlink()
    assert same(take(batches, 2), expected)
    large = find_pairs(str(make_images("large", [f"{i}.png" for i in range(5)], size=(400, 400))), "train", Path())
    batches = TrainingBatches(large, RAIN, data_config(cache_mib=1), 2, 1, seed=0)
    assert (batches.num_cached, batches.num_images) == (2, 5)  # 480,000 bytes each


def test_a_batch_that_cannot_be_split_evenly_is_refused(photographs, data_config):
    with pytest.raises(ValueError, match=r"batch_size=10 .*2 micro batches x 3 processes; nearest: 6 or 12"):
        TrainingBatches(photographs, RAIN, data_config(), 10, 2, 0, rank=0, world=3)
    with pytest.raises(DataError, match="photos holds clean photographs only"):
        TrainingBatches(photographs, None, data_config(), 2, 1, 0)


def test_the_global_generator_is_not_used(photographs, data_config):
    before = torch.get_rng_state()
    for num_workers in (0, 2):
        take(TrainingBatches(photographs, RAIN, data_config(num_workers=num_workers), 2, 1, seed=0), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_leave_the_process_group_and_end_with_the_iterator(photographs, data_config):
    iterator = TrainingBatches(photographs, RAIN, data_config(num_workers=2), 2, 1, seed=0).iter_from(0)
    assert len(list(itertools.islice(iterator, 2))) == 2  # one from each worker
    workers = multiprocessing.active_children()
    assert len(workers) == 2 and all(os.getpgid(worker.pid or 0) != os.getpgrp() for worker in workers)
    iterator.close()  # type: ignore[attr-defined]
    for worker in workers:
        worker.join(timeout=10)
        assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("free_mib", "expected"),
    [(1000, Transport(4, False)), (64, Transport(2, False)), (40, Transport(1, False)), (5, Transport(1, True))],
)
def test_the_batches_that_wait_fit_into_the_free_shared_memory(tmp_path, monkeypatch, free_mib, expected):
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free_mib * 2**20))
    found = choose_transport(num_workers=4, batch_bytes=5 * 2**20)
    assert found == expected
    assert (4 * found.prefetched + 2) * 5 <= 0.9 * free_mib or found.by_pipe
    assert ("pipes" in workers.describe(found, 5 * 2**20)) == found.by_pipe
    assert choose_transport(4, 5 * 2**20, num_processes=100).by_pipe == (free_mib < 10_000)
    assert choose_transport(0, 5 * 2**20) == Transport(4, False)


def test_data_that_never_come_end_the_wait(photographs, data_config, monkeypatch):
    monkeypatch.setattr(loading, "MAX_WAIT_S", 0.5)
    monkeypatch.setattr(loading.Samples, "batch", lambda self, positions: time.sleep(60))
    with pytest.raises(RuntimeError, match=r"timed out after 0\.5 seconds"):
        next(TrainingBatches(photographs, RAIN, data_config(num_workers=1), 4, 1, seed=0).iter_from(0))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def spoil(path: Path) -> None:
    """Change a byte in the middle; length, header and end stay."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def squares(make_images) -> PairList:
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
def test_a_damaged_pair_is_replaced_and_no_other_place_changes(squares, data_config, caplog, damage, cache_mib):
    def batches(**changes) -> TrainingBatches:
        return TrainingBatches(squares, half, data_config(cache_mib=cache_mib, on_bad="skip", **changes), 4, 1, 0)

    whole = take(batches(), 13)
    damage(squares.pairs[2].clean)
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
def test_damage_seen_only_in_decoding_stops_the_run(squares, data_config, num_workers):
    spoil(squares.pairs[2].clean)
    batches = TrainingBatches(squares, half, data_config(cache_mib=0, num_workers=num_workers), 6, 1, seed=0)
    with pytest.raises(ImageError, match=r"^[^\n]*photos/2\.png: damaged or truncated[^\n]*$"):
        take(batches, 1)
    with pytest.raises(ImageError, match=r"photos/2\.png: damaged or truncated"):  # cached images are decoded before
        TrainingBatches(squares, half, data_config(), 6, 1, seed=0)


def test_a_data_set_of_damaged_files_is_refused(squares, data_config):
    for pair in squares.pairs:
        cut(pair.clean)
    with pytest.raises(ImageError, match="; 5 more files cannot be read"):
        TrainingBatches(squares, half, data_config(on_bad="skip"), 2, 1, seed=0)


def test_small_images_are_refused_skipped_or_padded(squares, make_images, data_config, caplog):
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


def drawn(order: Order, first: int, last: int) -> list[PairPath]:
    return [order.pair(place) for place in range(first, last)]


def test_without_parts_each_pass_is_the_permutation_of_its_number():
    order = Order(parts_of(7), seed=3)
    for epoch in (0, 1, 5):
        expected = torch.randperm(7, generator=generator(3, "order", epoch)).tolist()
        assert [int(pair.clean.stem) for pair in drawn(order, 7 * epoch, 7 * epoch + 7)] == expected


def test_every_block_holds_each_part_by_its_weight_in_another_order():
    order = Order(parts_of(40, 3, 9, weights=(2, 0.5, 1.5)), seed=0)
    blocks = [[pair.part for pair in drawn(order, b * BLOCK, (b + 1) * BLOCK)] for b in range(3)]
    assert all(Counter(block) == {0: 500, 1: 125, 2: 375} for block in blocks)
    assert blocks[0] != blocks[1] != blocks[2]
    assert all(abs(Counter(block[:200])[0] - 100) < 35 for block in blocks)  # shuffled


def test_every_part_makes_whole_passes_of_its_own():
    pairs = drawn(Order(parts_of(40, 3, 9, weights=(2, 0.5, 1.5)), seed=0), 0, 2 * BLOCK)
    for part, num in enumerate((40, 3, 9)):
        names = [pair.name for pair in pairs if pair.part == part]
        passes = [tuple(names[start : start + num]) for start in range(0, len(names) - num + 1, num)]
        assert all(len(set(one)) == num for one in passes) and len(set(passes)) > min(5, len(passes) // 2)


def test_a_place_can_be_entered_from_anywhere():
    pairs = parts_of(5, 11, weights=(1, 3))
    whole = drawn(Order(pairs, seed=1), 0, 2500)
    for place in (2499, 1000, 999, 0, 1700):
        assert Order(pairs, seed=1).pair(place) == whole[place]
    assert drawn(Order(pairs, seed=2), 0, 50) != whole[:50]


def test_shares_are_positive_integers_that_sum_up():
    for case in range(300):
        random = Random(case)
        weights = [10 ** random.uniform(-6, 6) for _ in range(random.randint(1, 50))]
        counts = share_out(tuple(weights), BLOCK)
        assert sum(counts) == BLOCK and min(counts) >= 1
        if min(weights) / sum(weights) > 1 / BLOCK:
            assert all(abs(n - BLOCK * w / sum(weights)) < 1 for n, w in zip(counts, weights, strict=True))


def test_a_part_without_pairs_is_refused():
    with pytest.raises(DataError, match="toy, part 2: no pair is left to train on"):
        Order(parts_of(3, 0, weights=(1, 1)), seed=0)
    with pytest.raises(DataError, match="toy: no pair is left"):
        Order(parts_of(0), seed=0)


def test_the_fingerprint_depends_on_names_and_weights():
    cases = (((3, 4), (1, 1), 0), ((3, 4), (2, 2), 5), ((4, 4), (1, 1), 0), ((3, 4), (1, 2), 0))
    prints = [Order(parts_of(*num, weights=weights), seed).fingerprint() for num, weights, seed in cases]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_both_images_of_a_pair_get_the_same_augmentation():
    clean = torch.arange(3 * 20 * 30).reshape(3, 20, 30)
    for k in range(50):
        first, second = augment([clean, clean + 7], 8, "flips_and_turns", generator(0, k))
        assert first.shape == (3, 8, 8) and torch.equal(first + 7, second)


def test_crops_are_placed_uniformly_up_to_every_border():
    image = torch.arange(5 * 6).reshape(1, 5, 6)
    corners = Counter(int(random_crops([image], 3, generator(0, k))[0][0, 0, 0]) for k in range(2400))
    assert sorted(corners) == [6 * top + left for top in range(3) for left in range(4)]
    assert max(abs(count - 200) for count in corners.values()) < 60  # 4.4 standard deviations
    with pytest.raises(ValueError, match="9 px does not fit into 30x8"):
        random_crops([torch.zeros(3, 8, 30)], 9, generator(0))


@pytest.mark.parametrize(("augmentation", "num_cases"), [("none", 1), ("flips", 4), ("flips_and_turns", 8)])
def test_each_symmetry_of_the_augmentation_is_equally_likely(augmentation, num_cases):
    image = torch.arange(9).reshape(1, 3, 3)
    seen = Counter(tuple(augment([image], 3, augmentation, generator(0, k))[0].flatten().tolist()) for k in range(1600))
    assert len(seen) == num_cases
    assert max(abs(count - 1600 / num_cases) for count in seen.values()) < 90


def test_padding_mirrors_once_then_repeats_evenly_at_both_ends():
    image = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8)
    padded = pad_to(image, 9)
    assert padded.shape == (1, 9, 9) and padded[0, 4].tolist() == [2, 2, 1, 0, 1, 2, 1, 0, 0]
    assert torch.equal(padded, padded[:, :1].expand(1, 9, 9))  # a single row is repeated
    assert torch.equal(pad_to(image, 1), image)
