"""Report files and tables, and the Scores of the Python API."""

import json
import math

import pytest

from restore_diff.evaluation.report import (
    Report,
    console_table,
    latex_row,
    markdown_table,
    per_image_csv,
    read_per_image_csv,
    scores_of,
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
