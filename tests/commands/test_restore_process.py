"""restore.py as a process: its arguments, what it loads for them, and how it is stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from restore_diff import trained
from restore_diff.commands import console as common
from restore_diff.commands import restore
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.files import printable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-i", "x"],
        ["-i", "", "-o", "y"],
        ["-i", "x", "-o", "y", "--steps", "0"],
        ["-i", "x", "-o", "y", "--steps", "4.5"],
        ["-i", "x", "-o", "y", "--ste", "4"],
        ["-i", "x", "-o", "y", "--seed", "-1"],
        ["-i", "x", "-o", "y", "--tile", "small"],
        ["-i", "x", "-o", "y", "--device", "gpu"],
        ["-i", "x", "-o", "y", "--dtype", "int8"],
        ["-i", "x", "-o", "y", "--jpeg-quality", "101"],
        ["-i", "x", "-o", "y", "--max-pixels", "0"],
        ["-i", "x", "-o", "y", "-q", "-v"],
        ["-i", "x", "-o", "y", "-v", "--json", "-"],
        ["-i", "x", "-o", "y", "--json", "photo.jpg"],
        ["-i", "x", "-o", "y", "--shard", "0/8"],
        ["-i", "x", "-o", "y", "--shard", "9/8"],
        ["-i", "x", "-o", "y", "--shard", "3"],
        ["-i", "x", "-o", "y", "z"],
    ],
)
def test_malformed_arguments_end_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        restore.main(arguments)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_max_pixels_takes_a_unit():
    assert restore.parse(["-i", "x", "-o", "y", "--max-pixels", "3k"]).max_pixels == 3000
    assert restore.parse(["-i", "x", "-o", "y"]).max_pixels == 200_000_000


def test_the_samplers_are_those_of_the_schema():
    assert set(common.SAMPLERS) == set(SAMPLERS)


def test_control_characters_and_bytes_that_are_no_text_are_escaped():
    assert printable("a\nb\x1b[2J\x85é☂\udce9") == "a\\nb\\x1b[2J\\x85é☂\\udce9"


def test_help_and_planning_need_no_torch(photos):
    (photos / "a.png").touch()
    (photos / "a.gif").touch()
    code = (
        "import sys; from restore_diff.commands.restore import main\n"
        f"assert main(['-i', {str(photos)!r}, '-o', 'out', '--dry-run']) == 2\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout


class Unchanged:
    def restore(self, degraded, names, seed=0):
        return degraded


DRIVER = """
import sys, time
from restore_diff import trained
from restore_diff.commands.restore import main

class Slow:
    def restore(self, degraded, names, seed=0):
        print(names[0], flush=True)
        for _ in range(0 if names[0] < "3" else 600):
            time.sleep(0.1)  # not all in one: the signal may reach another thread, and Python hears it here
        return 1 - degraded

trained.load_restorer = lambda *arguments, **named: (Slow(), "slow")
raise SystemExit(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_run_leaves_whole_files_and_is_finished_by_the_same_command(photos, number, code, monkeypatch):
    for k in range(6):
        Image.new("L", (9, 7), k).save(photos / f"{k}.png")
    out = photos.parent / "out"
    command = [sys.executable, "-c", DRIVER, "-i", str(photos), "-o", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        while not process.stdout.readline().startswith("3.png"):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(number)
        output, error = process.communicate(timeout=30)
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert "restored 3, skipped 0, failed 0" in output
        why = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
        assert f"{why}, 3 images are left: run the same command again to continue" in error
        assert "Traceback" not in error
    for path in out.glob("[!.]*"):
        with Image.open(path) as image:
            image.load()
    monkeypatch.setattr(trained, "load_restorer", lambda *arguments, **named: (Unchanged(), ""))
    assert restore.main(command[3:]) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{k}.png" for k in range(6)]
