"""Checkpoints and weights files: whole or not at all, checked, never a pickle."""

import errno
import json
import os
import pickle
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_run import toy_config, train

from restore_diff import checkpoint as checkpoint_module
from restore_diff.checkpoint import (
    Best,
    Checkpoint,
    CheckpointNotSaved,
    DamagedCheckpoint,
    LossScale,
    NoIntactCheckpoint,
    NotFinite,
    Progress,
    WeightsError,
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_checkpoint_weights,
    load_weights,
    mark_best,
    newest_valid,
    prune,
    save_checkpoint,
    save_weights,
    tidy,
)


def some(step: int, **changes) -> Checkpoint:
    stream = torch.Generator().manual_seed(step)
    weight = torch.randn(4, 3, 3, 3, generator=stream).to(memory_format=torch.channels_last)
    best = Best(step=step, metric="psnr", score=0.1 + 0.2)
    scale = LossScale(scale=1024.0, growth_tracker=7)
    parts = {
        "progress": Progress(step=step, best=best, loss_scale=scale, meter_totals=(1 / 3, 2.0, 3.0)),
        "config": {"model": {"base_channels": 8}},
        "versions": {"torch": "2"},
        "model": {"w": weight, "count": torch.tensor(step)},
        "ema": {"w": weight / 2, "count": torch.tensor(step)},
        "optimizer": {"w/exp_avg": weight * 3, "w/step": torch.tensor(float(step))},
    }
    return Checkpoint(**(parts | changes))


def names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def flip_a_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    saved = some(400)
    path = save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(path)
    assert path == tmp_path / "00000400"
    assert sorted(f.name for f in path.iterdir()) == [
        "ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    assert (loaded.progress, loaded.config, loaded.versions) == (saved.progress, saved.config, saved.versions)
    for part in ("model", "ema", "optimizer"):
        before, after = getattr(saved, part), getattr(loaded, part)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_files_have_the_modes_of_ordinary_files(tmp_path):
    (tmp_path / "ordinary").write_text("")
    ordinary = stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)
    path = save_checkpoint(tmp_path, some(1))
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {ordinary}


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickled")

    for owner, name in ((pickle, "dumps"), (pickle, "loads"), (pickle, "load"), (torch, "save"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    path = save_checkpoint(tmp_path, some(1))
    assert load_checkpoint(path).progress == some(1).progress
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_a_kill_between_writing_and_publishing_leaves_the_old_checkpoint_and_an_orphan_that_is_removed(tmp_path):
    save_checkpoint(tmp_path, some(300))
    child = os.fork()
    if child == 0:
        Path.rename = lambda *_: os._exit(9)  # type: ignore[method-assign]
        save_checkpoint(tmp_path, some(400))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (tmp_path / ".partial-00000400" / "state.json").exists()
    assert names(tmp_path) == ["00000300"]

    lines: list[str] = []
    tidy(tmp_path, 300, lines.append)
    assert lines == ["removed .partial-00000400, which a killed process had left"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000300"]
    save_checkpoint(tmp_path, some(400))
    assert names(tmp_path) == ["00000300", "00000400"]


def test_a_full_disk_leaves_nothing_behind_and_says_what_is_missing(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, some(300))

    def full(path, data):
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(checkpoint_module, "write_durably", full)
    message = r"checkpoint 00000400 not saved: No space left on device; it needs 0\.0 MB, [\d.]+ MB are free"
    with pytest.raises(CheckpointNotSaved, match=message):
        save_checkpoint(tmp_path, some(400))
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000300"]
    load_checkpoint(tmp_path / "00000300")


def test_a_disk_that_keeps_other_bytes_is_noticed_before_the_checkpoint_is_published(tmp_path, monkeypatch):
    def forgetful(path, data):
        path.write_bytes(data if path.name == "state.json" else data[:-1] + b"!")

    monkeypatch.setattr(checkpoint_module, "write_durably", forgetful)
    with pytest.raises(CheckpointNotSaved, match="checksum differs"):
        save_checkpoint(tmp_path, some(400))
    assert names(tmp_path) == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(NotFinite, match="w is not finite"):
        save_checkpoint(tmp_path, some(1, ema={"w": torch.tensor([1.0, float("nan")])}))
    assert list(tmp_path.iterdir()) == []


def rewritten_state(path: Path) -> None:
    """Another step, the file else in order."""
    values = json.loads(path.read_text())
    values["progress"]["step"] = 399
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("model.safetensors", lambda path: flip_a_bit(path, -5), "checksum differs"),
        ("ema.safetensors", lambda path: flip_a_bit(path, 20), "checksum differs"),
        ("optimizer.safetensors", lambda path: os.truncate(path, 100), r"100 of \d+ bytes"),
        ("optimizer.safetensors", lambda path: path.write_bytes(path.read_bytes() * 2), "at most"),
        ("model.safetensors", Path.unlink, "missing"),
        ("state.json", Path.unlink, "missing"),
        ("state.json", rewritten_state, "checksum differs"),
        ("state.json", lambda path: path.write_text("[" * 100_000), "recursion"),
        ("state.json", lambda path: path.write_bytes(b"\xff\xfe"), "."),
        ("state.json", lambda path: path.write_text('{"x": NaN}'), "NaN is no JSON"),
        ("state.json", lambda path: os.truncate(path, 2**30), "1073741824 bytes where at most"),
    ],
)
def test_a_damaged_newest_checkpoint_is_reported_by_name_and_the_previous_one_used(tmp_path, file, damage, reason):
    for step in (300, 400):
        save_checkpoint(tmp_path, some(step))
    damage(tmp_path / "00000400" / file)
    with pytest.raises(DamagedCheckpoint, match=reason):
        load_checkpoint(tmp_path / "00000400")
    lines: list[str] = []
    loaded = newest_valid(tmp_path, load_checkpoint, lines.append)
    assert loaded is not None
    assert loaded.progress.step == 300
    assert len(lines) == 1
    assert lines[0].startswith(f"checkpoint 00000400 damaged ({file}: ")
    assert lines[0].endswith("; using 00000300")


def test_where_all_are_damaged_each_is_listed_and_nothing_starts_anew(tmp_path):
    assert newest_valid(tmp_path, load_checkpoint, print) is None
    for step in (300, 400):
        (save_checkpoint(tmp_path, some(step)) / "state.json").unlink()
    message = r"00000400 damaged \(state\.json: missing\); checkpoint 00000300 damaged"
    with pytest.raises(NoIntactCheckpoint, match=message):
        newest_valid(tmp_path, load_checkpoint, print)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"files": {"../../x": {"num_bytes": 1, "sha256": "0" * 64}}},
        {"files": {}},
        {"progress": {"step": -1, "best": None, "loss_scale": None, "meter_totals": [0, 0, 0]}},
        {"surprise": 1},
    ],
)
def test_a_state_with_a_true_checksum_but_foreign_contents_is_refused(tmp_path, change):
    path = save_checkpoint(tmp_path, some(1)) / "state.json"
    values = json.loads(path.read_text()) | change
    del values["sha256"]
    text = json.dumps(values, sort_keys=True)
    path.write_text(json.dumps(values | {"sha256": checkpoint_module.sha256(text.encode())}))
    with pytest.raises(DamagedCheckpoint, match=r"state\.json"):
        load_checkpoint(path.parent)


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in (5, 10, 90, 100, 110):
        save_checkpoint(tmp_path, some(step))
    prune(tmp_path, num_kept=2, best_step=10)
    assert names(tmp_path) == ["00000010", "00000100", "00000110"]
    assert len(list(tmp_path.iterdir())) == 3


