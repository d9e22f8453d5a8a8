"""Statistics of a test set, report files and tables, Scores of the Python API, and comparison of two reports."""

import json
import math

import pytest
import torch
from scipy import stats

from restore_diff.evaluation.report import (
    Report,
    bootstrap_interval,
    compare,
    comparison_table,
    confidence_interval,
    console_table,
    latex_row,
    markdown_table,
    per_image_csv,
    read_per_image_csv,
    scores_of,
    summarise,
)
from restore_diff.metrics.perceptual import MetricUnavailable

MISSING = MetricUnavailable("put alexnet.pth at /somewhere")


def scores(psnr, ssim=0.5):
    return {"psnr_y_matlab": psnr, "ssim_y_matlab": ssim, "psnr_y_matlab_input": psnr - 5, "ssim_y_matlab_input": 0.25}


@pytest.fixture
def report(row) -> Report:
    rows = [row(f"{i:02}", **scores(30 + i / 10, 0.9)) for i in reversed(range(40))]
    return Report("rain_100", rows, ("y_matlab",), MISSING)


def test_the_csv_is_sorted_and_has_fixed_decimals(row):
    rows = [
        row("b", 1, **scores(31.23456789)),
        row("b", 0, ("identical",), **scores(math.inf, 1)),
        row("a,1", 0, ("nonfinite", "small"), **scores(math.nan, math.nan)),
    ]
    assert per_image_csv(rows).splitlines() == [
        "name,width,height,seed,psnr_y_matlab,ssim_y_matlab,psnr_y_matlab_input,ssim_y_matlab_input,seconds,flags",
        '"a,1",480,320,0,nan,nan,nan,0.25000000,0.2500,nonfinite;small',
        "b,480,320,0,inf,1.00000000,inf,0.25000000,0.2500,identical",
        "b,480,320,1,31.234568,0.50000000,26.234568,0.25000000,0.2500,",
    ]


def test_the_csv_reads_back_unchanged(row, tmp_path):
    rows = [row("a\udcff,1", 0, ("identical", "small"), **scores(math.inf, 1)), row("b", 3, **scores(30.5))]
    Report("x", rows, ("y_matlab",)).write(tmp_path / "new" / "folder")
    assert read_per_image_csv(tmp_path / "new" / "folder" / "per_image.csv") == rows
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["per_image.csv", "summary.json", "table.md", "table.tex"]


