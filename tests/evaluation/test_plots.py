"""Plots show each point where its axes say."""

import math

import numpy as np
import pytest
from PIL import Image, ImageColor

from restore_diff.evaluation.pictures import (
    BOTTOM_PX,
    COLOURS,
    HEIGHT_PX,
    LEFT_PX,
    LEGEND_LINE_PX,
    RIGHT_PX,
    TOP_PX,
    WIDTH_PX,
    Curve,
    Plot,
    decade_ticks,
    draw_plots,
    nice_ticks,
)


def places_of(picture: np.ndarray, colour: str) -> np.ndarray:
    """(row, column) of the pixels of a colour."""
    return np.argwhere((picture.astype(int) - ImageColor.getrgb(colour)).__abs__().max(axis=-1) < 60)


def drawn(path, *curves: Curve) -> np.ndarray:
    draw_plots(path, [[Plot("steps", "PSNR, dB", curves, [1, 2, 4])]])
    return np.asarray(Image.open(path))


def test_points_lie_on_a_logarithmic_axis_and_higher_is_up(tmp_path):
    picture = drawn(tmp_path / "plot.png", Curve("a", [(1, 20.0), (2, 30.0), (4, 25.0)]))
    inside = places_of(picture, COLOURS[0])
    inside = inside[inside[:, 0] < HEIGHT_PX - BOTTOM_PX]  # without the legend
    assert inside[:, 1].min() > LEFT_PX and inside[:, 1].max() < WIDTH_PX - RIGHT_PX
    top = inside[inside[:, 0].argmin()]
    middle = (LEFT_PX + WIDTH_PX - RIGHT_PX) / 2
    assert top[1] == pytest.approx(middle, abs=4)  # 2 is halfway from 1 to 4
    left_end = inside[inside[:, 1].argmin()]
    height = HEIGHT_PX - BOTTOM_PX - TOP_PX
    assert left_end[0] - top[0] == pytest.approx(height / 1.12, abs=6)  # the range of values and 6 % on both sides


def test_curves_have_their_own_colours_and_a_line_in_the_legend(tmp_path):
    curves = [Curve(f"curve {index}", [(1, index), (4, index + 1)]) for index in range(3)]
    picture = drawn(tmp_path / "plot.png", *curves)
    assert picture.shape == (HEIGHT_PX + 2 * LEGEND_LINE_PX, WIDTH_PX, 3)
    for colour in COLOURS[:3]:
        rows = places_of(picture, colour)[:, 0]
        assert (rows < HEIGHT_PX - BOTTOM_PX).any() and (rows > HEIGHT_PX - BOTTOM_PX).any()


def test_what_has_no_value_is_left_out(tmp_path):
    whole = drawn(tmp_path / "a.png", Curve("a", [(1, 20.0), (4, 25.0)]))
    gap = drawn(tmp_path / "b.png", Curve("a", [(1, 20.0), (2, math.nan), (4, 25.0)]))
    assert (whole == gap).all()
    nothing = drawn(tmp_path / "c.png", Curve("a", [(1, math.nan)]))
    assert nothing.shape == whole.shape


def test_a_grid_has_a_plot_in_each_place(tmp_path):
    plots = [Plot("x", "y", [Curve("a", [(1, 1.0), (2, 2.0)])], [1, 2]) for _ in range(2)]
    draw_plots(tmp_path / "grid.png", [plots, plots])
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    height = HEIGHT_PX + LEGEND_LINE_PX
    assert picture.shape == (2 * height, 2 * WIDTH_PX, 3)
    assert (picture[:height, :WIDTH_PX] == picture[height:, WIDTH_PX:]).all()
    assert len(places_of(picture[:height, :WIDTH_PX], COLOURS[0])) > 100


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(26.8, 32.1, [28, 30, 32]), (0.78, 0.93, [0.8, 0.85, 0.9]), (0.5, 1.5, [0.6, 0.8, 1.0, 1.2, 1.4])],
)
def test_ticks_are_round_numbers_within_the_range(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_ticks_of_a_range_without_extent():
    ticks = nice_ticks(30.0, 30.0)
    assert len(ticks) <= 6


def test_decades_enclose_the_range():
    assert decade_ticks(0.11, 2.75) == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5])
    assert decade_ticks(1, 10) == pytest.approx([1, 2, 5, 10])
    assert decade_ticks(0.3, 0.3) == pytest.approx([0.2, 0.5])
