"""Checkpoints and weights made by somebody who means harm, or by a program that is none of ours."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from toy_run import toy_config, toy_optimisation, train

from restore_diff.checkpoint import (
    METADATA_KEY,
    STATE,
    DamagedCheckpoint,
    WeightsError,
    load_checkpoint,
    load_weights,
    newest_valid,
    save_checkpoint,
    sha256,
)
from restore_diff.training.run import ConfigChanged, RunFolder, describe_changes
from restore_diff.training.trainer import restore_snapshot, take_snapshot

PLAIN = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ONES = struct.pack("<2f", 1, 1)


def checkpoint(folder: Path) -> Path:
    return save_checkpoint(folder, take_snapshot(toy_optimisation(toy_config()), 6, None, {"seed": 3}))


def forge(path: Path, name: str, data: bytes) -> None:
    """Replace a file of a checkpoint, and make the checksums anew."""
    (path / name).write_bytes(data)
    state = json.loads((path / STATE).read_text())
    state["files"][name] = {"num_bytes": len(data), "sha256": sha256(data)}
    del state["sha256"]
    text = json.dumps(state, sort_keys=True).encode()
    (path / STATE).write_text(json.dumps(state | {"sha256": sha256(text)}))


def container(header: object, body: bytes = ONES, length: int | None = None) -> bytes:
    """A safetensors file with a forged header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


HOSTILE = {
    "huge header": container({"w": PLAIN}, length=2**63),
    "header beyond the file": container({"w": PLAIN}, length=90_000_000),
    "deep header": container(b'{"w":' * 50_000),
    "no JSON": container(b"\xff\xfe"),
    "overlapping offsets": container({"v": PLAIN, "w": PLAIN}),
    "offsets beyond the file": container({"w": PLAIN | {"data_offsets": [0, 2**62]}}),
    "shape that overflows": container({"w": PLAIN | {"shape": [2**62, 2**62]}}),
    "negative shape": container({"w": PLAIN | {"shape": [-2]}}),
    "hole": container({"w": PLAIN | {"data_offsets": [4, 12]}}, ONES + bytes(4)),
    "unknown type": container({"w": PLAIN | {"dtype": "F65"}}),
    "nan": container({"w": PLAIN}, struct.pack("<2f", 1, float("nan"))),
    "empty": b"",
    "pickle": b"\x80\x04cos\nsystem\n(S'touch executed'\ntR.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_safetensors_file_is_refused_by_name_even_with_true_checksums(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path)
    forge(path, "model.safetensors", data)
    with pytest.raises(DamagedCheckpoint, match=r"^checkpoint 00000006 damaged \(model\.safetensors: [^\n]+\)$"):
        load_checkpoint(path)
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"^[^\n]*w\.safetensors: [^\n]+$"):
        load_weights(tmp_path / "w.safetensors")
    assert not Path("executed").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32, torch.bool, torch.float8_e4m3fn])
def test_numbers_of_another_type_are_refused_by_name(tmp_path, dtype):
    path, optimisation = checkpoint(tmp_path), toy_optimisation(toy_config())
    weights = {name: tensor.to(dtype) for name, tensor in optimisation.model.state_dict().items()}
    forge(path, "model.safetensors", save(weights))
    with pytest.raises(
        (ConfigChanged, DamagedCheckpoint), match=r"of another shape or type, e\.g\. |model\.safetensors: "
    ):
        restore_snapshot(optimisation, load_checkpoint(path))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("ema.safetensors", lambda w: w.pop("conv_in.bias"), "names of weights differ: conv_in.bias"),
        ("ema.safetensors", lambda w: w.update(x=torch.ones(1)), "names of weights differ: x"),
        ("optimizer.safetensors", lambda w: w.update({"x/step": torch.ones(())}), "optimizer state of x"),
        ("optimizer.safetensors", lambda w: w.update({"conv_in.bias/x": torch.ones(8)}), "optimizer state of conv_in"),
        ("optimizer.safetensors", lambda w: w.pop("conv_in.bias/exp_avg"), "optimizer state of conv_in.bias"),
        ("optimizer.safetensors", lambda w: w.update({"conv_in.bias/step": torch.ones(3)}), "optimizer state conv_in"),
        ("model.safetensors", lambda w: w.update({"x" * 5000: torch.ones(1)}), "1 not in the model, e.g. xxx"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_told_in_a_short_line(tmp_path, name, change, told):
    train(tmp_path, toy_config(num_steps=3))
    path = tmp_path / "checkpoints/00000003"
    parts = load_checkpoint(path)
    tensors = {"e": parts.ema, "o": parts.optimizer, "m": parts.model}[name[0]]
    change(tensors)
    forge(path, name, save(tensors))
    with pytest.raises(ConfigChanged) as error:
        restore_snapshot(toy_optimisation(toy_config()), load_checkpoint(path))
    assert told in str(error.value)
    assert len(str(error.value)) < 400


def test_pipes_and_folders_in_place_of_files_are_refused_and_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors: neither a file nor a folder"):
        load_weights(tmp_path / "w.safetensors")
    for name in ("model.safetensors", STATE):
        path = checkpoint(tmp_path / name)
        (path / name).unlink()
        os.mkfifo(path / name)
        with pytest.raises(DamagedCheckpoint, match="missing"):
            load_checkpoint(path)


def test_metadata_of_a_weights_file_is_bounded(tmp_path):
    path = tmp_path / "w.safetensors"
    for text in ("x" * (2**20 + 1), "[" * 100_000, '{"config": {}, "step": 1e400}', '{"config": {}, "step": -1}'):
        path.write_bytes(save({"w": torch.ones(1)}, {METADATA_KEY: text}))
        with pytest.raises(WeightsError, match=r"w\.safetensors: its metadata [^\n]{1,200}$"):
            load_weights(path)


def test_a_stray_folder_among_the_checkpoints_is_one_damaged_checkpoint(tmp_path):
    checkpoint(tmp_path)
    (tmp_path / "00000007").mkdir()
    (tmp_path / "00000008").write_text("a file")
    (tmp_path / "step-9").mkdir()
    lines: list[str] = []
    loaded = newest_valid(tmp_path, load_checkpoint, lines.append)
    assert loaded is not None
    assert loaded.progress.step == 6
    assert lines == ["checkpoint 00000007 damaged (state.json: missing); using 00000006"]


def test_however_much_of_a_config_changed_it_is_a_short_line():
    old = {f"key{number:02d}": "x" * 1000 for number in range(30)}
    text = describe_changes(sorted(old), old, {})
    assert text.startswith("key00 xxx")
    assert text.endswith(" and 20 more")
    assert len(text) < 1000


def test_what_a_kill_left_of_any_file_of_the_run_is_removed_at_the_next_start(tmp_path):
    with RunFolder(tmp_path):
        pass
    (tmp_path / "samples").mkdir()
    child = os.fork()
    if child == 0:
        os.fsync = lambda _: os._exit(9)
        RunFolder(tmp_path).write_status("running", 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (orphan,) = tmp_path.glob(".restore-diff-*.tmp")
    (tmp_path / "samples" / orphan.name).write_bytes(orphan.read_bytes())
    with RunFolder(tmp_path):
        assert not list(tmp_path.rglob(".restore-diff-*"))
