"""restore.py as a process: arguments, imports, signals, full disks, permissions, memory, several processes."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restore_diff.commands import console, restore
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.files import printable

ROOT = Path(__file__).resolve().parents[2]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="uses features of Linux")

DRIVER = """
import os, sys, time
from pathlib import Path
from restore_diff import trained
from restore_diff.commands.restore import main

def before(name): pass
{more}
class Inversion:
    def restore(self, degraded, names, seed=0):
        before(names[0])
        return 1 - degraded

trained.load_restorer = lambda *arguments, **named: (Inversion(), "inverts")
raise SystemExit(main())
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for k in range(6):
        noise = np.random.default_rng(k).integers(0, 256, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/{k}.png")  # 30 kB each
    return tmp_path / "photos"


def start(photos, *arguments, more="", prefix=(), launcher=()):
    driver = photos.parent / "driver.py"
    driver.write_text(DRIVER.format(more=more))
    places = ["-i", str(photos), "-o", str(photos.parent / "out")]
    return subprocess.Popen(
        [*prefix, sys.executable, *launcher, str(driver), *places, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """(exit code, stdout, stderr)"""
    output, error = process.communicate(timeout=120)
    return process.returncode, output, error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


FAULTS = """--steps 0|--steps 4.5|--ste 4|--seed -1|--tile small|--device gpu|--dtype int8|--jpeg-quality 101|
--max-pixels 0|-q -v|-v --json -|--json photo.jpg|--shard 0/8|--shard 9/8|--shard 3|--quiet z"""


@pytest.mark.parametrize("arguments", ["", "-i x", "-i '' -o y", *(f"-o y -i x {text}" for text in FAULTS.split("|"))])
def test_malformed_arguments_exit_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        restore.main([word.strip("'") for word in arguments.split()])
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_max_pixels_takes_a_unit():
    assert restore.parse(["-i", "x", "-o", "y", "--max-pixels", "3k"]).max_pixels == 3000
    assert restore.parse(["-i", "x", "-o", "y"]).max_pixels == 200_000_000


def test_the_samplers_on_the_command_line_are_those_of_the_library():
    assert set(console.SAMPLERS) == set(SAMPLERS)


def test_control_characters_and_undecodable_bytes_are_escaped():
    assert printable("a\nb\x1b[2J\x85é☂\udce9") == "a\\nb\\x1b[2J\\x85é☂\\udce9"


def test_help_and_planning_import_neither_torch_nor_numpy(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").touch()
    (tmp_path / "photos/a.gif").touch()
    code = (
        "import sys; from restore_diff.commands.restore import main\n"
        f"assert main(['-i', {str(tmp_path / 'photos')!r}, '-o', 'out', '--dry-run']) == 2\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout


SLOW = """
def before(name):
    print(name, flush=True)
    for _ in range(0 if name < "3" else 600):
        time.sleep(0.1)  # in parts: if another thread gets the signal, Python handles it here
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("number", "code", "why"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM"), (signal.SIGKILL, -9, "")],
)
def test_a_stopped_run_leaves_whole_files_and_the_same_command_finishes_it(photos, number, code, why):
    with start(photos, more=SLOW) as process:
        assert process.stdout and process.stderr
        while not process.stdout.readline().startswith("3.png"):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(number)
        found, output, error = finish(process)
    assert found == code
    if why:
        assert "restored 3, skipped 0, failed 0" in output
        assert f"{why}, 3 images are left: run the same command again to continue" in error
        assert "Traceback" not in error
    for path in (photos.parent / "out").glob("[!.]*"):
        with Image.open(path) as image:
            image.load()
    assert finish(start(photos))[0] == 0
    assert names(photos.parent / "out") == names(photos)


def can_mount() -> bool:
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


@on_linux
def test_a_full_file_system_stops_the_run_and_the_same_command_continues(photos):
    """A file system of 100 kB holds three outputs of 30 kB. With more space, the same command finishes."""
    if not can_mount():
        pytest.skip("cannot mount a file system")
    out = photos.parent / "out"
    out.mkdir()
    script = f"""
        mount -t tmpfs -o size=100k none {out} && shift && "$@"; code=$?
        ls -A {out} >&2
        mount -o remount,size=1m {out}
        "$@" --json - >&2 || exit 99
        ls -A {out} >&2
        exit $code"""
    code, output, error = finish(start(photos, prefix=("unshare", "-rm", "sh", "-c", script, "sh", "--")))
    assert code == 3, error
    lines = error.splitlines()
    assert lines[lines.index("failed:") + 1] == f"  {photos}/3.png: cannot write {out}/3.png: No space left on device"
    stopped = lines.index("stopped, the disk is full, 2 images are left; restored before:")
    assert lines[stopped + 1 : stopped + 7] == [f"  {out}/{k}.png" for k in range(3)] + ["0.png", "1.png", "2.png"]
    assert "restored 3, skipped 0, failed 1" in output
    assert lines[-6:] == [f"{k}.png" for k in range(6)]


@on_linux
def test_a_permission_lost_during_the_run_fails_single_images_only(photos):
    out = photos.parent / "out"
    prefix = ()
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root may write everywhere")
        prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
    more = f"def before(name): name == '3.png' and (time.sleep(0.5), os.chmod({str(out)!r}, 0o555))"
    try:
        code, _, error = finish(start(photos, prefix=prefix, more=more))
        written = names(out)
    finally:
        out.chmod(0o755)
    assert code == 3, error
    assert written == ["0.png", "1.png", "2.png"]
    assert error.count("Permission denied") == 3 and "Traceback" not in error


LITTLE_MEMORY = """
import resource
import restore_diff.data.images, restore_diff.restoration.folder
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + 300 * 2**20,) * 2)
"""


@on_linux
def test_large_sizes_in_headers_take_no_memory(photos):
    """Within 300 MB: 900 MP are refused by the limit; 190 MP, below the limit, are refused for lack of memory."""
    for name, side in (("bomb.png", 30_000), ("large.png", 13_800)):
        content = bytearray((photos / "0.png").read_bytes())
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        (photos / name).write_bytes(content)
    code, output, error = finish(start(photos, "--json", "-", more=LITTLE_MEMORY))
    assert code == 3, error
    reasons = {Path(image["source"]).name: image["reason"] for image in json.loads(output)["images"]}
    assert "30000x30000 = 900,000,000 pixels, the limit is 200,000,000" in reasons.pop("bomb.png")
    assert reasons.pop("large.png") == "not enough memory to decode it"
    assert list(reasons.values()) == [None] * 6
    assert "Traceback" not in error


@on_linux
def test_torchrun_shares_the_images_and_a_failure_does_not_end_the_other(photos):
    """torchrun ends all processes when one ends with an exit code, so each waits for the others."""
    (photos / "bad.png").touch()
    more = "def before(name): sys.stderr.write(f'at {os.environ[\"RANK\"]} {name}\\n')"
    code, output, error = finish(start(photos, "--json", "-", more=more, launcher=TORCHRUN))
    assert code != 0
    found = json.loads(output)
    assert found["exit_code"] == 3
    assert found["counts"] == {"restored": 6, "skipped": 0, "failed": 1, "left": 0}
    at = re.findall(r"at ([01]) (\d\.png)", error)  # two processes may share a line
    assert sorted(name for _, name in at) == [f"{k}.png" for k in range(6)]
    assert {rank for rank, _ in at} == {"0", "1"}
    assert error.count("bad.png: the file is empty") == 1


@on_linux
def test_two_processes_can_write_the_same_outputs_at_once(photos):
    both = [start(photos, "--overwrite") for _ in range(2)]
    for code, output, error in map(finish, both):
        assert code == 0, error
        assert "restored 6, skipped 0, failed 0" in output
    assert names(photos.parent / "out") == names(photos)
    for name in names(photos):
        with Image.open(photos.parent / "out" / name) as restored, Image.open(photos / name) as source:
            assert np.array_equal(255 - np.asarray(restored), np.asarray(source))
