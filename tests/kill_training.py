"""Kill -9 at random moments: no start fails, no step is left out, and the weights end as if nothing had been.

python tests/kill_training.py --num 200 --seed 0        numbers of what was met; exit code 1 at the first broken promise

A tiny run of the real train.py, which saves every 3 steps, is started again and again in a child of this process, and
killed: while it starts, between any two instructions of its steps, or while it writes a checkpoint. Not on Windows.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent / "commands")]

import torch  # noqa: E402
from tiny_run import arguments, write_pairs  # noqa: E402
from torch.utils.tensorboard import writer  # noqa: E402, F401  heavy: once for all children

from restore_diff.checkpoint import TENSORS, list_checkpoints, verify_checkpoint  # noqa: E402
from restore_diff.commands import training_run  # noqa: E402, F401  heavy too
from restore_diff.commands.train import main as train  # noqa: E402

EVERY = 3
MOMENTS = ("while it starts", "in its steps", "while it saves")
OFTEN = [
    *("training.learning_rate_decay=constant", f"training.save_every_steps={EVERY}", "training.validate_every_steps=7"),
    *("data.num_validation=1", "sampler.num_steps=1"),
]


def main() -> int:
    args = _parse()
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        write_pairs(Path("pairs"), 5)
        write_pairs(Path("tests"), 1, first=100)
        told = Endurance(Path("runs/parts"), random.Random(args.seed)).endure(args.num)
        os.chdir("/")
    print(*(f"{count:5}  {name}" for name, count in sorted(told.items())), sep="\n")
    print(f"{time.monotonic() - started:.0f} s; weights and metrics are those of an uninterrupted run, bit for bit")
    return 0


class Endurance:
    """Kills a run again and again. Raises AssertionError for what is lost."""

    def __init__(self, run: Path, draw: random.Random):
        self.run, self.draw, self.told = run, draw, Counter[str]()
        self.newest = self.num_removed = 0
        self.orphan = False

    def endure(self, num_kills: int) -> Counter[str]:
        for _ in range(num_kills):
            self._kill(self.draw.choice(MOMENTS))
        last = self.newest + 2 * EVERY
        for name in (self.run.name, "whole"):
            code = os.waitstatus_to_exitcode(os.waitpid(_start(name, last), 0)[1])
            assert code == 0, f"the last start ended with {code}: {_said()}"
        whole = self.run.with_name("whole")
        for name in (*(f"checkpoints/{last:08d}/{tensors}" for tensors in TENSORS), "metrics.jsonl"):
            assert (self.run / name).read_bytes() == (whole / name).read_bytes(), f"{name} differs"
        left = [path.name for path in self.run.rglob(".*") if path.name not in (".lock", ".holder")]
        assert not left, f"left {left}"
        self.told["steps of the whole run"] = last
        return self.told

    def _kill(self, moment: str) -> None:
        child = _start(self.run.name, 10**6)
        if moment != MOMENTS[0]:
            target = self.newest + EVERY + self.draw.randint(1, 3 * EVERY)  # after all that the kill before it left
            self._wait(child, lambda: (_steps(self.run) or [0])[-1] >= target)
            self._require_tidied()
        if moment == MOMENTS[2]:
            self._wait(child, lambda: any((self.run / "checkpoints").glob(".partial-*")))
        time.sleep(self.draw.uniform(0, {MOMENTS[0]: 1.0, MOMENTS[1]: 0.05, MOMENTS[2]: 0.01}[moment]))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, f"it ended by itself: {_said()}"
        self.told[f"killed {moment}"] += 1
        self._require_whole()

    def _wait(self, child: int, is_there: Callable[[], bool]) -> None:
        while not is_there():
            ended = os.waitpid(child, os.WNOHANG)[0]
            assert not ended, f"a start failed: {_said()}"
            time.sleep(0.001)

    def _require_whole(self) -> None:
        """What a kill leaves: intact checkpoints, the newest at most one interval back, and no gap in the metrics."""
        published = list_checkpoints(self.run / "checkpoints")
        for path in published:
            verify_checkpoint(path)
        steps = _steps(self.run)
        assert steps == list(range(1, len(steps) + 1)), f"steps repeated or missing: {steps}"
        newest = int(published[-1].name) if published else 0
        assert newest >= self.newest, f"checkpoint {self.newest} is gone"
        assert newest <= len(steps) <= newest + EVERY, f"checkpoint {newest} after {len(steps)} steps"
        self.told["steps that were done again"] += len(steps) - newest
        self.newest = newest
        self.orphan = any((self.run / "checkpoints").glob(".partial-*"))
        self.told["left a checkpoint half written"] += self.orphan
        self.told["left another file half written"] += any(self.run.rglob(".restore-diff-*"))

    def _require_tidied(self) -> None:
        """A start that has done a step has removed what the kill before it left."""
        num_removed = (self.run / "log.txt").read_text().count("removed .partial-")
        assert num_removed > self.num_removed or not self.orphan, "an orphan was not removed"
        self.num_removed = num_removed


def _start(name: str, num_steps: int) -> int:
    """Start the real train.py in a child process, with its output in said.txt."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = train(arguments(f"name={name}", *OFTEN, f"training.num_steps={num_steps}"))
    finally:
        os._exit(code)


def _said() -> str:
    return Path("said.txt").read_text()[-2000:]


def _steps(run: Path) -> list[int]:
    """The steps of metrics.jsonl that were trained; a last line that the kill cut off is no line."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    values = [json.loads(line) for line in lines if line.endswith("\n")]
    return [value["step"] for value in values if "loss" in value]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
