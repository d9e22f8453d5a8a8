"""Data workers that die: said in a line that helps, and never in the middle of an update."""

import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

BROKEN = (ConnectionError, EOFError)
"""What reading from a worker that has just died may raise, before torch has news of the death."""

MOMENT_S = 5.0
"""How long its end may lag behind."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, the death of a data worker is only noted; leaving raises what torch has to say of it.

    torch raises it wherever the main thread stands, be it between the weights' update and that of their average.
    """
    noted: list[int] = []
    with _handling_deaths(lambda number, _: noted.append(number)) as raise_death:
        yield
    if noted and callable(raise_death):
        raise_death(noted[0], None)


@contextmanager
def deaths_ignored() -> Iterator[None]:
    """After the first: where memory runs out several workers die, and each would be raised in the midst of saving."""
    with _handling_deaths(lambda number, _: None):
        yield


@contextmanager
def _handling_deaths(handler: Callable[[int, FrameType | None], object]) -> Iterator[object]:
    """Put `handler` in the place of torch's, and give the latter back."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield None  # on Windows and in threads torch has none either
        return
    previous = signal.signal(signal.SIGCHLD, handler)
    try:
        yield previous
    finally:
        signal.signal(signal.SIGCHLD, previous)


def death_of_worker(error: Exception, workers: Sequence[BaseProcess]) -> str | None:
    """What to do about an error in reading data; None where no worker died and no shared memory was missing."""
    text = str(error)
    if isinstance(error, BROKEN) or "DataLoader worker (pid" in text:
        # How it ended is in torch's own words only where these were first to come.
        with deaths_ignored():
            over = wait([worker.sentinel for worker in workers], MOMENT_S)
            for worker in workers:
                worker.join(None if worker.sentinel in over else 0)
        ends = {worker.exitcode for worker in workers if worker.exitcode}
        if not ends and isinstance(error, BROKEN):
            return None
        if -signal.SIGBUS not in ends:
            how = "killed" if -signal.SIGKILL in ends else "exited unexpectedly"
            return f"a data worker died ({how}; often out of memory): lower data.num_workers or training.batch_size"
    elif not re.search("shared memory|</?torch_", text):
        return None
    advice = "raise its limit, e.g. docker run --shm-size=8g, or lower data.num_workers"
    return f"a data worker had no shared memory left: {advice}"
