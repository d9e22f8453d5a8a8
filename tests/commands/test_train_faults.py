"""train.py when the machine fails it, and restore.py with checkpoints that somebody has tampered with."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import arguments, enter, run_train, tensors, tree

from restore_diff import checkpoint as checkpoint_module
from restore_diff import trained
from restore_diff.checkpoint import (
    STATE,
    encode_state,
    list_checkpoints,
    read_state,
    verify_checkpoint,
)
from restore_diff.commands import restore, training_run
from restore_diff.data.loading import TrainingBatches

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("runs/derain")
TRAIN = [str(ROOT / "train.py")]
OFTEN = ["training.save_every_steps=2", "training.num_steps=6", "training.num_checkpoints_kept=9"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts small file systems")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A user's folder in which the command has run once, with checkpoints 2, 4 and 6."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = enter(tmp_path_factory.mktemp("finished"), monkeypatch)
        assert run_train(*OFTEN) == 0
    (folder / RUN / "checkpoints/best.json").unlink(missing_ok=True)
    return folder


@pytest.fixture
def done(finished, here):
    shutil.copytree(finished / "runs", here / "runs")
    return here


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def in_a_child(*more: str) -> int:
    """The wait status of a process that runs the command."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = run_train(*more)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def with_tmpfs(folder: str, options: str, program: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    """Train in a process that alone sees a tmpfs at `folder`; what it has in runs/ at the end is copied to left/."""
    Path("runs").mkdir()
    private = ["unshare", "-rm", "sh", "-c"]
    try:
        subprocess.run([*private, f"mount -t tmpfs none {folder}"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount")
    script = f'mount -t tmpfs -o {options} none {folder} && {{ "$@"; code=$?; cp -r runs left; exit $code; }}'
    return subprocess.run(
        [*private, script, "sh", sys.executable, *program, *arguments(*more)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@linux
def test_a_disk_that_fills_stops_with_4_and_the_older_checkpoint_goes_on(here):
    done = with_tmpfs(
        "runs",
        "size=4m",
        TRAIN,
        "training.save_every_steps=1",
        "training.num_checkpoints_kept=99",
        "training.num_steps=60",
        "data.num_validation=0",
    )
    assert done.returncode == 4, done.stderr
    (line,) = done.stderr.splitlines()
    kept = list_checkpoints(Path("left/derain/checkpoints"))[-1]
    assert line.startswith(
        f"train.py: checkpoint {int(kept.name) + 1:08d} not saved: No space left on device; it needs "
    )
    assert line.endswith(f" MB are free; checkpoint {kept.name} kept")
    assert not list(Path("left").rglob(".*-*"))
    shutil.rmtree("runs")
    Path("left").rename("runs")
    verify_checkpoint(RUN / f"checkpoints/{kept.name}")
    last = f"training.num_steps={int(kept.name) + 1}"
    assert run_train(last, "data.num_validation=0") == 0


IMPATIENT = """
import sys
from restore_diff.commands.train import main
from restore_diff.data import loading, workers
loading.choose_transport = lambda *sizes: workers.Transport(4, by_pipe=False)
sys.exit(main())
"""
"""train.py that does not look how much shared memory is free, as when others fill it later."""


@linux
@pytest.mark.parametrize("looks", [True, False])
def test_training_neither_hangs_nor_ends_without_reason_where_shared_memory_is_full(here, looks):
    large = ["data.num_workers=4", "training.batch_size=16", "data.num_validation=0", "training.num_micro_batches=1"]
    done = with_tmpfs("/dev/shm", "size=256k", TRAIN if looks else ["-c", IMPATIENT], *large)
    said = done.stdout + done.stderr
    if looks:
        assert done.returncode == 0, said
        assert "/dev/shm has 0.2 MiB free, batches of 0.1 MiB are copied through pipes; " in said
        through_pipes = tensors(RUN, 4)
        shutil.rmtree("runs")
        assert run_train(*large, "data.num_workers=0") == 0
        assert tensors(RUN, 4) == through_pipes
    else:
        assert done.returncode == 4, said
        assert "train.py: a data worker had no shared memory left: raise its" in done.stderr.splitlines()[-1]


@linux
def test_a_read_only_folder_ends_with_2_before_any_training(here):
    done = with_tmpfs("runs", "ro", TRAIN)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line == "train.py: cannot write the run folder runs/derain: Read-only file system"


def test_a_run_folder_that_is_a_file_ends_with_2_before_any_training(here, capsys):
    Path("runs").write_text("mine")
    assert run_train() == 2
    assert capsys.readouterr().err == "train.py: cannot write the run folder runs/derain: Not a directory\n"
    assert Path("runs").read_text() == "mine"


def test_a_damaged_newest_checkpoint_costs_its_steps_and_changes_nothing(done, capsys):
    expected, metrics = tensors(RUN, 6), (RUN / "metrics.jsonl").read_bytes()
    flip_a_bit(RUN / "checkpoints/00000006/model.safetensors")
    assert run_train(*OFTEN) == 0
    told = "checkpoint 00000006 damaged (model.safetensors: checksum differs); using 00000004"
    assert told in capsys.readouterr().out.splitlines()
    assert (tensors(RUN, 6), (RUN / "metrics.jsonl").read_bytes()) == (expected, metrics)


def test_where_all_checkpoints_are_damaged_each_is_listed_and_nothing_is_touched(done, capsys):
    for path in list_checkpoints(RUN / "checkpoints"):
        flip_a_bit(path / "optimizer.safetensors")
    before = {name: data for name, data in tree(RUN).items() if name not in (".lock", "log.txt")}
    assert run_train(*OFTEN) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: no intact checkpoint in runs/derain/checkpoints: ")
    assert [f"{step:08d} damaged (optimizer.safetensors: checksum differs)" in line for step in (6, 4, 2)] == [True] * 3
    assert {name: data for name, data in tree(RUN).items() if name not in (".lock", "log.txt")} == before


def test_a_run_begun_by_a_version_without_a_setting_goes_on(done, capsys):
    """As if training.optimizer and model.kind had not been known when it began."""
    for path in list_checkpoints(RUN / "checkpoints"):
        state = read_state(path)
        assert (state.config["training"].pop("optimizer"), state.config["model"].pop("kind")) == ("adamw", "unet")
        (path / STATE).write_bytes(encode_state(state))
    assert run_train(*OFTEN, "training.optimizer=muon") == 2
    assert "training.optimizer adamw -> muon. Start anew with --fresh" in capsys.readouterr().err
    assert run_train(*OFTEN, "training.num_steps=7") == 0
    assert "resumed from checkpoint 00000006; changed: training.num_steps 6 -> 7" in capsys.readouterr().out


def signalling(at_call, action):
    """A patch for a function, that sends this process a signal at that call."""
    calls = []

    def called(*args, **named):
        calls.append(1)
        if len(calls) == at_call:
            os.kill(os.getpid(), signal.SIGTERM)
        return action(*args, **named)

    return called


@pytest.mark.parametrize("moment", ["data", "validation", "save"])
def test_sigterm_at_any_moment_saves_once_exits_143_and_the_next_run_equals_an_uninterrupted_one(
    here, finished, capsys, monkeypatch, moment
):
    more = [*OFTEN, "training.validate_every_steps=2"]
    with monkeypatch.context() as patch:
        if moment == "data":
            load = TrainingBatches.iter_from

            def iter_from(self, step):
                for number, batch in enumerate(load(self, step)):
                    if number == 3:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield batch

            owner, name, action = TrainingBatches, "iter_from", iter_from
        elif moment == "validation":
            owner, name = training_run, "validation"
            make = training_run.validation
            action = lambda *parts: signalling(2, make(*parts))  # noqa: E731
        else:
            owner, name = checkpoint_module, "write_durably"
            action = signalling(3, checkpoint_module.write_durably)
        patch.setattr(owner, name, action)
        assert run_train(*more) == 128 + signal.SIGTERM
    step = json.loads((RUN / "status.json").read_text())["step"]
    assert capsys.readouterr().err.splitlines()[-1] == f"train.py: stopped by SIGTERM, saved step {step}"
    assert [int(path.name) for path in list_checkpoints(RUN / "checkpoints")][-1] == step
    assert not list((RUN / "checkpoints").glob(".*"))
    assert run_train(*more) == 0
    assert tensors(RUN, 6) == tensors(finished / RUN, 6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_during_a_save_leaves_at_once_and_damages_nothing(done, monkeypatch, capfd, number):
    expected = tensors(RUN, 6)
    shutil.rmtree(RUN / "checkpoints/00000006")
    write = checkpoint_module.write_durably

    def interrupted(path, data):
        write(path, data)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_durably", interrupted)
        assert in_a_child(*OFTEN) == number
    assert [path.name for path in list_checkpoints(RUN / "checkpoints")] == ["00000002", "00000004"]
    assert run_train(*OFTEN) == 0
    assert "removed .partial-00000006, which a killed process had left" in capfd.readouterr().out
    assert tensors(RUN, 6) == expected


def test_sigterm_while_the_network_is_built_ends_the_process_and_leaves_no_checkpoint(here, monkeypatch):
    """The shell says 143 of a process that SIGTERM ended."""
    with monkeypatch.context() as patch:
        patch.setattr(trained, "network", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert in_a_child() == signal.SIGTERM
    assert not RUN.exists()


def test_ctrl_c_before_the_first_step_exits_130_and_leaves_no_checkpoint(here, monkeypatch, capsys):
    run = training_run.Trainer.run

    def signalled(trainer):
        os.kill(os.getpid(), signal.SIGINT)
        return run(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(training_run.Trainer, "run", signalled)
        assert run_train() == 128 + signal.SIGINT
    assert capsys.readouterr().err.splitlines()[-1] == "train.py: stopped by SIGINT, before the first step"
    assert list((RUN / "checkpoints").iterdir()) == []
    assert run_train() == 0


def test_the_same_seed_gives_the_same_bits_and_another_one_others(here, finished):
    assert run_train(*OFTEN) == 0
    assert run_train(*OFTEN, "name=other", "seed=1") == 0
    assert tensors(RUN, 6) == tensors(finished / RUN, 6)
    assert tensors(Path("runs/other"), 6)["model.safetensors"] != tensors(RUN, 6)["model.safetensors"]


def test_restore_refuses_pickles_of_any_name_and_runs_nothing_of_them(here, capsys):
    class Evil:
        def __reduce__(self):
            return Path.touch, (here / "executed",)

    for name in ("w.pt", "w.pth", "w.ckpt", "w.safetensors"):
        Path(name).write_bytes(pickle.dumps(Evil()))
        torch.save({"state_dict": Evil()}, f"zip-{name}")
        for file in (name, f"zip-{name}"):
            assert restore.main(["-i", "tests/input", "-o", "out", "--ckpt", file, "--device", "cpu"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"restore.py: {file}: not a safetensors file ")
            assert line.endswith("pickles are never opened")
    assert not (here / "executed").exists()


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda state: state["config"]["model"].update(num_blocks=10**9), "num_blocks"),
        (lambda state: state["config"]["model"].update(base_channels=10**12), "base_channels"),
        (lambda state: state["config"]["model"].update(channel_multipliers=[1] * 10**4), "channel_multipliers"),
        (lambda state: state["config"]["schedule"].update(num_timesteps=10**12), "num_timesteps"),
        (lambda state: state["config"].update(name="../../x"), "name"),
        (lambda state: state["progress"].update(step=10**30), "state.json"),
        (lambda state: state["files"].update({"../../x": {"num_bytes": 1, "sha256": "0" * 64}}), "state.json"),
    ],
)
def test_a_forged_state_costs_neither_time_nor_memory_and_writes_nothing(done, capsys, edit, told):
    path = RUN / "checkpoints/00000006/state.json"
    state = json.loads(path.read_text())
    del state["sha256"]
    edit(state)
    checksum = checkpoint_module.sha256(json.dumps(state, sort_keys=True).encode())
    path.write_text(json.dumps(state | {"sha256": checksum}))
    before = tree(done)
    assert restore.main(["-i", "tests/input", "-o", "out", "--ckpt", str(path.parent), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert len(line) < 500
    assert tree(done) == before
