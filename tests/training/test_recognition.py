"""Training the part that recognises the weather, and nothing else."""

import pytest
import torch
from test_resume import contents, crash, stopped_by
from toy_run import Batch, toy_batches, toy_config, toy_optimisation, train

from restore_diff.labels import hints

CONFIG = {"part": "recognition", "batch_size": 8, "max_gradient_norm": 1e9, "warmup_steps": 0}


def hazy_or_not(config, steps):
    """Every other image is as it was, the others are brighter; of each third nothing is known."""
    for batch in (next(toy_batches(config)(step)) for step in range(steps)):
        weathers = ["none", "haze"] * 4
        degraded = torch.where(torch.tensor([w == "haze" for w in weathers])[:, None, None, None], 1.0, batch.clean)
        known = [None if position % 3 == 0 else w for position, w in zip(batch.positions, weathers, strict=True)]
        yield Batch(batch.clean, degraded, batch.positions, batch.names, known)


def test_it_learns_the_weather_and_leaves_the_network_as_it_was():
    config = toy_config(**CONFIG, num_steps=60)
    optimisation = toy_optimisation(config, recognise=True)
    before = {name: tensor.clone() for name, tensor in optimisation.model.state_dict().items()}
    asked = {name for name, parameter in optimisation.model.named_parameters() if parameter.requires_grad}
    assert asked and all(name.startswith("weather_head.") for name in asked)
    losses = []
    for step, batch in enumerate(hazy_or_not(config, 60)):
        optimisation.advance(step, iter([batch]))
        losses.append(optimisation.meter.read()[0])
    after = optimisation.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("weather_head.") for name in changed)
    assert losses[-1] < 0.2 * losses[0]
    for name in before:
        assert torch.equal(before[name], optimisation.ema.weights[name]) == (name not in changed)


def test_the_loss_is_the_cross_entropy_of_each_kind_where_the_weather_is_known():
    """Before training each kind is as likely as not: log 2 for a sample whose weather is known, nothing for others."""
    config = toy_config(**CONFIG)
    optimisation = toy_optimisation(config, recognise=True)
    (batch,) = hazy_or_not(config, 1)
    share = hints(batch.weathers).sum() / len(batch.weathers)
    asked, network = [], optimisation._network
    optimisation._network = lambda x_t, t, degraded: (asked.append((x_t, t)), network(x_t, t, degraded))[1]
    optimisation.advance(0, iter([batch]))
    ((x_t, t),) = asked
    assert t.eq(999).all() and abs(x_t.mean()) < 0.1  # noise alone, and said to be
    assert optimisation.meter.read()[0] == pytest.approx(share.item() * 0.693147, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_crashed_equals_an_uninterrupted_one(tmp_path, optimizer):
    config = toy_config(part="recognition", optimizer=optimizer)
    train(tmp_path / "whole", config)
    with pytest.raises(KeyError):
        train(tmp_path / "parts", config, validate=None, batches_from=stopped_by(crash, config, 5))
    train(tmp_path / "parts", config)
    assert contents(tmp_path / "whole", 8) == contents(tmp_path / "parts", 8)


def test_a_network_that_recognises_nothing_is_refused():
    with pytest.raises(ValueError, match=r"part=recognition needs a network with model\.recognise=true"):
        toy_optimisation(toy_config(part="recognition"))


def test_the_rest_of_a_network_is_trained_without_it():
    """Several processes wait for the gradient of all that is trained: what has none must not be among it."""
    config = toy_config()
    optimisation = toy_optimisation(config, recognise=True)
    optimisation.advance(0, toy_batches(config)(0))
    idle = {name for name, p in optimisation.model.named_parameters() if not p.requires_grad}
    assert idle == {name for name, _ in optimisation.model.named_parameters() if name.startswith("weather_head.")}
    assert all(p.grad is not None for p in optimisation.model.parameters() if p.requires_grad)
