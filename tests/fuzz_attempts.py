"""Attempt numbered cases in a forked process with limits of time and memory. Linux only."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a forked child would wait for threads of its parent

LIMIT_CPU_S = 5
LIMIT_WALL_S = 60
LIMIT_MEMORY = 2 * 2**30


def attempt_all(attempt: Callable[[int], dict[str, Any]], numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return the result of each case ("status", "problem") with its number, processor time and peak of memory in MB.

    A worker that dies or hangs is a finding and is replaced.
    """
    fork, results = multiprocessing.get_context("fork"), []
    while len(results) < len(numbers):
        ours, theirs = fork.Pipe()
        worker = fork.Process(target=_work, args=(attempt, numbers[len(results) :], theirs))
        worker.start()
        theirs.close()
        try:
            while len(results) < len(numbers):
                if not ours.poll(LIMIT_WALL_S):
                    worker.kill()
                results.append(ours.recv())
        except EOFError:
            worker.join()
            hangs = worker.exitcode in (-signal.SIGPROF, -signal.SIGKILL)
            problem = "hangs" if hangs else f"the process died ({worker.exitcode})"
            number = numbers[len(results)]
            results.append({"number": number, "status": "", "cpu_s": 0, "mb": 0, "problem": problem})
        worker.join()
    return results


def _work(attempt: Callable[[int], dict[str, Any]], numbers: Sequence[int], answers) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak memory of this process
        before, started = _memory_mb("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, LIMIT_CPU_S)  # SIGPROF ends the process, in C code too
        result = attempt(number)
        signal.setitimer(signal.ITIMER_PROF, 0)
        cpu_s, mb = time.process_time() - started, _memory_mb("VmHWM") - before
        answers.send({"number": number, "cpu_s": cpu_s, "mb": mb} | result)


def _memory_mb(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024
