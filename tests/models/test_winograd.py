"""Winograd's convolution is the convolution, in value and in gradients, and is taken in training alone."""

import pytest
import torch
import torch.nn.functional as F

from restore_diff.models import layers, winograd

LEAST = winograd.LEAST_CHANNELS


def of_both(dtype, batch=3, channels=5, out=7, size=(12, 20)):
    """(result, gradients of features, weight and bias) of the sum itself and of Winograd's algorithm, of one layer."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    given = random(batch, channels, *size), random(out, channels, 3, 3), random(out)
    above = random(batch, out, *size)
    for convolution in (lambda *of: F.conv2d(*of, padding=1), winograd.convolution):
        layer = [tensor.clone().requires_grad_() for tensor in given]
        result = convolution(*layer)
        yield result, *torch.autograd.grad(result, layer, above)


@pytest.mark.parametrize("part_bytes", [1, 4 * 36 * 5 * 7 * 3 + 1, 4 * 36 * 5 * 7 * 6 + 1, 10**9])
def test_it_is_the_convolution_with_its_gradients_whatever_is_worked_on_at_once(monkeypatch, part_bytes):
    monkeypatch.setattr(winograd, "PART_BYTES", part_bytes)  # a row of tiles, a whole image, two, all three
    for expected, found in zip(*of_both(torch.float64), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_in_float32_it_is_off_by_a_millionth_of_the_deviation():
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 64, 32, 32), (32, 64, 3, 3), (32,)
    features, weight, bias = (torch.randn(*shape, generator=generator) for shape in shapes)
    exact = F.conv2d(features.double(), weight.double(), bias.double(), padding=1)
    error = winograd.convolution(features, weight, bias) - exact
    assert error.square().mean().sqrt() / exact.std() < 1.7e-6  # with the points 0, 1, -1, 2, -2: 2.3e-6


def test_no_gradient_of_its_gradient_is_made_up():
    features = torch.randn(1, 2, 4, 4, requires_grad=True)
    result = winograd.convolution(features, torch.randn(2, 2, 3, 3), torch.zeros(2)).square().sum()
    (gradient,) = torch.autograd.grad(result, features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_it_pays_for_wide_layers_of_whole_tiles_in_float32():
    def pays(*shape, out=LEAST, dtype=torch.float32):
        return winograd.pays(torch.empty(shape, dtype=dtype), torch.empty(out, shape[1], 3, 3, dtype=dtype))

    assert pays(1, LEAST, 32, 32)
    assert pays(4, LEAST, 16, 16)
    assert not pays(1, LEAST, 32, 31)
    assert not pays(1, LEAST, 30, 36)
    assert not pays(1, LEAST - 1, 32, 32)
    assert not pays(1, LEAST, 32, 32, out=LEAST - 1)
    assert not pays(3, LEAST, 16, 16)
    assert not pays(1, LEAST, 32, 32, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(1, LEAST, 32, 32)


def test_a_layer_takes_it_in_training_alone():
    layer = layers.Convolution3x3(LEAST, LEAST)
    features = torch.randn(1, LEAST, 32, 32, requires_grad=True)
    in_training = layer(features)
    assert "_Convolution" in str(in_training.grad_fn)
    in_use = layer.eval()(features)
    assert "_Convolution" not in str(in_use.grad_fn)
    torch.testing.assert_close(in_training, in_use, rtol=0, atol=2e-5)


def test_a_compiler_is_given_the_convolution_itself():
    layer = layers.Convolution3x3(LEAST, LEAST).train()
    graph = torch.export.export(layer, (torch.randn(1, LEAST, 32, 32),)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.conv2d.default]
