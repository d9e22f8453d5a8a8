"""Five kills; `python tests/kill_training.py` does two hundred."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_run_that_is_killed_five_times_ends_like_one_that_was_not():
    command = [sys.executable, str(Path(__file__).with_name("kill_training.py")), "--num", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "weights and metrics are those of an uninterrupted run" in done.stdout
