"""Comparison of two reports: paired differences, only between equal metrics and images."""

import math

import pytest
import torch

from restore_diff.evaluation.report import bootstrap_interval, compare, comparison_table, per_image_csv


@pytest.fixture
def files(tmp_path):
    """Writes the rows of two reports and returns their paths."""

    def write(*reports):
        paths = [tmp_path / f"{number}.csv" for number in range(len(reports))]
        for path, rows in zip(paths, reports, strict=True):
            path.write_text(per_image_csv(rows))
        return paths

    return write


def test_the_difference_is_paired_by_name(row, files):
    noise = torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist()
    first = [row(f"{i:02}", psnr_rgb=20.0 + i) for i in range(50)]
    second = [row(f"{i:02}", psnr_rgb=20.5 + i + 0.1 * noise[i]) for i in reversed(range(50))]
    (difference,) = compare(*files(first, second))
    assert difference.mean == pytest.approx(0.5 + 0.1 * sum(noise) / 50, abs=1e-5)
    assert difference.second_mean - difference.first_mean == pytest.approx(difference.mean)
    low, high = difference.ci95 or (0, 0)
    assert low < difference.mean < high and high - low < 0.08  # unpaired, it would be 8 dB wide
    paired = torch.tensor([0.5 + 0.1 * value for value in noise], dtype=torch.float64)
    assert (low, high) == pytest.approx(bootstrap_interval(paired), abs=1e-5)
    assert "psnr_rgb  44.50 -> " in comparison_table([difference])


def test_seeds_are_averaged_infinite_scores_capped_and_nan_left_out(row, files):
    first = [row("a", 0, psnr_rgb=30.0), row("a", 1, psnr_rgb=34.0), row("b", psnr_rgb=90.0), row("c", psnr_rgb=20.0)]
    second = [row("a", 5, psnr_rgb=33.0), row("b", psnr_rgb=math.inf), row("c", psnr_rgb=math.nan)]
    (difference,) = compare(*files(first, second))
    assert (difference.mean, difference.n) == ((1 + 10) / 2, 2)


def test_different_metrics_and_different_images_are_rejected(row, files):
    base, other = [row("a", psnr_rgb=30.0, psnr_y_matlab=31.0)], [row("a", psnr_rgb=30.0, psnr_y_double=31.0)]
    with pytest.raises(ValueError, match="not hold the same metrics: psnr_y_double, psnr_y_matlab"):
        compare(*files(base, other))
    with pytest.raises(ValueError, match="not hold the same images: b"):
        compare(*files([*base, row("b", psnr_rgb=30.0, psnr_y_matlab=31.0)], base))


def test_input_columns_may_be_missing_in_one_file(row, files):
    (difference,) = compare(*files([row("a", psnr_rgb=30.0, psnr_rgb_input=20.0)], [row("a", psnr_rgb=31.0)]))
    assert (difference.mean, difference.ci95) == (1.0, None)
