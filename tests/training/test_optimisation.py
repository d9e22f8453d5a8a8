"""One optimizer step."""

import math
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from toy_run import Batch, toy_batches, toy_config, toy_optimisation

from restore_diff.labels import LABELS
from restore_diff.settings import TrainingConfig
from restore_diff.training.optimisation import Optimisation, learning_rate, load_optimizer_tensors, optimizer_tensors


def run(optimisation: Optimisation, config: TrainingConfig, num_steps: int, first: int = 0) -> Optimisation:
    batches = toy_batches(config)(first)
    for step in range(first, first + num_steps):
        optimisation.advance(step, batches)
    return optimisation


def weights(optimisation: Optimisation) -> list[torch.Tensor]:
    return [value.clone() for value in optimisation.model.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_rate_warms_up_linearly_then_follows_half_a_cosine_to_zero():
    config = toy_config(num_steps=110, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[35] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[109] < 3e-4


def test_a_constant_rate_stays_after_the_warm_up_and_no_warm_up_starts_at_the_peak():
    config = toy_config(warmup_steps=0, learning_rate=0.5, learning_rate_decay="constant")
    assert {learning_rate(config, step) for step in range(8)} == {0.5}


def test_the_optimizer_uses_the_rate_of_its_step():
    config = toy_config()
    optimisation = run(toy_optimisation(config), config, 2)
    assert optimisation.optimizer.param_groups[0]["lr"] == learning_rate(config, 1) == pytest.approx(2 / 3 * 1e-2)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 1)])
def test_micro_batches_of_any_size_give_the_gradient_of_the_whole_batch(sizes):
    """Taken from Adam's first moment: after one step from 0 it is a tenth of the gradient."""
    config = toy_config(max_gradient_norm=1e9)
    whole = run(toy_optimisation(config, dropout=0.0), config, 1)

    def parts() -> Iterator[Batch]:
        batch, start = next(toy_batches(config)(0)), 0
        for size in sizes:
            yield Batch(*(field[start : start + size] for field in batch))
            start += size

    split_config = toy_config(max_gradient_norm=1e9, num_micro_batches=len(sizes))
    split = toy_optimisation(split_config, dropout=0.0)
    split.advance(0, parts())
    assert split.meter.read() == pytest.approx(whole.meter.read(), rel=1e-5)
    for a, b in zip(whole.optimizer.state.values(), split.optimizer.state.values(), strict=True):
        torch.testing.assert_close(a["exp_avg"], b["exp_avg"], rtol=0, atol=1e-7)


def test_gradients_are_clipped_to_the_norm_and_the_meter_tells_the_norm_before():
    config = toy_config(max_gradient_norm=1e-3)
    optimisation = run(toy_optimisation(config), config, 1)
    moments = torch.cat([state["exp_avg"].flatten() for state in optimisation.optimizer.state.values()])
    assert 10 * moments.norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert optimisation.meter.read()[1] > 0.1


def test_dropout_depends_on_the_seed_and_the_step_not_on_what_was_drawn_before():
    config = toy_config(num_micro_batches=2)
    plain = weights(run(toy_optimisation(config), config, 3))
    optimisation = toy_optimisation(config)
    run(optimisation, config, 2)
    torch.rand(17)
    assert same(plain, weights(run(optimisation, config, 1, first=2)))
    torch.manual_seed(0)
    assert not same(plain, weights(run(toy_optimisation(config, dropout=0.0), config, 3)))


def poisoned(config: TrainingConfig, bad_step: int) -> Iterator[Batch]:
    for number, batch in enumerate(toy_batches(config)(0)):
        yield batch._replace(clean=batch.clean * math.nan) if number == bad_step else batch


def test_after_a_nan_no_update_is_done_until_somebody_looks():
    config = toy_config()
    optimisation = toy_optimisation(config)
    batches = poisoned(config, bad_step=2)
    for step in range(2):
        optimisation.advance(step, batches)
    before = weights(optimisation), [s["exp_avg_sq"].clone() for s in optimisation.optimizer.state.values()]
    for step in range(2, 5):
        optimisation.advance(step, batches)
    after = weights(optimisation), [s["exp_avg_sq"] for s in optimisation.optimizer.state.values()]
    assert same(before[0], after[0])
    assert same(before[1], after[1])
    found = optimisation.guard.found()
    assert found is not None
    assert str(found) == "loss is nan at step 3"


