"""Twenty steps have the losses that they had in earlier versions, on whatever CPU."""

from pathlib import Path

import pytest
from golden_losses import losses


def test_losses_are_those_of_earlier_versions():
    """A change of draws, schedule, network, loss, clipping, AdamW or rate shows. golden_losses.py remakes the file."""
    text = Path(__file__).with_name("golden_losses.txt").read_text()
    assert losses() == pytest.approx([float(line) for line in text.split()], rel=1e-4)
