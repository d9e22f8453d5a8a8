"""Restore 400 damaged image files; `python tests/fuzz_images.py` restores ten thousand."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_damaged_files_are_restored_or_refused_in_one_line(tmp_path):
    program = Path(__file__).with_name("fuzz_images.py")
    command = [sys.executable, str(program), "--num", "400", "--seed", "1", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:7]]
    assert [row[0] for row in rows] == ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]
    assert all(int(restored) > 0 and int(refused) > 0 for _, _, restored, refused, _, _ in rows)
