"""The two ways in which training stops before its end."""

import signal


class TrainingStopped(RuntimeError):
    """Training cannot go on; the checkpoints are as they were. `step` is the step that failed."""

    exit_code = 4

    def __init__(self, step: int, reason: str):
        super().__init__(reason)
        self.step, self.reason = step, reason


class TrainingInterrupted(RuntimeError):
    """Somebody asked training to stop, and it is saved: the same command goes on after `step`."""

    def __init__(self, step: int, number: signal.Signals):
        super().__init__(f"stopped by {number.name}, " + (f"saved step {step}" if step else "before the first step"))
        self.step, self.exit_code = step, 128 + number
