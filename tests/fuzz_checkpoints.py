"""Mutated checkpoints for fuzz_settings.py: a run folder with two checkpoints and a weights file."""

import atexit
import contextlib
import io
import json
import os
import random
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from restore_diff import build, trained
from restore_diff.checkpoint import (
    BEST,
    STATE,
    TENSORS,
    Best,
    load_checkpoint,
    mark_best,
    save_checkpoint,
    save_weights,
    sha256,
)
from restore_diff.commands.console import USER_ERRORS, lines_of
from restore_diff.config import load_config, to_dict
from restore_diff.distributed import TrainingStopped
from restore_diff.files import printable
from restore_diff.training.faults import Interruption
from restore_diff.training.optimisation import Optimisation
from restore_diff.training.run import RunFolder, RunLog
from restore_diff.training.trainer import Trainer, digests, take_snapshot

CPU = torch.device("cpu")
CONFIG = load_config(
    [],
    [
        *(
            "model.base_channels=8",
            "model.channel_multipliers=[1,2]",
            "model.num_groups=4",
            "model.attention_levels=[]",
        ),
        *("model.mid_attention=false", "model.num_blocks=1", "training.batch_size=1", "training.num_steps=9", "name=x"),
        *("training.warmup_steps=1", "tiling.tile_size_px=0", "diffusion.prediction=residual", "sampler.num_steps=2"),
    ],
)
STEPS = (3, 6)
STRANGE = (
    *(
        0,
        -1,
        2**31,
        2**63,
        10**12,
        10**30,
        1.5,
        1e308,
        True,
        None,
        "",
        "6",
        "../../x",
        "/etc/passwd",
        "a\nb",
        "\x1b[2J",
    ),
    *([], {}, [1] * 1000, ["x"], {"a": 1}, [[[[]]]], "x" * 10_000, "\ud800", [10**9], [1, 10**6], {"../x": {}}),
)
TYPES = ("F16", "BF16", "F64", "I8", "U8", "BOOL", "I64", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "C64", "X", 3, None)


class Batch:
    """One grey image."""

    clean = degraded = torch.full((1, 3, 16, 16), 0.5)
    positions, names, weathers = (0,), ("grey",), (None,)

    def __init__(self, step: int):
        self.positions = [step]


@cache
def prepare() -> tuple[Path, dict[int, dict[str, str]]]:
    """Return a run folder with a weights file, and the digests of each checkpoint."""
    run = Path(tempfile.mkdtemp(prefix="originals-"))
    atexit.register(shutil.rmtree, run)
    optimisation, saved, best = _optimisation(), {}, Best(step=STEPS[0], metric="psnr", score=30.0)
    for step in range(max(STEPS)):
        optimisation.advance(step, iter([Batch(step)]))
        if step + 1 in STEPS:
            checkpoint = take_snapshot(optimisation, step + 1, best, to_dict(CONFIG))
            saved[step + 1] = digests(load_checkpoint(save_checkpoint(run / "checkpoints", checkpoint)))
    mark_best(run / "checkpoints", best)
    save_weights(run / "weights.safetensors", optimisation.ema.weights, to_dict(CONFIG), max(STEPS))
    return run, saved


def attempt(draw: random.Random, folder: Path) -> list[str]:
    """Return the error lines for a mutated run folder; none if it is read."""
    original, saved = prepare()
    run = shutil.copytree(original, folder / "run")
    # A forged checkpoint with valid checksums may be read, but must be harmless.
    faithful = draw.choice([_damage, _damage, _exchange, _forge])(run, draw)
    lines = _restoring(run, draw, saved, faithful)
    return lines + _resuming(run, saved, faithful)


