"""A training batch depends on the seed and the step only."""

import itertools
import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from reading import half, joined, same, take

from restore_diff.data import loading, workers
from restore_diff.data.loading import PairedImageDataset, TrainingBatches
from restore_diff.data.names import DataError
from restore_diff.data.pairs import PairList, find_pairs
from restore_diff.data.workers import Transport, choose_transport
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
