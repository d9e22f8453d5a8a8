"""What a training batch holds depends on the seed and the step alone."""

import itertools
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore_diff.data.images import ImageError
from restore_diff.data.loading import Batch, TrainingBatches
from restore_diff.data.names import DataError
from restore_diff.data.pairs import PairList, find_pairs
from restore_diff.settings import RainConfig
from restore_diff.weather.rain import render_rain
from restore_diff.weather.renderer import Rendering, WeatherRenderer

STREAKS = Rendering(render_rain, RainConfig(density=(0.02, 0.02), length_px=(4.0, 8.0)))
RAIN = WeatherRenderer({"rain": 1.0}, {"rain": STREAKS}, camera=lambda images, seeds: images)


def take(batches: TrainingBatches, num: int, step: int = 0) -> list[Batch]:
    return list(itertools.islice(batches.iter_from(step), num))


def same(left: list[Batch], right: list[Batch]) -> bool:
    return all(
        torch.equal(a.clean, b.clean) and torch.equal(a.degraded, b.degraded) and a[2:] == b[2:]
        for a, b in zip(left, right, strict=True)
    )


def joined(parts: list[Batch]) -> Batch:
    positions = [position for part in parts for position in part.positions]
    names = [name for part in parts for name in part.names]
    return Batch(torch.cat([p.clean for p in parts]), torch.cat([p.degraded for p in parts]), positions, names)


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
def test_batches_are_the_same_for_any_number_of_workers_cache_and_entry(photographs, data_config, cache_mib):
    expected = take(TrainingBatches(photographs, RAIN, data_config(), 6, 2, seed=1), 12)
    for num_workers in (0, 2, 4):
        config = data_config(num_workers=num_workers, cache_mib=cache_mib)
        batches = TrainingBatches(photographs, RAIN, config, 6, 2, seed=1)
        assert same(take(batches, 12), expected)
        assert same(take(batches, 4, step=4), expected[8:])


def test_a_sample_depends_on_its_position_not_on_how_batches_are_cut(photographs, data_config):
    whole = joined(take(TrainingBatches(photographs, RAIN, data_config(), 12, 1, seed=1), 2))
    assert whole.positions == list(range(24))
    for batch_size, num_micro_batches, world in ((12, 3, 1), (12, 1, 2), (12, 2, 3), (4, 1, 1), (1, 1, 1)):
        ranks = [
            TrainingBatches(photographs, RAIN, data_config(), batch_size, num_micro_batches, 1, rank, world)
            for rank in range(world)
        ]
        num = 24 // batch_size * num_micro_batches
        parts = [part for parts in zip(*(take(rank, num) for rank in ranks), strict=True) for part in parts]
        assert same([joined(parts)], [whole])


def test_each_pass_takes_every_image_once_in_another_order(photographs, data_config):
    names = joined(take(TrainingBatches(photographs, RAIN, data_config(), 7, 1, seed=0), 20)).names
    passes = [tuple(names[start : start + 7]) for start in range(0, 140, 7)]
    assert all(sorted(order) == [str(i) for i in range(7)] for order in passes)
    assert len(set(passes)) > 15
    other = joined(take(TrainingBatches(photographs, RAIN, data_config(), 7, 1, seed=1), 20)).names
    assert other != names


def test_several_crops_of_an_image_are_neighbours_and_different(photographs, data_config):
    config = data_config(crops_per_image=3, augmentation="none")
    batch = joined(take(TrainingBatches(photographs, RAIN, config, 5, 1, seed=0), 21))
    for start in range(0, 105, 3):
        assert len(set(batch.names[start : start + 3])) == 1
        first, second, third = batch.clean[start : start + 3]
        assert not torch.equal(first, second) or not torch.equal(second, third)
    assert sorted(batch.names[:21]) == sorted(str(i) for i in range(7) for _ in range(3))


def test_degraded_and_clean_crops_show_the_same_place(negatives, data_config):
    config = data_config(augmentation="flips_and_turns")
    batch = joined(take(TrainingBatches(negatives, None, config, 8, 1, seed=0), 8))
    assert batch.clean.dtype == batch.degraded.dtype == torch.float32 and batch.clean.std() > 0.2
    assert torch.allclose(batch.degraded, 1 - batch.clean, atol=1e-6)


def test_rendered_weather_is_new_for_each_sample_and_drawn_after_the_augmentation(photographs, data_config):
    seeds_seen: list[int] = []

    def render(clean, seeds, weathers):
        seeds_seen.extend(seeds)
        return clean / 2

    batch = joined(take(TrainingBatches(photographs, render, data_config(), 8, 1, seed=0), 4))
    assert len(set(seeds_seen)) == len(batch.names) == 32 and torch.equal(batch.degraded, batch.clean / 2)


def test_genuine_pairs_are_not_rendered_on(negatives, data_config):
    batch = take(TrainingBatches(negatives, RAIN, data_config(), 8, 1, seed=0), 1)[0]
    assert torch.allclose(batch.degraded, 1 - batch.clean, atol=1e-6)


