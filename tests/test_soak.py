"""Restore a hundred images with one kill; `python tests/soak.py` restores a thousand."""

import runpy
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_run_with_bad_files_loses_nothing_after_a_restart(tmp_path):
    soak = runpy.run_path(str(Path(__file__).with_name("soak.py")))["soak"]
    measured = soak(tmp_path, num=100, num_kills=1, seed=1)
    assert measured["bad"] == 3 and 0 < measured["killed_after"][0] < 100
    assert measured["mb_per_100_images"] < 5