def _restoring(run: Path, draw: random.Random, saved: dict[int, dict[str, str]], faithful: bool) -> list[str]:
    newest = run / f"checkpoints/{max(STEPS):08d}"
    path = draw.choice([run, newest, run / "weights.safetensors"])
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            _, config, weights = trained.load_experiment(path)
            if faithful and path.suffix == "":
                found = digests_of_averages(weights.tensors)
                assert found == saved[weights.step]["averages"], "the averaged weights differ from the saved ones"
            restorer, _ = trained.trained_restorer(path, config, weights, CPU)
            restorer.restore(torch.full((1, 3, 8, 8), 0.5), ["grey"])
    except (*USER_ERRORS, FloatingPointError) as error:  # FloatingPointError concerns the image
        return printed.getvalue().splitlines() + [printable(line) for line in lines_of(error)]
    return printed.getvalue().splitlines()


def _resuming(run: Path, saved: dict[int, dict[str, str]], faithful: bool) -> list[str]:
    some = any((run / "checkpoints").glob("0*"))
    optimisation = _optimisation()
    try:
        with contextlib.redirect_stdout(io.StringIO()), RunFolder(run) as folder, RunLog(run) as log:
            experiment, batches = to_dict(CONFIG), lambda step: map(Batch, range(step, 99))
            training = CONFIG.training
            parts = optimisation, batches, training, experiment, folder, log, Interruption(), None
            trainer = Trainer(*parts, best_metric="psnr")
            assert trainer.step or not some, "restarted from step 0 despite a checkpoint"
            if faithful and trainer.step:
                found = digests(take_snapshot(optimisation, trainer.step, None, experiment))
                assert found == saved[trainer.step], "the resumed state differs from the saved one"
            trainer.run()
    except (*USER_ERRORS, TrainingStopped) as error:
        return [printable(line) for line in lines_of(error)]
    return []


def digests_of_averages(tensors: dict[str, torch.Tensor]) -> str:
    empty = take_snapshot(_optimisation(), 0, None, {})
    return digests(type(empty)(empty.progress, {}, {}, {}, tensors, {}))["averages"]


def _optimisation() -> Optimisation:
    torch.manual_seed(0)
    return Optimisation(build.network(CONFIG), build.diffusion(CONFIG), CONFIG.training, 0, CPU)


def _damage(run: Path, draw: random.Random) -> bool:
    """Change bytes of one or two files."""
    for _ in range(draw.randint(1, 2)):
        path = draw.choice([path for path in run.rglob("*") if path.is_file()])
        data = bytearray(path.read_bytes()) or bytearray(1)
        kind = draw.choice(["flip", "flip", "flip", "cut", "longer", "zero", "empty", "sparse"])
        if kind == "flip":
            end = draw.choice([len(data), min(len(data), 3000)])  # the header
            for _ in range(draw.choice([1, 1, 5])):
                data[draw.randrange(end)] ^= 1 << draw.randrange(8)
        elif kind == "zero":
            start = draw.randrange(len(data))
            data[start : start + 512] = bytes(len(data[start : start + 512]))
        edits = {"cut": data[: draw.randrange(len(data))], "longer": data + draw.randbytes(100), "empty": bytearray()}
        path.write_bytes(edits.get(kind, data))
        if kind == "sparse":
            os.truncate(path, 2**30)
            break
    return True


def _exchange(run: Path, draw: random.Random) -> bool:
    """Swap, remove, rename or replace whole files and folders."""
    folder = run / "checkpoints"
    first, second = (folder / f"{step:08d}" for step in STEPS)
    path = draw.choice([second / name for name in (*TENSORS, STATE)] + [folder / BEST, run / "weights.safetensors"])
    other = draw.choice([first / name for name in (*TENSORS, STATE)] + [second / name for name in (*TENSORS, STATE)])
    kind = draw.choice(
        ["swap", "swap", "gone", "folder", "fifo", "link", "loop", "broken", "rename", "nothing", "stray"]
    )
    if kind == "swap":
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind == "rename":
        (draw.choice([first, second])).rename(folder / draw.choice(["00000009", "999999999999", "00000000", "1", "x"]))
    elif kind == "stray":
        (folder / "00000007").mkdir()
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind in ("link", "loop", "broken"):
            path.symlink_to({"link": other, "loop": path, "broken": "nowhere"}[kind])
    return True


