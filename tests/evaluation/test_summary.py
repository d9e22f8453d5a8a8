"""Statistics: seeds averaged within an image first; policy for identical images and missing scores."""

import math

import pytest
import torch
from scipy import stats

from restore_diff.evaluation.report import bootstrap_interval, confidence_interval, summarise


def test_plain_statistics_of_a_column(row):
    values = [30.0, 31.5, 28.0, 35.0]
    summary = summarise([row(str(i), psnr_rgb=value, ssim_rgb=value / 40) for i, value in enumerate(values)])
    psnr = summary["psnr_rgb"]
    assert (psnr.mean, psnr.median, psnr.min, psnr.max, psnr.n) == (31.125, 30.75, 28.0, 35.0, 4)
    assert psnr.std == pytest.approx(torch.tensor(values).std().item(), rel=1e-6)
    assert psnr.n_identical == psnr.n_nonfinite == 0 and psnr.seed_std is None
    assert list(summary) == ["psnr_rgb", "ssim_rgb"]


def test_seeds_are_averaged_within_an_image_never_the_best(row):
    scores = (("a", 0, 30.0), ("a", 1, 34.0), ("b", 0, 20.0), ("b", 1, 22.0))
    psnr = summarise([row(name, seed, psnr_rgb=score) for name, seed, score in scores])["psnr_rgb"]
    assert (psnr.mean, psnr.min, psnr.max, psnr.n) == (26.5, 21.0, 32.0, 2)
    assert psnr.seed_std == pytest.approx(math.sqrt((8 + 2) / 2))
    assert psnr.std == pytest.approx(math.sqrt(2 * 5.5**2))


def test_identical_images_count_as_100_db(row):
    identical = row("a", psnr_rgb=math.inf, ssim_rgb=1.0, lpips_alex=0.0)
    summary = summarise([identical, row("b", psnr_rgb=30.0, ssim_rgb=0.5, lpips_alex=1)])
    assert summary["psnr_rgb"].mean == 65 and summary["psnr_rgb"].max == 100
    assert [summary[column].n_identical for column in ("psnr_rgb", "ssim_rgb", "lpips_alex")] == [1, 1, 1]
    assert summarise([row("a", psnr_rgb=104.0)])["psnr_rgb"].n_identical == 0


def test_an_image_with_a_missing_seed_is_left_out_and_counted(row):
    scores = (("a", 0, 40.0), ("a", 1, math.nan), ("b", 0, 30.0), ("b", 1, 30.0))
    psnr = summarise([row(name, seed, psnr_rgb=score) for name, seed, score in scores])["psnr_rgb"]
    assert (psnr.mean, psnr.n, psnr.n_nonfinite) == (30.0, 1, 1)


def test_statistics_are_none_for_too_few_scores(row):
    psnr = summarise([row("a", psnr_rgb=math.nan)])["psnr_rgb"]
    assert (psnr.mean, psnr.std, psnr.median, psnr.ci95, psnr.min, psnr.max, psnr.n) == (None,) * 6 + (0,)
    psnr = summarise([row("a", psnr_rgb=30.0)])["psnr_rgb"]
    assert (psnr.mean, psnr.std, psnr.ci95) == (30.0, None, None)
    assert summarise([]) == {}


def test_the_gain_covers_images_with_both_scores(row):
    rows = [
        row("a", psnr_rgb=30.0, psnr_rgb_input=25.0),
        row("b", psnr_rgb=math.inf, psnr_rgb_input=90.0),
        row("c", psnr_rgb=math.nan, psnr_rgb_input=10.0),
    ]
    summary = summarise(rows)
    assert (summary["psnr_rgb_gain"].mean, summary["psnr_rgb_gain"].n, summary["psnr_rgb_input"].n) == (7.5, 2, 3)
    assert list(summary) == ["psnr_rgb", "psnr_rgb_input", "psnr_rgb_gain"]


def test_30_images_or_more_have_the_student_t_interval():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = stats.t.interval(0.95, 29, values.mean().item(), stats.sem(values.numpy()))
    assert confidence_interval(values) == pytest.approx(theirs, abs=1e-12)


def test_fewer_images_have_the_bootstrap_interval():
    values = torch.randn(29, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    low, high = confidence_interval(values) or (0, 0)
    theirs = stats.bootstrap((values.numpy(),), lambda x, axis: x.mean(axis), method="percentile", n_resamples=10_000)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.04)
    assert (low, high) == bootstrap_interval(values)


def test_the_bootstrap_is_fixed_and_keeps_the_global_generator():
    values, state = torch.arange(7, dtype=torch.float64), torch.random.get_rng_state()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_psnr_is_capped(row):
    """BRISQUE exceeds 100, and no-reference scores have no perfect value."""
    brisque = summarise([row("a", brisque=130.0), row("b", brisque=20.0)])["brisque"]
    assert (brisque.mean, brisque.max, brisque.n_identical) == (75.0, 130.0, 0)
