"""A resumed run equals an uninterrupted one, bit for bit."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_run import Batch, rising_score, toy_batches, toy_config, toy_optimisation, train

from restore_diff.checkpoint import TENSORS, list_checkpoints
from restore_diff.distributed import TrainingInterrupted, TrainingStopped
from restore_diff.settings import TrainingConfig
from restore_diff.training.faults import Interruption


def stopped_by(event, config: TrainingConfig, at_step: int):
    """Batches that let `event` happen while those of a step are read."""

    def batches_from(step: int) -> Iterator[Batch]:
        for number, batch in enumerate(toy_batches(config)(step)):
            if step + number // config.num_micro_batches == at_step and number % config.num_micro_batches == 0:
                event()
            yield batch

    return batches_from


def crash() -> None:
    raise KeyError("lost")


def contents(folder: Path, step: int) -> dict[str, bytes]:
    """Every tensor file, the progress, and the metrics: all that must be equal."""
    checkpoint = folder / "checkpoints" / f"{step:08d}"
    files = {name: (checkpoint / name).read_bytes() for name in TENSORS}
    progress = json.loads((checkpoint / "state.json").read_text())["progress"]
    metrics = (folder / "metrics.jsonl").read_bytes()
    return files | {"progress": json.dumps(progress).encode(), "metrics": metrics}


def status(folder: Path) -> dict[str, object]:
    return json.loads((folder / "status.json").read_text())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_that_crashed_between_checkpoints_equals_an_uninterrupted_one(tmp_path, precision):
    """It crashes at step 5, between the log lines of 4 and 6, and goes on from checkpoint 3, in mid-epoch."""
    config = toy_config(num_micro_batches=2, precision=precision)
    train(tmp_path / "whole", config)
    with pytest.raises(KeyError):
        train(tmp_path / "parts", config, validate=None, batches_from=stopped_by(crash, config, 5))
    assert status(tmp_path / "parts") == {"state": "failed", "step": 5, "reason": "'lost'"}
    train(tmp_path / "parts", config)
    assert "resumed from checkpoint 00000003" in (tmp_path / "parts" / "log.txt").read_text()
    assert contents(tmp_path / "whole", 8) == contents(tmp_path / "parts", 8)


def test_a_run_stopped_by_a_signal_saves_once_and_equals_an_uninterrupted_one(tmp_path):
    config = toy_config()
    train(tmp_path / "whole", config)
    with Interruption() as interruption, pytest.raises(TrainingInterrupted, match="stopped by SIGTERM, saved step 5"):
        event = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
        batches = stopped_by(event, config, 4)
        train(tmp_path / "parts", config, interruption=interruption, batches_from=batches)
    assert status(tmp_path / "parts") == {"state": "preempted", "step": 5, "reason": "stopped by SIGTERM, saved step 5"}
    assert (tmp_path / "parts" / "log.txt").read_text().count("checkpoint 5 saved") == 1
    train(tmp_path / "parts", config)
    assert contents(tmp_path / "whole", 8) == contents(tmp_path / "parts", 8)
    assert status(tmp_path / "parts") == {"state": "finished", "step": 8, "reason": ""}


def test_what_may_change_the_last_bits_of_a_resumed_run_is_said(tmp_path, capsys, monkeypatch):
    train(tmp_path, toy_config(num_steps=2))
    monkeypatch.setattr("torch.__version__", "9.9")
    train(tmp_path, toy_config(num_steps=2))
    assert re.search(r"note: last bits may differ .* because of torch \S+ -> 9\.9\n", capsys.readouterr().out)


def test_the_best_and_the_two_newest_checkpoints_are_kept(tmp_path):
    train(tmp_path, toy_config(num_steps=16, save_every_steps=2, num_checkpoints_kept=2))
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["00000004", "00000014", "00000016"]
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert best == {"step": 4, "metric": "psnr", "score": 30.0}


def test_a_new_best_is_saved_though_no_save_was_due(tmp_path):
    train(tmp_path, toy_config(num_steps=5, save_every_steps=100))
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["00000004", "00000005"]


def test_validation_sees_the_averaged_weights_in_evaluation_mode_and_training_goes_on_with_its_own(tmp_path):
    config = toy_config()
    optimisation = toy_optimisation(config)
    seen = []

    def validate(model, step):
        averaged = optimisation.ema.weights
        same = all(bool((value == averaged[name]).all()) for name, value in model.state_dict().items())
        seen.append((step, same, model.training))
        return rising_score(model, step)

    def batches_from(step):
        for batch in toy_batches(config)(step):
            assert optimisation.model.training
            yield batch

    train(tmp_path / "a", config, optimisation=optimisation, validate=validate, batches_from=batches_from)
    assert seen == [(4, True, False), (8, True, False)]
    train(tmp_path / "b", config, validate=None)
    with_validation, without = contents(tmp_path / "a", 8), contents(tmp_path / "b", 8)
    assert all(with_validation[name] == without[name] for name in TENSORS)


def test_a_nan_stops_before_the_weights_change_and_names_the_batch(tmp_path):
    config = toy_config(learning_rate_decay="constant")

    def poisoned(step: int) -> Iterator[Batch]:
        for number, batch in enumerate(toy_batches(config)(step), start=step):
            yield batch._replace(degraded=batch.degraded * float("nan")) if number == 6 else batch

    with pytest.raises(TrainingStopped, match=r"loss is nan at step 7, on photo_4, photo_0, photo_1, ") as stop:
        train(tmp_path / "bad", config, batches_from=poisoned, validate=None)
    assert (stop.value.step, stop.value.exit_code) == (7, 4)
    assert "checkpoint 00000006 kept" in str(stop.value)
    record = json.loads((tmp_path / "bad" / "nonfinite_000007.json").read_text())
    assert record["positions"] == [24, 25, 26, 27]
    assert record["names"] == ["photo_4", "photo_0", "photo_1", "photo_2"]
    assert (record["loss"], record["weights_finite"]) == ("nan", True)
    assert status(tmp_path / "bad")["state"] == "failed"
    train(tmp_path / "good", toy_config(learning_rate_decay="constant", num_steps=6), validate=None)
    bad, good = contents(tmp_path / "bad", 6), contents(tmp_path / "good", 6)
    assert all(bad[name] == good[name] for name in TENSORS)


def test_float16_that_overflows_without_end_stops_with_advice(tmp_path):
    config = toy_config(precision="float16", num_steps=40)

    optimisation = toy_optimisation(config)
    optimisation.model.conv_out.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingStopped, match=r"overflows 21 steps in a row: set training\.precision=bfloat16"):
        train(tmp_path, config, optimisation=optimisation, validate=None)
