"""Muon: against torch's own, which takes matrices only; and what a run needs of it."""

import copy
import math

import pytest
import torch
from test_resume import contents, crash, stopped_by
from torch import nn
from toy_run import toy_batches, toy_config, toy_optimisation, train

from restore_diff.training.optimisation import Muon, is_inner_matrix, orthogonalised
from restore_diff.training.run import ConfigChanged


def stack_of_layers() -> nn.Sequential:
    """Tall, square and wide; two of one shape, so that they are iterated on together."""
    torch.manual_seed(0)
    shapes = [(6, 24), (24, 12), (12, 12), (12, 12), (12, 5)]
    return nn.Sequential(*(nn.Linear(inputs, outputs) for inputs, outputs in shapes))


def test_it_is_the_optimizer_of_torch_for_matrices_and_adamw_for_the_rest():
    """torch iterates in bfloat16, so do we here; the order of the sums differs."""
    ours, theirs = stack_of_layers(), stack_of_layers()
    muon = Muon(ours, lr=0.01, weight_decay=0.1, dtype=torch.bfloat16)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    oracle = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([p for p in theirs.parameters() if p.ndim == 1], lr=0.01, weight_decay=0.1)
    start = copy.deepcopy(theirs)
    for _ in range(3):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in (muon, oracle, adamw):
            optimizer.step()
    for p, q, before in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        moved = (q - before).norm()
        assert (p - q).norm() < (0.03 if p.ndim == 2 else 1e-5) * moved


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    rows, columns = shape
    small = min(shape)
    u, _ = torch.linalg.qr(torch.randn(rows, small, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(columns, small, dtype=torch.float64))
    values = torch.linspace(0.2, 1, small, dtype=torch.float64)
    matrix = orthogonalised((u * values @ v.T)[None])[0]
    core = u.T @ matrix @ v
    torch.testing.assert_close(core, core.diagonal().diag(), rtol=0, atol=1e-12)
    assert core.diagonal().min() > 0.65
    assert core.diagonal().max() < 1.25


def test_matrices_of_one_shape_do_not_mix():
    a, b = torch.randn(4, 9), 100 * torch.randn(4, 9)
    together = orthogonalised(torch.stack([a, b]))
    torch.testing.assert_close(together[0], orthogonalised(a[None])[0])
    torch.testing.assert_close(together[1], orthogonalised(b[None])[0])


def test_images_hints_vectors_and_depthwise_convolutions_are_for_adamw():
    unet = toy_optimisation(toy_config(optimizer="muon"), hint=True)
    for_muon = {name for name, p in unet.model.named_parameters() if is_inner_matrix(name, p)}
    assert "down_blocks.0.resnets.0.conv1.weight" in for_muon
    assert not for_muon & {"conv_in.weight", "conv_out.weight", "weather_embedding.weight", "conv_in.bias"}
    assert not is_inner_matrix("blocks.0.depthwise.weight", torch.nn.Parameter(torch.zeros(8, 1, 3, 3)))
    kinds = [group["orthogonal"] for group in unet.optimizer.param_groups]
    assert kinds == [False, True]


def test_the_first_update_has_the_root_mean_square_of_adamw():
    """0.2 times the rate; the singular values are near 1, not 1."""
    config = toy_config(optimizer="muon", warmup_steps=0)
    optimisation = toy_optimisation(config)
    weight = optimisation.model.get_parameter("up_blocks.0.resnets.0.conv2.weight")
    before = weight.detach().clone()
    optimisation.model.conv_out.weight.data.normal_()  # else nothing inside has a gradient yet
    optimisation.advance(0, toy_batches(config)(0))
    moved = (weight - before).square().mean().sqrt().item()
    assert moved == pytest.approx(0.2 * 1e-2, rel=0.3)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_run_that_crashed_equals_an_uninterrupted_one(tmp_path, precision):
    config = toy_config(optimizer="muon", precision=precision)
    train(tmp_path / "whole", config)
    with pytest.raises(KeyError):
        train(tmp_path / "parts", config, validate=None, batches_from=stopped_by(crash, config, 5))
    train(tmp_path / "parts", config)
    assert contents(tmp_path / "whole", 8) == contents(tmp_path / "parts", 8)


def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_state():
    config = toy_config(optimizer="muon")
    optimisation = toy_optimisation(config)
    batches = toy_batches(config)(0)
    for step in range(3):  # by then every matrix has a momentum
        optimisation.advance(step, batches)

    def everything() -> list[torch.Tensor]:
        state = [value for values in optimisation.optimizer.state.values() for value in values.values()]
        return [tensor.detach().clone() for tensor in [*optimisation.model.parameters(), *state]]

    before = everything()
    optimisation.model.conv_out.bias.register_hook(lambda gradient: gradient * math.nan)
    optimisation.model.get_parameter("mid_block.resnets.0.conv1.weight").register_hook(lambda g: g * math.nan)
    optimisation.advance(3, batches)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))


def test_a_state_of_adamw_is_refused_for_muon(tmp_path):
    train(tmp_path / "run", toy_config())
    with pytest.raises(ConfigChanged, match="has not what this optimizer keeps, or more: exp_avg_sq"):
        train(tmp_path / "run", toy_config(optimizer="muon", num_steps=10))
