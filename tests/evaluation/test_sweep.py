"""A sweep tells quality and time at each number of steps."""

import csv
import math

import numpy as np
import pytest
from PIL import Image

from restore_diff.evaluation.evaluator import Row
from restore_diff.evaluation.pictures import HEIGHT_PX, LEGEND_LINE_PX, WIDTH_PX
from restore_diff.evaluation.report import Report
from restore_diff.evaluation.sweep import seconds_per_image, sweep_csv, sweep_table, write_sweep


def report(psnr: float, seconds: float) -> Report:
    scores = {"psnr_rgb": psnr, "ssim_rgb": 0.5, "psnr_rgb_input": 20.0, "ssim_rgb_input": 0.4}
    times = [10 * seconds, *[seconds] * 4]  # the first image warms up
    rows = [
        Row(f"{index}", 48, 32, 0, scores | {"psnr_rgb": psnr + index}, times[index]) for index in reversed(range(5))
    ]
    return Report("rain", rows, ("rgb",))


@pytest.fixture
def sweep() -> dict[int, Report]:
    return {1: report(28.0, 0.25), 4: report(30.0, 1.0), 10: report(29.5, 2.5)}


def test_the_time_of_an_image_is_that_of_the_one_in_the_middle():
    assert seconds_per_image(report(28.0, 0.25)) == 0.25


def test_the_csv_holds_steps_time_and_the_mean_of_each_metric(sweep, tmp_path):
    write_sweep(tmp_path / "new", sweep)
    with (tmp_path / "new" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["num_steps", "seconds_per_image", "psnr_rgb", "ssim_rgb"]
    assert [tuple(float(value) for value in row.values()) for row in rows] == [
        (1, 0.25, 30.0, 0.5),
        (4, 1.0, 32.0, 0.5),
        (10, 2.5, 31.5, 0.5),
    ]


def test_the_picture_has_psnr_and_ssim_against_steps_and_against_time(sweep, tmp_path):
    write_sweep(tmp_path, sweep)
    picture = np.asarray(Image.open(tmp_path / "sweep.png"))
    assert picture.shape == (2 * (HEIGHT_PX + LEGEND_LINE_PX), 2 * WIDTH_PX, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.csv", "sweep.png"]


def test_the_table_has_a_line_for_each_number_of_steps(sweep):
    lines = sweep_table(sweep).splitlines()
    assert lines[0].split() == ["steps", "s/image", "PSNR", "(rgb)", "SSIM", "(rgb)"]
    assert [line.split() for line in lines[1:]] == [
        ["1", "0.250", "30.00", "0.5000"],
        ["4", "1.000", "32.00", "0.5000"],
        ["10", "2.500", "31.50", "0.5000"],
    ]


def test_a_metric_without_scores_is_nan_and_the_picture_is_drawn(tmp_path):
    sweep = {1: report(math.nan, 0.25), 2: report(30.0, 0.0)}
    assert sweep_csv(sweep).splitlines()[1] == "1,0.2500,nan,0.50000000"
    write_sweep(tmp_path, sweep)
    assert (tmp_path / "sweep.png").stat().st_size > 1000