def test_one_image_of_the_size_of_the_crop_fills_any_batch(make_images, data_config):
    pairs = find_pairs(str(make_images("one", ["a.png"], size=(8, 8))), "train", Path("none"))
    batch = take(TrainingBatches(pairs, RAIN, data_config(augmentation="none"), 16, 1, seed=0), 1)[0]
    assert batch.clean.shape == (16, 3, 8, 8) and torch.equal(batch.clean, batch.clean[:1].expand(16, -1, -1, -1))
    assert not torch.equal(batch.degraded[0], batch.degraded[1])


def test_what_fits_the_cache_is_read_once(photographs, data_config):
    batches = TrainingBatches(photographs, RAIN, data_config(cache_mib=1), 7, 1, seed=0)
    assert batches.num_cached == batches.num_images == 7
    expected = take(batches, 2)
    for pair in photographs.pairs:
        pair.clean.unlink()
    assert same(take(batches, 2), expected)


def test_the_cache_stays_within_its_limit(make_images, data_config):
    pairs = find_pairs(
        str(make_images("large", [f"{i}.png" for i in range(5)], size=(400, 400))), "train", Path("none")
    )
    batches = TrainingBatches(pairs, RAIN, data_config(cache_mib=1), 2, 1, seed=0)
    assert (batches.num_cached, batches.num_images) == (2, 5)  # 480,000 bytes each


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_file_stops_the_run_with_its_path_in_one_line(make_images, data_config, num_workers):
    folder = make_images("photos", ["a.png"], size=(40, 40))
    pairs = find_pairs(str(folder), "train", Path("none"))
    batches = TrainingBatches(pairs, RAIN, data_config(num_workers=num_workers, cache_mib=0), 2, 1, seed=0)
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    with pytest.raises(ImageError) as caught:
        take(batches, 1)
    assert str(caught.value).startswith(f"{folder}/a.png: damaged or truncated") and "\n" not in str(caught.value)
    with pytest.raises(ImageError, match=r"a\.png: damaged or truncated"):  # what is cached is read before training
        TrainingBatches(pairs, RAIN, data_config(), 2, 1, seed=0)


def test_sizes_that_cannot_be_cropped_alike_are_named_before_training(make_images, tmp_path, data_config):
    make_images("set/lq", [f"{i:02}.png" for i in range(12)], size=(16, 16))
    make_images("set/gt", [f"{i:02}.png" for i in range(12)], size=(16, 17))
    pairs = find_pairs(str(tmp_path / "set"), "train", Path("none"))
    with pytest.raises(
        DataError, match=r"12 pairs of different sizes: .*lq/00\.png is 16x16, .*gt/00\.png is 17x16.*2 more"
    ):
        TrainingBatches(pairs, None, data_config(), 2, 1, seed=0)
    small = find_pairs(str(make_images("small", ["a.png"], size=(96, 300))), "train", Path("none"))
    with pytest.raises(DataError, match=r"smaller than data\.crop_size_px=128: .*small/a\.png is 300x96"):
        TrainingBatches(small, RAIN, data_config(crop_size_px=128), 2, 1, seed=0)


def test_a_batch_that_cannot_be_split_evenly_is_refused_with_the_nearest_that_can(photographs, data_config):
    with pytest.raises(ValueError, match=r"batch_size=10 .*2 micro batches x 3 processes; nearest: 6 or 12"):
        TrainingBatches(photographs, RAIN, data_config(), 10, 2, 0, rank=0, world=3)
    with pytest.raises(DataError, match="photos holds clean photographs only"):
        TrainingBatches(photographs, None, data_config(), 2, 1, 0)


def test_the_global_generator_is_left_alone(photographs, data_config):
    before = torch.get_rng_state()
    for num_workers in (0, 2):
        take(TrainingBatches(photographs, RAIN, data_config(num_workers=num_workers), 2, 1, seed=0), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_are_out_of_reach_of_signals_to_the_process_group_and_end_with_the_iterator(photographs, data_config):
    iterator = TrainingBatches(photographs, RAIN, data_config(num_workers=2), 2, 1, seed=0).iter_from(0)
    assert len(list(itertools.islice(iterator, 2))) == 2  # one from each worker
    workers = multiprocessing.active_children()
    assert len(workers) == 2 and all(os.getpgid(worker.pid or 0) != os.getpgrp() for worker in workers)
    iterator.close()  # type: ignore[attr-defined]
    for worker in workers:
        worker.join(timeout=10)
        assert worker.exitcode == 0


def test_a_batch_tells_what_was_rendered_on_each_image(photographs, negatives, data_config):
    render = WeatherRenderer({"rain": 1.0, "none": 1.0}, {"rain": STREAKS}, camera=lambda images, seeds: images)
    batch = joined(parts := take(TrainingBatches(photographs, render, data_config(), 8, 1, seed=0), 4))
    weathers = [weather for part in parts for weather in part.weathers]
    unchanged = (batch.clean == batch.degraded).flatten(1).all(1).tolist()
    of_kind = {
        kind: [same for same, weather in zip(unchanged, weathers, strict=True) if weather == kind] for kind in weathers
    }
    assert of_kind.keys() == {"rain", "none"} and all(of_kind["none"])
    assert sum(of_kind["rain"]) < len(of_kind["rain"]) / 4  # a small crop may lie between the streaks
    (part,) = take(TrainingBatches(negatives, render, data_config(), 8, 1, seed=0), 1)
    assert part.weathers == [None] * 8
