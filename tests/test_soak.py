"""A hundred images with a kill in the middle; `python tests/soak.py` takes a thousand."""

import runpy
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="measures processes as Linux does")
def test_nothing_is_lost_when_a_run_over_bad_files_is_killed_and_started_again(tmp_path):
    soak = runpy.run_path(str(Path(__file__).with_name("soak.py")))["soak"]
    measured = soak(tmp_path, num=100, num_kills=1, seed=1)
    assert measured["bad"] == 3 and 0 < measured["killed_after"][0] < 100
    assert measured["mb_per_100_images"] < 5
