"""The losses of 20 steps on the CPU, for test_golden_losses.py.

python tests/training/golden_losses.py > tests/training/golden_losses.txt     where a change of the losses is meant
"""

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


if __name__ == "__main__":
    print("\n".join(f"{loss:.9g}" for loss in losses()))
