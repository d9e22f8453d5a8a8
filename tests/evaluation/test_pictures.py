"""Panel of examples; sweep table, CSV and plot."""

import csv
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.pairs import Pair
from restore_diff.evaluation.evaluator import Evaluator, Row, Scorer
from restore_diff.evaluation.page import write_sweep
from restore_diff.evaluation.pictures import (
    CAPTION_PX,
    GAP_PX,
    choose_examples,
    draw_panel,
    seconds_per_image,
    show,
    sweep_csv,
    sweep_table,
)
from restore_diff.evaluation.report import Report


def names(rows):
    return [example.row.name for example in choose_examples(rows, "psnr_rgb")]


def test_best_middle_and_worst_are_chosen_by_score(row):
    scores = [7, 3, 11, 1, 9, 5, 2, 10, 4, 8, 6]
    rows = [row(f"{score:02}", psnr_rgb=float(score)) for score in scores]
    assert names(rows) == ["11", "10", "09", "07", "06", "05", "03", "02", "01"]
    assert [example.position for example in choose_examples(rows, "psnr_rgb")][:3] == [2, 7, 4]
    assert choose_examples(rows, "psnr_rgb")[0].caption == "best: 11, psnr_rgb 11"


def test_each_image_is_shown_once_and_never_without_a_score(row):
    rows = [row("a", psnr_rgb=math.nan), *(row(name, psnr_rgb=float(score)) for score, name in enumerate("bcde"))]
    assert names(rows) == ["e", "d", "c", "b"]
    assert names([row("a", psnr_rgb=3.0)]) == ["a"]
    assert names([]) == []


def test_the_first_of_several_seeds_is_shown(row):
    rows = [row(name, seed, psnr_rgb=float(10 * seed)) for name in "ab" for seed in (4, 1)]
    shown = [(example.row.name, example.row.seed, example.position) for example in choose_examples(rows, "psnr_rgb")]
    assert shown == [("a", 4, 0), ("b", 4, 1)]


def panel(path, dataset, restore) -> torch.Tensor:
    evaluator = Evaluator(restore, Scorer(("rgb",)))
    examples = choose_examples(evaluator.evaluate(dataset), "psnr_rgb")
    draw_panel(path, [show(example, dataset, evaluator.restored) for example in examples])
    return read_rgb_uint8(path)


def test_the_panel_shows_degraded_restored_clean_and_error(tmp_path):
    sizes = {"a": (0.8, 0.2, 20, 30), "b": (0.3, 0.4, 40, 25)}
    dataset = [Pair(torch.full((3, h, w), x), torch.full((3, h, w), y), name) for name, (x, y, h, w) in sizes.items()]
    picture = panel(tmp_path / "panel.png", dataset, lambda degraded, names, seed: degraded * 0 + 0.7)
    line_height = 20 + CAPTION_PX + 2 * GAP_PX
    assert picture.shape == (3, line_height + 40 + CAPTION_PX + 2 * GAP_PX, 4 * 30 + 5 * GAP_PX)
    middle = line_height - GAP_PX - 10
    shown = [picture[0, middle, GAP_PX + 15 + tile * (30 + GAP_PX)].item() for tile in range(4)]
    assert shown == pytest.approx([51, 178, 204, 4 * 26], abs=4)


def test_large_images_are_shrunk_in_the_panel(tmp_path):
    pair = Pair(torch.rand(3, 960, 100), torch.rand(3, 960, 100), "tall")
    picture = panel(tmp_path / "panel.png", [pair], lambda degraded, names, seed: degraded)
    assert picture.shape == (3, 480 + CAPTION_PX + 2 * GAP_PX, 4 * 50 + 5 * GAP_PX)


def report(psnr: float, seconds: float) -> Report:
    scores = {"ssim_rgb": 0.5, "psnr_rgb_input": 20.0, "ssim_rgb_input": 0.4}
    times = [10 * seconds, *[seconds] * 4]  # the first image is slower: warm-up
    rows = [Row(f"{i}", 48, 32, 0, {"psnr_rgb": psnr + i, **scores}, times[i]) for i in reversed(range(5))]
    return Report("rain", rows, ("rgb",))


@pytest.fixture
def sweep() -> dict[int, Report]:
    return {1: report(28.0, 0.25), 4: report(30.0, 1.0), 10: report(29.5, 2.5)}


def test_the_time_per_image_is_the_median():
    assert seconds_per_image(report(28.0, 0.25)) == 0.25


def test_a_sweep_writes_a_table_and_a_plot(sweep, tmp_path):
    folder = tmp_path / "new"
    assert write_sweep(folder, sweep) == f"wrote {folder}/: report.html, sweep.csv, sweep.png"
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["num_steps", "seconds_per_image", "psnr_rgb", "ssim_rgb"]
    assert [[float(value) for value in row.values()] for row in rows] == [
        [1, 0.25, 30.0, 0.5],
        [4, 1.0, 32.0, 0.5],
        [10, 2.5, 31.5, 0.5],
    ]
    assert np.asarray(Image.open(folder / "sweep.png")).shape[:2] == (700, 1000)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "sweep.csv", "sweep.png"]


def test_without_matplotlib_the_table_is_written_and_one_line_names_it(sweep, tmp_path, monkeypatch):
    write_sweep(tmp_path, sweep)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert 'pip install "restore_diff[plots]"' in write_sweep(tmp_path, sweep)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "sweep.csv"]


def test_the_console_table_has_a_line_per_number_of_steps(sweep):
    assert [line.split() for line in sweep_table(sweep).splitlines()] == [
        ["steps", "s/image", "PSNR", "(rgb)", "SSIM", "(rgb)"],
        ["1", "0.250", "30.00", "0.5000"],
        ["4", "1.000", "32.00", "0.5000"],
        ["10", "2.500", "31.50", "0.5000"],
    ]


def test_a_metric_without_scores_is_nan_and_the_plot_is_drawn(tmp_path):
    sweep = {1: report(math.nan, 0.25), 2: report(30.0, 0.0)}
    assert sweep_csv(sweep).splitlines()[1] == "1,0.2500,nan,0.50000000"
    assert write_sweep(tmp_path, sweep).endswith("sweep.png")
