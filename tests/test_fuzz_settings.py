"""Read damaged configs and checkpoints; `python tests/fuzz_settings.py` reads two thousand of each."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("kind", "num"), [("config", 400), ("checkpoint", 40)])
def test_damaged_settings_are_read_or_refused_with_error_lines(kind, num):
    program = Path(__file__).with_name("fuzz_settings.py")
    command = [sys.executable, str(program), "--kind", kind, "--num", str(num), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    _, cases, read, refused, *_ = done.stdout.splitlines()[1].split()
    assert int(cases) == num
    assert int(read) > num / 40
    assert int(refused) > num / 10
