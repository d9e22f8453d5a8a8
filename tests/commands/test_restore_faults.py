"""restore.py when the machine fails it: full disks, lost permissions, little memory, several processes."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="uses what only Linux has"),
]

DRIVER = """
import os, sys, time
from pathlib import Path
from restore_diff import trained
from restore_diff.commands.restore import main

{more}
class Inversion:
    def restore(self, degraded, names, seed=0):
        before(names[0])
        return 1 - degraded

trained.load_restorer = lambda *arguments, **named: (Inversion(), "inverts")
raise SystemExit(main())
"""
NOTHING = "def before(name): pass"


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for k in range(6):
        noise = np.random.default_rng(k).integers(0, 256, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/{k}.png")  # 30 kB each
    return tmp_path / "photos"


def run(photos, *arguments, more=NOTHING, prefix=(), out=None, launcher=("-c",), **options):
    out = out or photos.parent / "out"
    if launcher == ("-c",):
        program = ["-c", DRIVER.format(more=more)]
    else:
        (photos.parent / "driver.py").write_text(DRIVER.format(more=more))
        program = [*launcher, str(photos.parent / "driver.py")]
    command = [*prefix, sys.executable, *program, "-i", str(photos), "-o", str(out), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False, **options
    )


def can_mount() -> bool:
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


def test_a_full_file_system_stops_the_run_leaves_whole_files_and_is_gone_on_from(photos):
    """A file system of 100 kB takes three outputs of 30 kB. Twice as large, the same command finishes."""
    if not can_mount():
        pytest.skip("needs a file system of its own")
    out = photos.parent / "out"
    out.mkdir()
    script = f"""
        mount -t tmpfs -o size=100k none {out} && shift && "$@"; code=$?
        ls -A {out} >&2
        mount -o remount,size=1m {out}
        "$@" --json - >&2 || exit 99
        ls -A {out} >&2
        exit $code"""
    done = run(photos, prefix=("unshare", "-rm", "sh", "-c", script, "sh", "--"))
    assert done.returncode == 3, done.stderr
    lines = done.stderr.splitlines()
    assert lines[lines.index("failed:") + 1] == f"  {photos}/3.png: cannot write {out}/3.png: No space left on device"
    stopped = lines.index("stopped, the disk is full, 2 images are left; restored before:")
    assert lines[stopped + 1 : stopped + 7] == [f"  {out}/{k}.png" for k in range(3)] + ["0.png", "1.png", "2.png"]
    assert "restored 3, skipped 0, failed 1" in done.stdout
    assert lines[-6:] == [f"{k}.png" for k in range(6)]


def test_a_permission_that_is_lost_in_mid_run_costs_the_images_not_the_run(photos):
    out = photos.parent / "out"
    prefix = ()
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root may write everywhere")
        prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
    more = f"def before(name): name == '3.png' and (time.sleep(0.5), os.chmod({str(out)!r}, 0o555))"
    try:
        done = run(photos, prefix=prefix, more=more)
        names = sorted(path.name for path in out.iterdir())
    finally:
        out.chmod(0o755)
    assert done.returncode == 3, done.stderr
    assert names == ["0.png", "1.png", "2.png"]
    assert done.stderr.count("Permission denied") == 3 and "Traceback" not in done.stderr


LITTLE_MEMORY = """
import resource
import restore_diff.data.images, restore_diff.restoration.folder, restore_diff.commands.console
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + 300 * 2**20,) * 2)
def before(name): pass
"""


def test_headers_that_claim_what_does_not_fit_cost_no_memory(photos):
    """Within 300 MB: a header of 900 MP is refused by its number, one of 190 MP, which is allowed, for the memory."""
    for name, side in (("bomb.png", 30_000), ("large.png", 13_800)):
        content = bytearray((photos / "0.png").read_bytes())
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        (photos / name).write_bytes(content)
    done = run(photos, "--json", "-", more=LITTLE_MEMORY)
    assert done.returncode == 3, done.stderr
    reasons = {Path(image["source"]).name: image["reason"] for image in json.loads(done.stdout)["images"]}
    assert "30000x30000 = 900,000,000 pixels, the limit is 200,000,000" in reasons.pop("bomb.png")
    assert reasons.pop("large.png") == "not enough memory to decode it"
    assert list(reasons.values()) == [None] * 6
    assert "Traceback" not in done.stderr


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def test_torchrun_shares_the_images_and_a_bad_one_of_one_process_does_not_end_the_other(photos):
    """torchrun ends all processes when one ends with an exit code: so each waits for the others."""
    (photos / "bad.png").touch()
    more = "def before(name): sys.stderr.write(f'at {os.environ[\"RANK\"]} {name}\\n')"
    done = run(photos, "--json", "-", more=more, launcher=TORCHRUN)
    assert done.returncode != 0
    found = json.loads(done.stdout)
    assert found["exit_code"] == 3
    assert found["counts"] == {"restored": 6, "skipped": 0, "failed": 1, "left": 0}
    at = re.findall(r"at ([01]) (\d\.png)", done.stderr)  # two processes may share a line
    assert sorted(name for _, name in at) == [f"{k}.png" for k in range(6)]
    assert {rank for rank, _ in at} == {"0", "1"}
    assert done.stderr.count("bad.png: the file is empty") == 1


def test_two_processes_that_write_the_same_outputs_do_not_disturb_each_other(photos):
    """As when a share is started twice: both write each file at the same time."""
    command = [sys.executable, "-c", DRIVER.format(more=NOTHING), "-i", str(photos), "-o", str(photos.parent / "out")]
    both = [
        subprocess.Popen([*command, "--overwrite"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        output, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert "restored 6, skipped 0, failed 0" in output
    names = sorted(path.name for path in (photos.parent / "out").iterdir())
    assert names == [f"{k}.png" for k in range(6)]
    for name in names:
        with Image.open(photos.parent / "out" / name) as restored, Image.open(photos / name) as source:
            assert np.array_equal(255 - np.asarray(restored), np.asarray(source))