def test_an_infinite_gradient_of_a_finite_loss_is_found_too():
    config = toy_config()
    optimisation = toy_optimisation(config)
    bias = optimisation.model.conv_out.bias
    bias.register_hook(lambda gradient: gradient * math.inf)
    before = weights(optimisation)
    run(optimisation, config, 1)
    assert same(before, weights(optimisation))
    assert str(optimisation.guard.found()).startswith("gradient norm is")


def test_float16_leaves_out_an_overflowing_update_lowers_its_scale_and_goes_on():
    config = toy_config(precision="float16", learning_rate_decay="constant")
    optimisation = toy_optimisation(config)
    overflow = {1, 2}
    steps = iter(range(4))
    optimisation.model.conv_out.bias.register_hook(lambda g: g * math.inf if next(steps) in overflow else g)
    batches = toy_batches(config)(0)
    optimisation.advance(0, batches)
    before = weights(optimisation)
    for step in (1, 2):
        optimisation.advance(step, batches)
    assert same(before, weights(optimisation))
    assert optimisation.guard.overflows() == (2, 2)
    assert optimisation.scaler.get_scale() == 65536 / 4
    optimisation.advance(3, batches)
    assert not same(before, weights(optimisation))
    assert optimisation.guard.overflows() == (0, 2)
    assert optimisation.guard.found() is None
    assert all(math.isfinite(mean) for mean in optimisation.meter.read())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_computes_the_network_in_low_precision_and_the_loss_in_float32(precision):
    config = toy_config(precision=precision, max_gradient_norm=1e9)
    optimisation = toy_optimisation(config, dropout=0.0)
    seen: list[torch.dtype] = []
    conv = optimisation.model.down_blocks[0].resnets[0].conv1
    assert isinstance(conv, nn.Conv2d)
    conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run(optimisation, config, 2)
    exact = run(toy_optimisation(toy_config(max_gradient_norm=1e9), dropout=0.0), toy_config(), 2)
    assert set(seen) == {getattr(torch, precision)}
    assert optimisation.meter.read() == pytest.approx(exact.meter.read(), rel=0.03)
    assert {value.dtype for value in optimisation.model.parameters()} == {torch.float32}


def test_a_sample_of_another_step_is_an_error_of_ours():
    config = toy_config()
    with pytest.raises(AssertionError, match="sample 4 is not of step 0"):
        toy_optimisation(config).advance(0, islice(toy_batches(config)(1), 1))


def test_moments_come_back_with_the_strides_of_their_parameters():
    """Fused kernels want them alike, and a file keeps contiguous tensors only."""
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3, 3, 3)).sum().backward()
    optimizer.step()
    saved = {name: value.contiguous() for name, value in optimizer_tensors(model, optimizer).items()}
    assert sorted(saved)[3:] == ["weight/exp_avg", "weight/exp_avg_sq", "weight/step"]
    fresh = AdamW(model.parameters(), fused=True)
    load_optimizer_tensors(model, fresh, saved)
    moment = fresh.state[model.weight]["exp_avg"]
    assert moment.stride() == model.weight.stride() != saved["weight/exp_avg"].stride()
    assert torch.equal(moment, optimizer.state[model.weight]["exp_avg"])
    assert fresh.state[model.bias]["step"] == 1


def test_an_optimizer_state_of_another_model_is_refused_by_name():
    model = nn.Linear(2, 3)
    optimizer = AdamW(model.parameters())
    with pytest.raises(ValueError, match="optimizer state of other, which the model does not have"):
        load_optimizer_tensors(model, optimizer, {"other/exp_avg": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"weight/exp_avg has shape \(1,\), the model \(3, 2\)"):
        load_optimizer_tensors(model, optimizer, {"weight/exp_avg": torch.zeros(1)})


def test_a_network_that_takes_hints_is_told_the_weather_of_some_samples():
    config = toy_config(hint_dropout=0.5, num_micro_batches=2)
    optimisation = toy_optimisation(config, hint=True)
    told = []
    network = optimisation._network
    optimisation._network = lambda *inputs, weather: (told.append(weather), network(*inputs, weather=weather))[1]
    run(optimisation, config, 8)
    rows = torch.cat(told)
    assert rows.shape == (32, len(LABELS))
    haze = rows[:, LABELS.index("haze")]
    assert rows.sum() == haze.sum() and haze[::2].sum() == 0  # only every other one of the toy's has a weather
    assert 2 <= haze[1::2].sum() <= 14
    assert optimisation.model.get_parameter("weather_embedding.weight").abs().max() > 0
