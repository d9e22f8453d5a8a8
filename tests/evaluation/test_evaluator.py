"""Every image is scored on 8-bit levels, with its input, in memory as from files."""

import math

import torch
from PIL import Image

from restore_diff.data.images import read_rgb_uint8, write_image
from restore_diff.evaluation.evaluator import INPUT, Evaluator, Scorer, quantize
from restore_diff.metrics.protocols import PROTOCOLS

ALL = tuple(PROTOCOLS)


def smooth(degraded, names, seed):
    """Restorer that blurs, with an offset by name and seed."""
    offset = 0.002 * seed + 0.001 * len(names[0])
    return torch.nn.functional.avg_pool2d(degraded, 3, 1, 1, count_include_pad=False) + offset


class Distance:
    """Stand-in for LPIPS."""

    net = "alex"

    def __call__(self, pred, target):
        assert pred.is_floating_point() and pred.max() <= 1
        return (pred - target).abs().mean((1, 2, 3))


def test_each_image_and_seed_has_a_row_with_scores_of_image_and_input(pairs):
    rows = Evaluator(smooth, Scorer(("rgb", "y_matlab"))).evaluate(pairs, seeds=(0, 7))
    assert [(row.name, row.seed) for row in rows] == [(pair.name, seed) for pair in pairs for seed in (0, 7)]
    assert (rows[0].width, rows[0].height) == (24, 20)
    for row, pair in zip(rows[1::2], pairs, strict=True):
        clean, degraded = quantize(pair.clean[None]), quantize(pair.degraded[None])
        restored = quantize(smooth(pair.degraded[None], [pair.name], 7))
        for name in ("rgb", "y_matlab"):
            assert row.scores[f"psnr_{name}"] == PROTOCOLS[name].psnr(restored, clean).item()
            assert row.scores[f"ssim_{name}"] == PROTOCOLS[name].ssim(restored, clean).item()
            assert row.scores[f"psnr_{name}{INPUT}"] == PROTOCOLS[name].psnr(degraded, clean).item()
            assert row.scores[f"ssim_{name}{INPUT}"] == PROTOCOLS[name].ssim(degraded, clean).item()
        assert row.scores["psnr_rgb"] > row.scores["psnr_rgb_input"] + 3
        assert row.seconds > 0 and row.flags == ()
    assert rows[0].scores["psnr_rgb"] != rows[1].scores["psnr_rgb"]
    assert rows[0].scores["psnr_rgb_input"] == rows[1].scores["psnr_rgb_input"]


def test_scoring_in_memory_equals_scoring_the_saved_png(pairs, tmp_path):
    saved, scorer = {}, Scorer(ALL, Distance())  # type: ignore[arg-type]

    def save(row, restored):
        path = tmp_path / row.name.replace("/", "-")
        write_image(path.with_suffix(".png"), restored)
        saved[row.name] = path.with_suffix(".png")
        assert ((restored * 255) - (restored * 255).round()).abs().max() < 1e-4  # already on 8-bit levels

    pairs = [pair._replace(clean=pair.clean.repeat(1, 2, 3), degraded=pair.degraded.repeat(1, 2, 3)) for pair in pairs]
    rows = Evaluator(smooth, scorer).evaluate(pairs, on_image=save)
    for row, pair in zip(rows, pairs, strict=True):
        rescored = scorer(read_rgb_uint8(saved[row.name]), quantize(pair.clean[None])[0])
        assert rescored == {column: row.scores[column] for column in rescored}
        assert set(rescored) | {column + INPUT for column in rescored} == set(row.scores)
        assert len(rescored) == 2 * len(ALL) + 1 and all(map(math.isfinite, rescored.values()))


def test_a_nonfinite_image_scores_nan_and_the_others_are_scored(pairs):
    def broken(degraded, names, seed):
        if names == ["c"]:
            raise FloatingPointError("values are not finite")
        restored = smooth(degraded, names, seed)
        restored[..., 3, 3] = math.nan if names == ["d"] else 0.5
        return restored

    rows = {row.name: row for row in Evaluator(broken, Scorer(("rgb",))).evaluate(pairs)}
    for name in ("c", "d"):
        assert rows[name].flags == ("nonfinite",)
        assert math.isnan(rows[name].scores["psnr_rgb"]) and math.isnan(rows[name].scores["ssim_rgb"])
        assert math.isfinite(rows[name].scores["psnr_rgb_input"])
    assert math.isfinite(rows["b"].scores["psnr_rgb"]) and rows["b"].flags == ()


def test_identical_tiny_and_grey_images_are_flagged(pairs):
    tiny = pairs[0]._replace(clean=pairs[0].clean[:, :10], degraded=pairs[0].degraded[:, :10], name="tiny")
    clean = {pair.name: pair.clean[None] for pair in (*pairs, tiny)}
    rows = Evaluator(lambda degraded, names, seed: clean[names[0]], Scorer(("rgb",))).evaluate([pairs[0], tiny])
    assert [row.flags for row in rows] == [("identical",), ("identical", "small")]
    assert rows[0].scores["psnr_rgb"] == math.inf and rows[0].scores["ssim_rgb"] == 1
    assert math.isnan(rows[1].scores["ssim_rgb"])
    grey = pairs[0]._replace(clean=pairs[0].clean[:1].repeat(3, 1, 1), name="grey")
    rows = Evaluator(smooth, Scorer(("rgb",))).evaluate([pairs[0], grey])
    assert [row.flags for row in rows] == [(), ("grey",)]


def test_values_outside_the_range_are_clamped_as_in_a_file(tmp_path):
    levels = quantize(torch.tensor([-1.0, 0.5 / 255, 2.0, math.nan]).reshape(1, 1, 1, 4))
    assert levels.flatten().tolist() == [0, 1, 255, 0]
    Image.fromarray(levels[0, 0].numpy()).save(tmp_path / "levels.png")
    assert torch.equal(read_rgb_uint8(tmp_path / "levels.png")[:1], levels[0])
