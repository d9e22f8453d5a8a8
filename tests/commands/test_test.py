"""test.py: trained weights, finished images, two reports, sweeps, several processes, rejected arguments."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import enter, run_test, run_train, scores, summary, tree, write_image, write_pairs

import restore_diff
from restore_diff.build import select_precision
from restore_diff.checkpoint import load_checkpoint_weights, save_weights
from restore_diff.commands import test
from restore_diff.commands.scoring import set_folder
from restore_diff.metrics.protocols import PROTOCOLS
from restore_diff.restoration.restorer import Restorer

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("runs/b")
REPORT = RUN / "test/tests"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two runs; b is newer than c."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = enter(tmp_path_factory.mktemp("trained"), monkeypatch)
        assert run_train("name=c", "seed=1") == 0
        assert run_train("name=b") == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, trained):
    """A copy of that folder."""
    folder = enter(tmp_path, monkeypatch)
    for run in ("c", "b"):  # b last, so that it is the newer copy
        shutil.copytree(trained / "runs" / run, folder / "runs" / run)
        os.utime(folder / "runs" / run / "checkpoints")
    return folder


@pytest.fixture
def empty(tmp_path, monkeypatch):
    return enter(tmp_path, monkeypatch)


def complaints(capsys) -> list[str]:
    """Lines on stderr; a traceback would be more than expected."""
    return capsys.readouterr().err.splitlines()


def refused(capsys, *arguments: str) -> str:
    """Run test.py; return its one error line, after checking that it wrote nothing."""
    before = tree(Path())
    capsys.readouterr()
    assert run_test(*arguments) == 2
    (line,) = complaints(capsys)
    assert line.startswith("test.py: ")
    assert tree(Path()) == before
    return line


def test_without_arguments_the_newest_run_is_scored_on_its_test_set(here, capsys):
    before, picture = scores(REPORT), (REPORT / "before_after.png").read_bytes()
    other = tree(Path("runs/c"))
    assert run_test() == 0
    printed = capsys.readouterr().out.splitlines()
    precision = select_precision("auto", torch.device("cpu"))
    assert printed[0].startswith(f"weights runs/b (step 4)  ddim 2 steps  whole images  cpu {precision}")
    assert summary(REPORT)["restored_by"] == printed[0]
    assert printed[1] == "tests: 3 images"
    columns = summary(REPORT)["summary"]
    degraded, restored, gain = (columns[f"psnr_rgb{end}"]["mean"] for end in ("_input", "", "_gain"))
    assert printed[2].startswith(f"  PSNR (rgb)  {degraded:.2f} -> {restored:.2f} ± ")
    assert printed[2].endswith(f", n=3), gain {gain:+.2f}")
    assert abs(restored - np.mean([float(row["psnr_rgb"]) for row in scores(REPORT)])) < 1e-6
    assert printed[-2:] == [
        f"wrote {REPORT}/: per_image.csv, summary.json, table.md, table.tex",
        f"look at {REPORT}/report.html, before_after.png",
    ]
    assert scores(REPORT) == before  # those that train.py wrote
    assert (REPORT / "before_after.png").read_bytes() == picture
    assert tree(Path("runs/c")) == other


def test_evaluate_gives_the_same_scores_and_writes_nothing(here):
    before = tree(here)
    result = restore_diff.evaluate("runs/b", device="cpu", metrics=("psnr", "ssim"))
    assert tree(here) == before
    columns = summary(REPORT)["summary"]
    assert result.mean == {f"{kind}(rgb)": columns[f"{kind}_rgb"]["mean"] for kind in ("psnr", "ssim")}
    assert [row["name"] for row in result.rows] == [row["name"] for row in scores(REPORT)]
    assert str(result).startswith("tests: 3 images\n  PSNR (rgb)")


def test_a_run_a_checkpoint_and_a_weights_file_score_alike(here):
    weights = load_checkpoint_weights(RUN)
    save_weights(Path("weights"), weights.tensors, weights.config, weights.step)
    expected = scores(REPORT)
    beside = Path("weights_test/tests")
    for path, report in (("runs/b", REPORT), ("runs/b/checkpoints/00000004", REPORT), ("weights", beside)):
        shutil.rmtree(report, ignore_errors=True)
        assert run_test("--ckpt", path) == 0
        assert scores(report) == expected
    assert run_test("--ckpt", "runs/c", "--out", "elsewhere") == 0
    assert scores(Path("elsewhere/tests")) != expected


def test_each_test_set_has_its_own_report_in_the_run_folder(here, tmp_path_factory):
    write_pairs(here / "more/tests", 2, first=200)
    outside = str(tmp_path_factory.mktemp("outside") / "tests")
    write_pairs(Path(outside), 2, first=200)
    before = tree(here / "more")
    assert run_test("--data", "tests", "--data", "more/tests", "--data", outside) == 0
    assert len(list((RUN / "test").rglob("summary.json"))) == 3
    assert [summary(RUN / "test" / name)["n"] for name in ("tests", "more_tests")] == [3, 2]
    assert tree(here / "more") == before


def test_the_folder_of_a_report_has_a_short_name_of_the_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def name(source: object) -> str:
        return set_folder(Path("reports"), str(source)).relative_to("reports").as_posix()

    assert name("rain100l") == name(tmp_path / "rain100l") == name("rain100l/input:rain100l/target/") == "rain100l"
    assert name("a/rain:a/clean") == name("a") and name("a/rain:b/clean") != name("a")
    assert name(".") == "here" and name("many/folders" * 9) != name("many/folders" * 10)
    elsewhere = [f"/data/{folder}/pairs" for folder in ("v1", "v2")]
    assert all(re.fullmatch("pairs-[0-9a-f]{4}", name(folder)) for folder in elsewhere)
    assert len({*map(name, elsewhere), name("pairs")}) == 3
    assert (
        name("/data/v1/pairs/input:/data/v1/pairs/target") == name("../" * 99 + "data/v1/pairs/") == name(elsewhere[0])
    )


def test_limit_and_metrics_restrict_images_and_columns(here):
    everything = scores(REPORT)
    for limit in (2, 99):
        assert run_test("--limit", str(limit)) == 0
        assert scores(REPORT) == everything[:limit]
    assert run_test("--metrics", "ssim") == 0
    assert scores(REPORT)[0].keys() == {"name", "width", "height", "seed", "ssim_rgb", "ssim_rgb_input", "flags"}
    assert (REPORT / "before_after.png").is_file()


def test_all_protocols_score_the_same_images(here, capsys):
    everything = scores(REPORT)
    assert run_test("--protocol", "all") == 0
    assert summary(REPORT)["protocols"].keys() == PROTOCOLS.keys()
    assert [row["psnr_rgb"] for row in scores(REPORT)] == [row["psnr_rgb"] for row in everything]
    printed = capsys.readouterr().out
    assert all(f"({name})" in printed for name in PROTOCOLS)


def test_seeds_are_separate_samples_and_the_first_is_the_default(here):
    one = scores(REPORT)
    assert run_test("--seeds", "2", "--save-images") == 0
    rows = scores(REPORT)
    assert [(row["name"], row["seed"]) for row in rows[:3]] == [("100", "0"), ("100", "1"), ("101", "0")]
    assert rows[::2] == one
    assert all(first["psnr_rgb"] != second["psnr_rgb"] for first, second in zip(rows[::2], rows[1::2], strict=True))
    assert summary(REPORT)["summary"]["psnr_rgb"]["seed_std"] > 0
    assert len(list((REPORT / "images").glob("*_seed[01].png"))) == 6


def test_number_of_steps_and_tiles_change_the_result(here, capsys):
    one = scores(REPORT)
    for options in (["--steps", "5"], ["--tile", "16", "--tile_overlap", "4"]):
        assert run_test(*options) == 0
        assert scores(REPORT) != one
    assert "tiles of 16 px" in capsys.readouterr().out


def test_saved_images_score_the_same_from_their_files(here):
    write_pairs(here / "tests", 2, first=200, names=("input/night/{}", "target/night/{}"))
    assert run_test("--save-images") == 0
    assert run_test("--pred", str(REPORT / "images"), "--target", "tests/target", "--out", "again") == 0
    columns = ("name", "width", "height", "psnr_rgb", "ssim_rgb")
    first, again = ([{name: row[name] for name in columns} for row in scores(path)] for path in (REPORT, Path("again")))
    assert len(first) == 5
    assert first == again


def test_finished_images_are_scored_or_named_as_errors(empty, capsys):
    finished = ("--pred", "tests/input", "--target", "tests/target")
    shutil.copy("tests/input/101.png", "tests/input/103.png")
    assert "1 images of tests/input have no partner in tests/target (103)" in refused(capsys, *finished)
    Path("tests/input/103.png").unlink()
    write_image(Path("tests/input/101.png"), np.zeros((26, 32, 3), np.uint8))
    assert "1 images differ in size from their clean partners: 101" in refused(capsys, *finished)
    Path("tests/input/101.png").unlink()
    Image.new("RGB", (33, 26)).save("tests/input/101.jpg")
    assert "1 images to score are JPEG, HEIC or AVIF, which changed them: 101.jpg" in refused(capsys, *finished)
    assert run_test(*finished, "--allow-jpeg") == 0
    assert capsys.readouterr().out.splitlines()[0] == "tests/input: 3 images"
    assert len(scores(Path("scores/tests_input"))) == 3
    assert "restored | clean" in Path("scores/tests_input/report.html").read_text()
    assert refused(capsys, "--pred", "x", "--target", "tests/target") == "test.py: x: no such folder"


def test_two_reports_are_compared_image_by_image(here, capsys):
    first, second = Path("runs/b/test/tests"), Path("runs/c/test/tests")
    capsys.readouterr()
    assert run_test("--compare", str(first / "per_image.csv"), str(second / "per_image.csv")) == 0
    header, psnr, ssim = capsys.readouterr().out.splitlines()
    means = [np.mean([float(row["psnr_rgb"]) for row in scores(report)]) for report in (first, second)]
    assert header == f"{first}/per_image.csv -> {second}/per_image.csv"
    assert psnr.startswith(f"psnr_rgb  {means[0]:.2f} -> {means[1]:.2f}, difference {means[1] - means[0]:+.2f}")
    assert ssim.startswith("ssim_rgb  ")


def test_files_that_cannot_be_compared_give_one_error_line(here, capsys):
    good = str(REPORT / "per_image.csv")
    lines = Path(good).read_text().splitlines(keepends=True)
    for name, text in (
        ("shorter.csv", "".join(lines[:-1])),
        ("head.csv", lines[0]),
        ("word.csv", lines[0] + lines[1].replace("100,33", "100,wide")),
        ("long.csv", lines[0] + "a" * 200_000),
        ("other.csv", "a,b\n1,2\n"),
    ):
        Path(name).write_text(text)
    assert "do not hold the same images: 102" in refused(capsys, "--compare", good, "shorter.csv")
    assert "head.csv and head.csv hold no scores" in refused(capsys, "--compare", "head.csv", "head.csv")
    assert "word.csv, line 2: invalid literal" in refused(capsys, "--compare", "word.csv", good)
    assert "long.csv: not a per_image.csv: field larger than" in refused(capsys, "--compare", good, "long.csv")
    assert "other.csv: not a per_image.csv; its columns are a, b" in refused(capsys, "--compare", "other.csv", good)
    assert refused(capsys, "--compare", "x.csv", good) == "test.py: x.csv: No such file or directory"
    assert refused(capsys, "--compare", "tests", good) == "test.py: tests: Is a directory"


def test_without_lpips_weights_the_other_metrics_are_computed(here, capsys):
    assert run_test("--lpips", "vgg") == 0
    assert (
        "  LPIPS not computed: vgg16-397923af.pth (528 MB) is not on this disk. Fetch it: " in capsys.readouterr().out
    )
    assert summary(REPORT)["lpips"]["status"] == "unavailable"
    assert "psnr_rgb" in scores(REPORT)[0]
    assert run_test("--metrics", "psnr,lpips") == 0  # requested, though the config has none
    assert "  LPIPS not computed: alexnet-owt-7be5be79.pth" in capsys.readouterr().out


def test_explicit_lpips_is_an_error_where_it_cannot_be_computed(here, capsys):
    Path("noise.pth").write_bytes(b"noise")
    assert "no such file with LPIPS weights: nowhere.pth" in refused(capsys, "--lpips-weights", "nowhere.pth")
    assert "noise.pth cannot be read as weights" in refused(capsys, "--lpips-weights", "noise.pth")
    assert "LPIPS is the only metric and is not available: alexnet" in refused(capsys, "--metrics", "lpips")
    finished = ("--pred", "tests/input", "--target", "tests/target")
    assert "not available: alexnet" in refused(capsys, *finished, "--metrics", "lpips")


def test_unusable_weights_give_one_error_line(here, capsys):
    weights = load_checkpoint_weights(RUN)
    older = weights.config | {"training": weights.config["training"] | {"momentum": 0.9}}
    wider = weights.config | {"model": weights.config["model"] | {"base_channels": 16}}
    for name, config in (("older.safetensors", older), ("wider.safetensors", wider)):
        save_weights(Path(name), weights.tensors, config, 4)
    message = "older.safetensors: its config does not fit this version of restore_diff"
    assert message in refused(capsys, "--ckpt", "older.safetensors")
    assert "do not fit the network of their config: conv_in.bias" in refused(capsys, "--ckpt", "wider.safetensors")
    assert refused(capsys, "--ckpt", "x") == "test.py: x: no such checkpoint, weights file or run folder"
    assert "holds neither state.json nor checkpoints" in refused(capsys, "--ckpt", "tests")
    (RUN / "checkpoints/best.json").write_text("{")
    assert "best.json is damaged; remove it" in refused(capsys)
    (RUN / "checkpoints/best.json").unlink()
    (RUN / "checkpoints/00000004/ema.safetensors").write_bytes(b"")
    assert "00000004 damaged (ema.safetensors: 0 of " in refused(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: neither a card nor a folder"),
        (["--protocol", "rbg"], "unknown metric protocol 'rbg'"),
        (["--steps", "1001"], "sampler.num_steps: must not exceed schedule.num_timesteps=1000"),
        (["--tile", "30"], "tiling.tile_size_px: must be a multiple of 4, got 30"),
        (["--device", "cuda:99"], "device cuda:99: this machine has "),
        (["--out", "pairs/input/000.png"], "pairs/input/000.png/tests: Not a directory"),
    ],
)
def test_a_wrong_argument_gives_one_error_line(here, capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_nonfinite_images_are_named_and_the_exit_code_is_3(here, capsys, monkeypatch):
    restore = Restorer.restore

    def broken(self, degraded, names, seed=0):
        if names == ["101"]:
            raise FloatingPointError
        return restore(self, degraded, names, seed)

    monkeypatch.setattr(Restorer, "restore", broken)
    assert run_test() == 3
    assert complaints(capsys)[-1] == "test.py: 1 images gave non-finite values: 101"
    assert scores(REPORT)[1]["psnr_rgb"] == "nan"
    assert summary(REPORT)["summary"]["psnr_rgb"]["n"] == 2


def test_out_of_memory_ends_with_4_and_advice(here, capsys, monkeypatch):
    def restore(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Restorer, "restore", restore)
    assert run_test() == 4
    assert complaints(capsys)[-1] == "test.py: out of memory; use tiles, e.g. --tile 256"


def test_ctrl_c_ends_with_130_and_keeps_the_earlier_report(here, capsys, monkeypatch):
    before = tree(REPORT)
    monkeypatch.setattr(Restorer, "restore", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert run_test() == 130
    assert complaints(capsys)[-1] == "test.py: interrupted"
    assert tree(REPORT) == before


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