def test_the_json_is_strict_and_holds_all_settings(row, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test.py", "--ckpt", "x"])
    rows = [
        row("a", 0, ("identical",), **scores(math.inf, 1)),
        row("b", 0, ("nonfinite",), **scores(math.nan, math.nan)),
    ]
    report = Report("rain", rows, ("y_matlab",), MISSING)
    report.write(tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert report.nonfinite == ["b"]
    assert summary["schema"] == 1 and summary["dataset"] == "rain" and summary["n"] == 2 and summary["seeds"] == [0]
    assert summary["protocols"]["y_matlab"]["round_y"] is True
    assert {
        "channel",
        "y_range",
        "quantize",
        "crop_border",
        "window",
        "padding",
        "covariance",
        "pool",
        "version",
    } <= set(summary["protocols"]["y_matlab"])
    assert (
        summary["summary"]["psnr_y_matlab"]["mean"] == 100 and summary["summary"]["psnr_y_matlab"]["n_nonfinite"] == 1
    )
    assert summary["lpips"] == {"status": "unavailable", "reason": "put alexnet.pth at /somewhere"}
    assert summary["flagged"] == [
        {"name": "a", "seed": 0, "flags": ["identical"]},
        {"name": "b", "seed": 0, "flags": ["nonfinite"]},
    ]
    assert {"versions", "platform", "git_commit", "argv"} <= set(summary["environment"])
    assert summary["environment"]["argv"] == ["test.py", "--ckpt", "x"]


def test_scores_have_public_metric_names_and_print_the_table(row):
    rows = [row("a", seed, **scores(30.0 + 2 * seed)) for seed in (0, 1)]
    rows += [row("b", seed, ("small",) * seed, **scores(20.0, math.nan)) for seed in (0, 1)]
    report = Report("rain", rows, ("y_matlab",))
    result = scores_of(report)
    assert result.mean == {"psnr(y_matlab)": 25.5, "ssim(y_matlab)": 0.5}
    assert result.interval == {"psnr(y_matlab)": report.summary["psnr_y_matlab"].ci95, "ssim(y_matlab)": None}
    expected = {"name": "a", "width": 480, "height": 320, "flags": ()}
    expected |= {"psnr(y_matlab)": 31.0, "ssim(y_matlab)": 0.5}
    assert result.rows[0] == expected | {"input psnr(y_matlab)": 25.0, "input ssim(y_matlab)": 0.25}
    assert result.rows[1]["flags"] == ("small",) and math.isnan(result.rows[1]["ssim(y_matlab)"])
    assert str(result) == console_table(report)


def test_the_console_table_names_protocol_and_interval(report):
    lines = console_table(report).splitlines()
    assert lines[0] == "rain_100: 40 images"
    assert lines[1] == "  PSNR-Y (y_matlab)  26.95 -> 31.95 ± 0.37 (95% CI, n=40), gain +5.00"
    assert lines[2] == "  SSIM-Y (y_matlab)  0.2500 -> 0.9000 ± 0.0000 (95% CI, n=40), gain +0.6500"
    assert lines[3] == "  LPIPS not computed: put alexnet.pth at /somewhere"
    assert len(lines) == 4


def test_the_console_table_shows_seeds_and_warns(row):
    rows = [row("a", seed, psnr_rgb=30.0 + seed, ssim_rgb=0.5) for seed in (0, 2)]
    rows += [row("b", seed, psnr_rgb=math.inf, ssim_rgb=math.nan) for seed in (0, 2)]
    text = console_table(Report("x", rows, ("rgb",)))
    assert "x: 2 images, mean over 2 seeds" in text
    assert "PSNR (rgb)  65.50 ±" in text and "between seeds ± 1.00" in text
    assert "1 images are identical to the clean ones under PSNR (rgb), counted as 100 dB" in text
    assert "SSIM (rgb) leaves out 1 images without a finite score" in text
    assert "LPIPS" not in text


def test_grey_images_are_warned_of_where_published_scripts_differ(row):
    """A grey image as RGB has the luma 16 + 219/255 v: its PSNR-Y is 20 log10(255/219) above that of v itself."""
    assert 20 * math.log10(255 / 219) == pytest.approx(1.32, abs=5e-3)
    rows = [row(name, seed, flags, **scores(30)) for name, flags in (("a", ("grey",)), ("b", ())) for seed in (0, 1)]
    assert "warning: 1 images are grey and were scored as RGB" in console_table(Report("x", rows, ("y_matlab",)))
    for protocol in ("rgb", "yfull_sk7"):
        rows = [row("a", 0, ("grey",), **{f"psnr_{protocol}": 30.0, f"ssim_{protocol}": 0.5})]
        assert "grey" not in console_table(Report("x", rows, (protocol,)))


def test_a_metric_without_any_score_has_no_number(row):
    report = Report("x", [row("a", psnr_rgb=math.nan, ssim_rgb=math.nan)], ("rgb",))
    assert "PSNR (rgb)  no image has a score" in console_table(report)
    assert markdown_table(report).splitlines()[2] == "| x | 1 | - | - |"


def test_markdown_and_latex_rows(report):
    assert markdown_table(report).splitlines() == [
        "|  | images | PSNR-Y (y_matlab) | SSIM-Y (y_matlab) |",
        "| --- | ---: | ---: | ---: |",
        "| rain_100 | 40 | 31.95 | 0.9000 |",
    ]
    assert latex_row(report).splitlines() == [
        "%  & PSNR-Y (y_matlab) & SSIM-Y (y_matlab)",
        r"rain\_100 & 31.95 & 0.9000 \\",
    ]


# Statistics: seeds averaged within an image first; policy for identical images and missing scores.


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


# Comparison.


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
