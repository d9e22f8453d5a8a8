"""test.py options: several processes, sweeps, no-reference metrics, FID, and rejected arguments."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import enter, run_test, run_train, scores, summary

from restore_diff.commands import test

ROOT = Path(__file__).resolve().parents[2]
REPORT = Path("runs/derain/test/tests")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = enter(tmp_path_factory.mktemp("trained"), monkeypatch)
        assert run_train() == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, trained):
    folder = enter(tmp_path, monkeypatch)
    shutil.copytree(trained / "runs", folder / "runs")
    return folder


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command += [str(ROOT / "test.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_two_processes_give_the_report_of_one_and_print_it_once(here):
    alone = scores(REPORT)
    shutil.rmtree(REPORT)
    done = torchrun("--device", "cpu", "--save-images")
    assert done.returncode == 0, done.stderr
    assert scores(REPORT) == alone
    assert summary(REPORT)["n"] == 3
    assert done.stdout.count("tests: 3 images") == done.stdout.count("look at ") == 1
    assert len(list((REPORT / "images").iterdir())) == 3


def test_an_error_ends_all_processes_with_its_message(here):
    (here / "tests/input/101.png").write_bytes(b"no picture")
    done = torchrun("--pred", "tests/input", "--target", "tests/target", "--metrics", "psnr")
    assert done.returncode != 0
    assert "test.py: " in done.stderr and "101" in done.stderr


def test_a_sweep_scores_each_number_of_steps_and_plots_them(here, capsys):
    assert run_test("--sweep-steps", "2,1", "--limit", "2") == 0
    printed = capsys.readouterr().out
    with (REPORT / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["num_steps"] for row in rows] == ["1", "2"]
    for row in rows:
        of_steps = summary(REPORT / f"steps_{row['num_steps']}")
        assert float(row["psnr_rgb"]) == pytest.approx(of_steps["summary"]["psnr_rgb"]["mean"], abs=1e-6)
        assert of_steps["n"] == 2 and float(row["seconds_per_image"]) > 0
    assert rows[0]["psnr_rgb"] != rows[1]["psnr_rgb"]
    assert (REPORT / "sweep.png").stat().st_size > 1000
    assert "ddim 1 steps" in printed and "ddim 2 steps" in printed and "sweep.png" in printed
    capsys.readouterr()
    assert run_test("--steps", "2", "--limit", "2", "--out", "two") == 0
    assert scores(Path("two/tests")) == scores(REPORT / "steps_2")


def test_a_sweep_beyond_the_schedule_is_rejected_before_restoring(here, capsys):
    assert run_test("--sweep-steps", "1,5000", "--out", "reports") == 2
    assert "sampler.num_steps" in capsys.readouterr().err
    assert not Path("reports").exists()


def test_without_pyiqa_no_reference_metrics_give_one_error_line(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert run_test("--nr", "niqe,musiq", "--pred", "tests/input") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("test.py: pyiqa is missing") and "pip install restore_diff[iqa]" in line
    assert "PolyForm Noncommercial" in line and "S-Lab" in line
    assert not Path("scores").exists()


def test_without_torch_fidelity_the_other_metrics_are_computed(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert run_test("--fid", "--pred", "tests/input", "--target", "tests/target", "--metrics", "psnr") == 0
    printed = capsys.readouterr().out
    assert "PSNR (rgb)" in printed and "FID, KID not computed: " in printed
    found = json.loads(Path("scores/tests_input/distribution.json").read_text())
    assert found["status"] == "unavailable" and "fid" not in found and "torch_fidelity" in found["reason"]
    assert "pip install restore_diff[fid]" in found["reason"]


def test_short_names_of_other_programs_mean_options_of_this_one():
    peers = test._parse(["-n", "shipped", "-s", "4", "-t", "0", "--half"])
    assert (str(peers.ckpt), peers.steps, peers.tile, peers.dtype) == ("shipped", 4, 0, "float16")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pred", "x"], "--pred and --target belong together"),
        (["--target", "x"], "--pred and --target belong together"),
        (["--data", ""], "argument --data: not a path"),
        (["--limit", "0"], "must be a whole number"),
        (["--metrics", "psnr,mse"], "must be some of psnr,ssim,lpips, got psnr,mse"),
        (["--protocol", ","], "must be comma-separated names"),
        (["--compare", "x"], "expected 2 arguments"),
        (["x"], "unrecognized arguments"),
        (["--sweep-steps", "1,0"], "must be a whole number, 1 or more, got 0"),
        (["--pred", "x", "--target", "y", "--limit", "3", "--save_images"], "--limit, --save-images: no effect with"),
        (["--compare", "x", "y", "--metrics", "psnr"], "--metrics: no effect with --compare"),
        (["--allow-jpeg"], "--allow-jpeg: no effect without --pred"),
        (["--metrics", "psnr", "--lpips", "vgg"], "--lpips: no effect without lpips in --metrics"),
        (["--nr", "niqe"], "--nr: no effect without --pred"),
        (["--nr", "niqe", "--pred", "a", "--target", "b"], "--target: no effect with --nr"),
        (["--nr", "niqe", "--pred", "a", "--metrics", "psnr"], "--metrics: no effect with --nr"),
        (["--fid"], "--fid: no effect without --pred"),
        (["--sweep-steps", "1,2", "--steps", "4"], "--steps: no effect with --sweep-steps"),
        (["--sweep-steps", "1,2", "--pred", "a", "--target", "b"], "--sweep-steps: no effect with --pred"),
    ],
)
def test_malformed_and_unused_arguments_are_rejected(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        test.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--fid", 2)])
def test_help_and_argument_errors_import_no_torch(argument, code):
    program = "import sys, restore_diff.commands.test as test\ntry: test.main(sys.argv[1:])\nexcept SystemExit as end: "
    program += "print('torch' in sys.modules, end.code)"
    done = subprocess.run([sys.executable, "-c", program, argument], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"False {code}"
