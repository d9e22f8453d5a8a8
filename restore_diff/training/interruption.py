"""SIGTERM and Ctrl-C, noted and obeyed between two steps."""

import os
import signal
from types import FrameType
from typing import Self

from restore_diff.training.distributed import ALONE, Processes

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Within `with`, the first SIGTERM or SIGINT only sets `.signal`; a second one ends the process at once.

    Enter it in the main thread, around the training alone: before it nothing is to be saved, after it all is. Not
    entered, it never interrupts.

    Among several processes a second signal changes nothing: torchrun sends one of its own to all when it was signalled,
    or when the first process has left, and it ends those that have not stopped after 30 s.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self.signal: signal.Signals | None = None
        self._processes = processes

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        alone = self._processes.num == 1
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL if alone else signal.SIG_IGN)
        if self._processes.is_first:
            insist = "; once more leaves at once" if alone else ""
            # print() may be interrupted in its own middle; os.write may not.
            os.write(2, f"\n{self.signal.name}: finishing this step, then saving{insist}\n".encode())
