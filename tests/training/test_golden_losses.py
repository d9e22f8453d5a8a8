"""Twenty steps have the losses that they had in earlier versions, on whatever CPU.

python tests/training/test_golden_losses.py > tests/training/golden_losses.txt     where a change of the losses is meant
"""

from pathlib import Path

import pytest
from toy_run import toy_batches, toy_config, toy_optimisation

NUM_STEPS = 20


def losses() -> list[float]:
    config = toy_config(num_steps=NUM_STEPS, learning_rate=1e-3)
    optimisation, batches = toy_optimisation(config, dropout=0.0), toy_batches(config)(0)
    found = []
    for step in range(NUM_STEPS):
        optimisation.advance(step, batches)
        found.append(optimisation.meter.read()[0])
    return found


def test_losses_are_those_of_earlier_versions():
    """A change of draws, schedule, network, loss, clipping, AdamW or rate shows."""
    text = Path(__file__).with_name("golden_losses.txt").read_text()
    assert losses() == pytest.approx([float(line) for line in text.split()], rel=1e-4)


if __name__ == "__main__":
    print("\n".join(f"{loss:.9g}" for loss in losses()))
