"""The transformer: linear cost, any size, attention over channels, and a condition that is read by each pixel."""

import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from restore_diff.labels import hints
from restore_diff.models.transformer import Block, CrossAttention, Tokens, TransformerSettings, transposed_attention
from restore_diff.models.unet import make_network
from restore_diff.settings import NetworkConfig

TINY = {"channels": 8, "head_channels": 4, "num_blocks": (1, 1)}
WORDS = {**TINY, "token_channels": 6}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(options=TINY, **changes):
    """A tiny network with every parameter random, those that start at zero too."""
    model = make_network(NetworkConfig(kind="transformer", options=options, **changes)).eval()
    generator = seeded()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            scale = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + ("temperature" in name))
    return model


def inputs(size=(8, 12), batch=2, channels=3):
    x_t, degraded = (torch.randn(batch, channels, *size, generator=seeded(k)) for k in (1, 2))
    return x_t, torch.tensor([3, 777, 41][:batch]), degraded


def test_an_untrained_network_puts_out_zero_and_each_block_is_the_identity():
    model = make_network(NetworkConfig(kind="transformer", options=WORDS))
    x_t, t, degraded = inputs()
    assert torch.equal(model(x_t, t, degraded), torch.zeros_like(x_t))
    features, condition = torch.randn(2, 16, 4, 6), Tokens(torch.randn(2, 3, 6), torch.zeros(2, 3))
    block = Block(16, 32, TransformerSettings(**WORDS))
    assert torch.equal(block(features, torch.randn(2, 32), condition), features)


def test_the_cost_is_linear_in_the_number_of_pixels():
    model, flops = network({**WORDS, "num_blocks": (1, 1, 1)}), []
    for side in (16, 32, 64):
        with FlopCounterMode(display=False) as counter:
            model(*inputs((side, side)), tokens=torch.randn(1, 5, 6))
        flops.append(counter.get_total_flops())
    first, second, third = flops
    # The rest, of time and of maps of channels, does not grow: equal differences per pixel.
    assert third - second == pytest.approx(4 * (second - first), rel=1e-9)


def test_transposed_attention_follows_a_permutation_of_the_pixels():
    query, key, value = torch.randn(3, 2, 2, 4, 30, generator=seeded(), dtype=torch.float64)
    temperature, order = torch.tensor([0.5, 3.0], dtype=torch.float64)[:, None, None], torch.randperm(30)
    read = transposed_attention(query, key, value, temperature)
    permuted = transposed_attention(query[..., order], key[..., order], value[..., order], temperature)
    torch.testing.assert_close(permuted, read[..., order])
    assert not torch.allclose(transposed_attention(query, key, value[..., order], temperature), read)


def test_transposed_attention_is_equation_1():
    """By loops: cosines of maps times the temperature, a softmax over the keys, a mean of the values' maps."""
    query, key, value = torch.randn(3, 1, 1, 3, 7, generator=seeded(), dtype=torch.float64)
    read = transposed_attention(query, key, value, torch.full((1, 1, 1), 2.0, dtype=torch.float64))[0, 0]
    for i in range(3):
        cosines = [torch.cosine_similarity(query[0, 0, i], key[0, 0, j], dim=0) for j in range(3)]
        weights = (2 * torch.stack(cosines)).exp()
        expected = sum(w * value[0, 0, j] for j, w in enumerate(weights / weights.sum()))
        torch.testing.assert_close(read[i], expected)


def test_masked_tokens_and_an_unknown_hint_are_as_no_condition():
    model, noisy = network(WORDS, hint=True), inputs()
    tokens = torch.randn(2, 3, 6, generator=seeded(3))
    with torch.no_grad():
        unknown = model(*noisy)
        torch.testing.assert_close(model(*noisy, weather=hints([None])), unknown)
        torch.testing.assert_close(
            model(*noisy, tokens=tokens, token_mask=torch.zeros(2, 3, dtype=torch.bool)), unknown
        )
        padded = model(*noisy, tokens=tokens, token_mask=torch.tensor([[True, True, False]]))
        torch.testing.assert_close(padded, model(*noisy, tokens=tokens[:, :2]))
        rain, haze = model(*noisy, weather=hints(["rain"])), model(*noisy, weather=hints(["haze"]))
        assert min((rain - haze).abs().max(), (rain - unknown).abs().max(), (padded - unknown).abs().max()) > 1e-3


def test_the_order_of_tokens_does_not_matter_but_their_weights_do():
    cross = CrossAttention(8, TransformerSettings(**WORDS))
    features, values = torch.randn(1, 8, 3, 5, generator=seeded()), torch.randn(1, 4, 6, generator=seeded(1))
    weights = torch.tensor([[1.0, 0.5, 0.25, 1.0]]).log()
    read, order = cross(features, Tokens(values, weights)), [2, 0, 3, 1]
    torch.testing.assert_close(cross(features, Tokens(values[:, order], weights[:, order])), read)
    twice = Tokens(values[:, [0, 0, 1]], torch.zeros(1, 3))
    once = Tokens(values[:, [0, 1]], torch.tensor([[2.0, 1.0]]).log())
    torch.testing.assert_close(cross(features, twice), cross(features, once))


def test_one_graph_serves_every_batch_size_and_image_size():
    """As the export to ONNX needs it."""
    model, batch = network(), torch.export.Dim("batch")
    images = {0: batch, 2: 2 * torch.export.Dim("half_height"), 3: 2 * torch.export.Dim("half_width")}
    graph = torch.export.export(model, inputs(), dynamic_shapes=(images, {0: batch}, images)).module()
    other = inputs((14, 6), batch=3)
    torch.testing.assert_close(graph(*other), model(*other))


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"channels": 8, "head_channels": 3}, {}, "head_channels=3 must divide options.channels=8"),
        (TINY, {"hint": True}, "hint=true needs options.token_channels"),
        (WORDS, {"recognise": True}, "recognise=true needs hint=true"),
        ({"chanels": 8}, {}, "model.options.chanels: unknown key; did you mean channels?"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, changes, message):
    with pytest.raises(ValueError, match=message):
        network(options, **changes)


def test_tokens_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="token_channels is 0"):
        network()(*inputs(), tokens=torch.zeros(2, 3, 6))
    with pytest.raises(ValueError, match=r"tokens must be \(batch, number, 6\)"):
        network(WORDS)(*inputs(), tokens=torch.zeros(2, 3, 5))


def test_the_example_of_words_trains_and_draws_a_column_for_each_sentence(tmp_path, capsys):
    example = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples/words.py"))
    (tmp_path / "clean").mkdir()
    for number in range(2):
        pixels = torch.randint(256, (20, 24, 3), generator=seeded(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "clean" / f"{number}.png")
    data = [f"data.train={tmp_path / 'clean'}", f"data.test={tmp_path / 'clean'}", "data.num_workers=0"]
    tiny = ["data.crop_size_px=16", "training.num_steps=2", "model.options.channels=32", "data.num_validation=0"]
    assert example["main"]([*data, *tiny, "-o", str(tmp_path / "words.png")]) == 0
    assert Image.open(tmp_path / "words.png").width == 4 + (16 + 4) * (
        1 + len(example["LEFT"]) + len(example["UNSEEN"])
    )
    assert "take the haze away" in capsys.readouterr().out
    condition = example["Words"]().condition(["remove the rain", "clear the rain and the haze"])
    assert condition["token_mask"].sum(1).tolist() == [3, 6]
    assert torch.equal(condition["tokens"][0, 1], condition["tokens"][1, 1])  # the same word, the same token
