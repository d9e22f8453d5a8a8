"""The picture shows the best, the middle and the worst, from left to right as its caption says."""

import math

import pytest
import torch

from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.pairs import Pair
from restore_diff.evaluation.evaluator import Evaluator, Scorer
from restore_diff.evaluation.pictures import CAPTION_PX, GAP_PX, choose_examples, draw_panel


def names(rows, column="psnr_rgb"):
    return [example.row.name for example in choose_examples(rows, column)]


def test_best_middle_and_worst_are_chosen_by_score(row):
    scores = [7, 3, 11, 1, 9, 5, 2, 10, 4, 8, 6]
    rows = [row(f"{score:02}", psnr_rgb=float(score)) for score in scores]
    assert names(rows) == ["11", "10", "09", "07", "06", "05", "03", "02", "01"]
    assert [example.position for example in choose_examples(rows, "psnr_rgb")][:3] == [2, 7, 4]
    assert choose_examples(rows, "psnr_rgb")[0].caption == "best: 11, psnr_rgb 11"


def test_few_images_are_shown_once_and_those_without_a_score_never(row):
    rows = [row("a", psnr_rgb=math.nan), *(row(name, psnr_rgb=float(score)) for score, name in enumerate("bcde"))]
    assert names(rows) == ["e", "d", "c", "b"]
    assert names([row("a", psnr_rgb=3.0)]) == ["a"]
    assert names([]) == []


def test_of_several_seeds_the_first_is_shown(row):
    rows = [row(name, seed, psnr_rgb=float(10 * seed)) for name in "ab" for seed in (4, 1)]
    examples = choose_examples(rows, "psnr_rgb")
    assert [(example.row.name, example.row.seed, example.position) for example in examples] == [
        ("a", 4, 0),
        ("b", 4, 1),
    ]


def test_the_picture_holds_degraded_restored_clean_and_error(tmp_path):
    def grey(value: float, height: int, width: int) -> torch.Tensor:
        return torch.full((3, height, width), value)

    dataset = [Pair(grey(0.8, 20, 30), grey(0.2, 20, 30), "a"), Pair(grey(0.3, 40, 25), grey(0.4, 40, 25), "b")]
    evaluator = Evaluator(lambda degraded, names, seed: degraded * 0 + 0.7, Scorer(("rgb",)))
    rows = evaluator.evaluate(dataset)
    draw_panel(tmp_path / "panel.png", choose_examples(rows, "psnr_rgb"), dataset, evaluator.restored)
    picture = read_rgb_uint8(tmp_path / "panel.png")
    line_height = 20 + CAPTION_PX + 2 * GAP_PX
    assert picture.shape == (3, line_height + 40 + CAPTION_PX + 2 * GAP_PX, 4 * 30 + 5 * GAP_PX)
    middle = line_height - GAP_PX - 10
    shown = [picture[0, middle, GAP_PX + 15 + tile * (30 + GAP_PX)].item() for tile in range(4)]
    assert shown == pytest.approx([51, 178, 204, 4 * 26], abs=4)


def test_large_images_are_shown_smaller(tmp_path):
    pair = Pair(torch.rand(3, 960, 100), torch.rand(3, 960, 100), "tall")
    evaluator = Evaluator(lambda degraded, names, seed: degraded, Scorer(("rgb",)))
    draw_panel(tmp_path / "p.png", choose_examples(evaluator.evaluate([pair]), "psnr_rgb"), [pair], evaluator.restored)
    assert read_rgb_uint8(tmp_path / "p.png").shape == (3, 480 + CAPTION_PX + 2 * GAP_PX, 4 * 50 + 5 * GAP_PX)


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        draw_panel(tmp_path / "p.png", [], [], lambda pair, seed: None)