def test_newer_checkpoints_than_the_one_resumed_are_set_aside_not_deleted(tmp_path):
    for step in (300, 400):
        save_checkpoint(tmp_path, some(step))
    tidy(tmp_path, 300, print)
    assert names(tmp_path) == ["00000300"]
    assert (tmp_path / "00000400.damaged" / "state.json").exists()


def test_the_mark_of_the_best_survives_a_copy_and_can_be_taken_back(tmp_path):
    assert best_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path / "a", some(7))
    mark_best(tmp_path / "a", Best(step=7, metric="psnr", score=31.5))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert best_checkpoint(tmp_path / "b") == tmp_path / "b" / "00000007"
    mark_best(tmp_path / "b", None)
    assert best_checkpoint(tmp_path / "b") is None
    (tmp_path / "b" / "best.json").write_text('{"step": "../7"}')
    with pytest.raises(ValueError, match=r"best\.json is damaged"):
        best_checkpoint(tmp_path / "b")


CONFIG = {"seed": 3, "model": {"channel_multipliers": [1, 2]}}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(folder, toy_config())
    return folder


def test_weights_and_config_come_back_from_one_ordinary_safetensors_file(tmp_path):
    path, weights = tmp_path / "w.safetensors", {"w": torch.randn(2, 3).t()}
    save_weights(path, weights, CONFIG, step=400)
    loaded = load_weights(path)
    assert torch.equal(loaded.tensors["w"], weights["w"])
    assert (loaded.config, loaded.step) == (CONFIG, 400)
    assert torch.equal(load_file(path)["w"], weights["w"])
    assert load_checkpoint_weights(path).step == 400


def test_a_checkpoint_gives_its_averaged_weights(run):
    path = list_checkpoints(run / "checkpoints")[-1]
    tensors, config, step = load_checkpoint_weights(path)
    averaged = load_file(path / "ema.safetensors")
    assert tensors.keys() == averaged.keys()
    assert all(torch.equal(tensors[name], averaged[name]) for name in tensors)
    assert (config["seed"], step) == (3, 8)


def test_a_run_gives_its_best_checkpoint_else_the_newest_intact_one(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    assert load_checkpoint_weights(copy).step == 4
    (copy / "checkpoints" / "best.json").unlink()
    assert load_checkpoint_weights(copy).step == 8
    (copy / "checkpoints" / "00000008" / "ema.safetensors").unlink()
    lines: list[str] = []
    assert load_checkpoint_weights(copy, lines.append).step == 6
    assert lines == ["checkpoint 00000008 damaged (ema.safetensors: missing); using 00000006"]
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint_weights(copy / "checkpoints" / "00000008")


def test_files_of_others_and_broken_ones_are_refused_by_name(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match=r"foreign\.safetensors: its metadata holds no config"):
        load_weights(tmp_path / "foreign.safetensors")
    save_file({"w": torch.ones(1)}, tmp_path / "list.safetensors", {"restore_diff": "[1]"})
    with pytest.raises(WeightsError, match=r"list\.safetensors: its metadata is damaged"):
        load_weights(tmp_path / "list.safetensors")
    text = '{"config": {}, "step": 1}'
    save_file({"w": torch.tensor([float("nan")])}, tmp_path / "nan.safetensors", {"restore_diff": text})
    with pytest.raises(WeightsError, match=r"nan\.safetensors: w is not finite"):
        load_weights(tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"absent"):
        load_checkpoint_weights(tmp_path / "absent")
    with pytest.raises(WeightsError, match=r"holds neither state\.json nor checkpoints"):
        load_checkpoint_weights(tmp_path)
    with pytest.raises(NotFinite):
        save_weights(tmp_path / "never", {"w": torch.tensor([float("inf")])}, {}, step=1)
    assert not (tmp_path / "never").exists()
