"""The wheel works without the clone, from an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source") / "clone"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "runs", "*.egg-info", "build", "__pycache__"))
    out = source.parent / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list(out.glob("*.tar.gz"))) == 1  # the wheel is built from it
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Run python with the installed wheel, in an empty folder."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        given = environment | {"PYTHONPATH": str(site)}
        return subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=given, capture_output=True, text=True, check=False
        )

    where = command("-c", "import restore_diff; print(restore_diff.__file__)").stdout
    assert where.startswith(str(site)), where
    Image.new("RGB", (40, 32), (90, 120, 150)).save(folder / "photo.png")
    command.folder = folder
    return command


def test_the_wheel_holds_configs_cards_weights_and_the_command(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "configs/derain.yaml",
        "configs/digits.py",
        "configs/sizes/tiny.yaml",
        "datasets/rain100l.yaml",
        "py.typed",
    ):
        assert f"restore_diff/{name}" in names
    assert "restore_diff/weights/all_weather.safetensors" in names
    assert any(name.endswith("entry_points.txt") for name in names)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["restore", "-i", "photo.png", "-o", "restored"], "restored 1, skipped 0, failed 0"),
        (["train", "--cfg", "derain.yaml", "--dry-run", "data.num_workers=0"], "dry run: nothing was written"),
        (["datasets"], "rain100l"),
        (["test", "--data", "skimage", "--quality", "fast", "--limit", "1", "--metrics", "psnr"], "PSNR"),
    ],
)
def test_commands_run_from_an_empty_folder(run, arguments, expected):
    done = run("-m", "restore_diff", *arguments)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_rd_load_restores_from_an_empty_folder(run):
    code = (
        "import restore_diff as rd; from PIL import Image;"
        "print(rd.load('shipped', quality='fast')(Image.open('photo.png')).size)"
    )
    done = run("-c", code)
    assert done.stdout == "(40, 32)\n", done.stderr


def test_restoring_needs_no_module_that_only_posix_has(run):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['fcntl', 'grp', 'pwd', 'resource', 'termios']));"
        "from restore_diff.commands.restore import main;"
        "raise SystemExit(main(['-i', 'photo.png', '-o', 'windows', '--ckpt', 'shipped', '--quality', 'fast']))"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert (run.folder / "windows/photo.png").exists()


def test_one_photograph_imports_little(run):
    code = (
        "import sys; from restore_diff.commands.restore import main;"
        "main(['-i', 'photo.png', '-o', 'counted', '--ckpt', 'shipped', '-q']);"
        "print(*sorted(name for name in sys.modules if name.startswith('restore_diff.')))"
    )
    names = run("-c", code).stdout.split()
    areas = {name.split(".")[1] for name in names}
    assert not areas & {"training", "evaluation", "metrics", "weather", "doctor", "build"}
    assert len(names) <= 40, names


def test_an_unknown_command_names_the_nearest(run):
    done = run("-m", "restore_diff", "restor")
    assert (done.returncode, done.stderr) == (2, "restore-diff: unknown command 'restor'; did you mean restore?\n")
