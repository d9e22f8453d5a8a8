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
    formats = {"AVIF", "BMP", "GIF", "HEIC", "JPEG", "PNG", "TIFF", "WEBP"}
    rows = [row for line in done.stdout.splitlines()[1:] if (row := line.split()) and row[0] in formats]
    assert {row[0] for row in rows} == formats
    assert all(int(restored) > 0 and int(refused) > 0 for _, _, restored, refused, _, _ in rows)
