"""The wheel works without the clone, from an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image

from restore_diff import __version__
from restore_diff.commands.cli import COMMANDS

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
        "evaluation/report.html",
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


def test_metadata_name_the_version_the_licence_and_the_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    metadata = Parser().parsestr(text)
    assert metadata["Version"] == __version__
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert "deraining" in metadata["Keywords"].split(",")
    assert metadata.get_payload().startswith("# restore_diff")


def test_the_version_is_that_of_the_citation_and_of_the_newest_changes():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest and newest[1] == __version__


def test_docker_is_sent_what_the_wheel_is_built_from_and_nothing_else(wheel):
    """runs/ and data/ of a user, and .git, stay out of the image."""
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        built_from = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    built_from -= {"PKG-INFO", "restore_diff.egg-info", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff"}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == built_from | {"requirements.lock"}


@pytest.mark.parametrize("command", ["train", "test", "restore"])
def test_usage_names_the_command_that_was_typed(run, command):
    usage = run("-m", "restore_diff", command, "--help").stdout
    assert usage.startswith(f"usage: restore-diff {command} [-h]")
    usage = subprocess.run([sys.executable, ROOT / f"{command}.py", "-h"], capture_output=True, text=True).stdout
    assert usage.startswith(f"usage: {command}.py [-h]")


def test_errors_name_the_command_that_was_typed(run):
    mistake = run("-m", "restore_diff", "restore", "-i", "absent", "-o", "x")
    assert mistake.stderr == "restore-diff restore: no such file or folder: absent\n"
    mistake = run("-m", "restore_diff", "train", "--cfg", "absent.yaml")
    assert mistake.stderr.startswith("restore-diff train: absent.yaml")


PIPED = ["datasets", "--help", "restore --help", "train --cfg derain.yaml --print-config"]


@pytest.mark.parametrize("arguments", PIPED)
def test_a_reader_that_stops_reading_ends_a_command_quietly(run, arguments):
    for unbuffered in ("", "1"):
        pipe = f"PYTHONUNBUFFERED={unbuffered} {sys.executable} -m restore_diff {arguments} | :"
        assert run("-c", f"import subprocess; subprocess.run(['sh', '-c', {pipe!r}])").stderr == ""


ANSWER = """
answer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_restore_diff x "${@: -1}"; echo "${COMPREPLY[@]}"; }
answer restore-diff ""
answer restore-diff restore --qu
answer restore-diff export ""
answer restore-diff test --ckpt ph
"""


def test_completion_knows_each_command_and_its_options_without_torch(run):
    pytest.importorskip("shtab")
    code = (
        "import sys; sys.modules['torch'] = None; from restore_diff.__main__ import main; main(['completion', 'bash'])"
    )
    script = run("-c", code).stdout
    bash = ["bash", "-c", script + ANSWER]
    answers = subprocess.run(bash, cwd=run.folder, capture_output=True, text=True, check=True).stdout
    assert answers.splitlines() == [" ".join(COMMANDS), "--quality --quiet", "onnx diffusers safetensors", "photo.png"]


def test_an_unknown_command_names_the_nearest(run):
    done = run("-m", "restore_diff", "restor")
    assert (done.returncode, done.stderr) == (2, "restore-diff: unknown command 'restor'; did you mean restore?\n")
