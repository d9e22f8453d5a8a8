"""Every deliberate mistake of tests/mutations.py is caught by the tests named for it."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_every_deliberate_mistake_is_caught():
    command = [sys.executable, str(Path(__file__).with_name("mutations.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
