"""SIGTERM and Ctrl-C, noted and obeyed between two steps."""

import os
import signal
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Within `with`, the first SIGTERM or SIGINT only sets `.signal`; a second one ends the process at once.

    Enter it in the main thread, around the training alone: before it nothing is to be saved, after it all is. Not
    entered, it never interrupts.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        # print() may be interrupted in its own middle; os.write may not.
        os.write(2, f"\n{self.signal.name}: finishing this step, then saving; once more leaves at once\n".encode())
