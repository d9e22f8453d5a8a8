"""Data workers: how their batches reach the trainer, within the shared memory there is, and how they end."""

import os
import shutil
import signal
import sys
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import NamedTuple

PREFETCHED = 4
"""Batches that each worker prepares ahead, where shared memory allows it."""
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps the shared memory through which workers pass batches on; a container has 64 MB by default."""
MAX_WAIT_S = 600.0
"""A batch that takes longer than this is not waited for."""
MIB = 2**20


class Transport(NamedTuple):
    """How workers pass their batches on."""

    prefetched: int
    """Batches that each worker prepares ahead."""
    by_pipe: bool
    """Copied through pipes, not through shared memory; slower."""


def choose_transport(num_workers: int, batch_bytes: int, num_processes: int = 1) -> Transport:
    """Fit the batches that wait for `num_processes` on this machine into the shared memory that is free now.

    By default PREFETCHED for each worker; as few as one where memory is short, and pipes where not even that fits.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return Transport(PREFETCHED, by_pipe=False)
    free = shutil.disk_usage(SHARED_MEMORY).free
    for prefetched in (PREFETCHED, PREFETCHED // 2, 1):
        # two more: the one that is trained on, and the one that is read
        if (num_workers * prefetched + 2) * batch_bytes * num_processes <= 0.9 * free:
            return Transport(prefetched, by_pipe=False)
    return Transport(1, by_pipe=True)


def describe(transport: Transport, batch_bytes: int) -> str:
    """One line on a transport other than the default; empty for the default."""
    if transport == Transport(PREFETCHED, by_pipe=False):
        return ""
    free, each = (f"{size / MIB:.1f} MiB" for size in (shutil.disk_usage(SHARED_MEMORY).free, batch_bytes))
    how = "are copied through pipes" if transport.by_pipe else f"are prepared {transport.prefetched} ahead per worker"
    return f"{SHARED_MEMORY} has {free} free, batches of {each} {how}; faster with more, e.g. docker run --shm-size=8g"


def begin_worker(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, which finishes the step and stops its workers.

    The thread that sends batches ends the worker when it fails: by default it prints a traceback and goes on without
    the batch, for which the main process would wait for ever.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, batch: object) -> None:
    """End as the system ends a worker when shared memory is full, so that training reports both alike."""
    is_full = "shared memory" in str(error) or "/torch_" in str(error)
    if not is_full:
        print(f"a data worker cannot send a batch: {error}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGBUS if is_full else signal.SIGKILL)
    time.sleep(60)  # the main thread gets the signal