def _forge(run: Path, draw: random.Random) -> bool:
    """Edit values of the newest checkpoint or of the weights file, and recompute the checksums."""
    newest = run / f"checkpoints/{max(STEPS):08d}"
    state = json.loads((newest / STATE).read_text())
    del state["sha256"]
    if draw.random() < 0.5:
        _edit(state, draw)
    else:
        name = draw.choice(TENSORS)
        data = _forged_tensors((newest / name).read_bytes(), draw)
        (newest / name).write_bytes(data)
        state["files"][name] = {"num_bytes": len(data), "sha256": sha256(data)}
    text = json.dumps(state, sort_keys=True).encode()
    (newest / STATE).write_text(json.dumps(state | {"sha256": sha256(text)}))
    weights = run / "weights.safetensors"
    weights.write_bytes(_forged_tensors(weights.read_bytes(), draw))
    return False


def _forged_tensors(data: bytes, draw: random.Random) -> bytes:
    """Change the header (a length in 8 bytes, then JSON) of the tensors."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    name = draw.choice([key for key in header if key != "__metadata__"])
    kind = draw.choice(
        ["type", "shape", "offsets", "name", "gone", "more", "length", "nan", "tree", "metadata", "deep"]
    )
    if kind == "type":
        header[name]["dtype"] = draw.choice(TYPES)
    elif kind == "shape":
        strange = [[], [0], [2**62, 2**62], [-1], [1, *header[name]["shape"]], header[name]["shape"][::-1]]
        header[name]["shape"] = draw.choice(strange)
    elif kind == "offsets":
        other = draw.choice([value for key, value in header.items() if key != "__metadata__"])
        header[name]["data_offsets"] = draw.choice([other["data_offsets"], [0, 2**63], [5, 1], [-4, 0], []])
    elif kind == "name":
        header[draw.choice(["x", "", "a\nb", "\x1b[2J", "w" * 5000, f"{name}/x"])] = header.pop(name)
    elif kind == "gone":
        header.pop(name)
    elif kind == "more":
        size = draw.choice([4, 4 * 10**6])
        header["extra"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [len(body), len(body) + size]}
        body += bytes(size)
    elif kind == "nan":
        body[-4:] = struct.pack("<f", draw.choice([float("nan"), float("inf"), 1e38]))
    elif kind == "metadata" and "__metadata__" in header:
        values = json.loads(header["__metadata__"]["restore_diff"])
        _edit(values, draw)
        header["__metadata__"]["restore_diff"] = json.dumps(values)
    elif kind == "tree":
        _edit(header, draw)
    text = b'{"a":' * 5000 if kind == "deep" else json.dumps(header).encode()
    size = draw.choice([0, 2**40, 2**63, 100_000_000, 2**64 - 1]) if kind == "length" else len(text)
    return struct.pack("<Q", size) + text + bytes(body)


def _edit(values: dict[str, Any], draw: random.Random) -> None:
    """Change, remove, rename or nest one to three values in a JSON tree."""
    for _ in range(draw.randint(1, 3)):
        node: Any = values
        while children := [child for child in node.values() if isinstance(child, dict) and child]:
            if draw.random() < 0.2:
                break
            node = draw.choice(children)
        if not node:
            continue
        key = draw.choice(list(node))
        kind = draw.choice(["value", "value", "value", "gone", "rename", "deep"])
        content = node.pop(key)
        if kind == "value":
            node[key] = draw.choice(STRANGE)
        elif kind == "rename":
            node[draw.choice(["x", "../../x", "a\nb", "", "\x1b[2J"])] = content
        elif kind == "deep":
            for _ in range(draw.choice([3, 150, 400])):
                content = draw.choice([[content], {"a": content}])
            node[key] = content
