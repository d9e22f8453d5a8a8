"""What became of the images of a restore.py run: for the user, for the exit code, and as JSON for programs."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from restore_diff import __version__
from restore_diff.commands.console import say
from restore_diff.commands.exit_codes import INTERRUPTED, OK, SOME_FAILED, TERMINATED
from restore_diff.files import replace_atomically
from restore_diff.restoration.job_plan import Plan

RESTORED, SKIPPED, FAILED, LEFT = "restored", "skipped", "failed", "left"
DISK_FULL, AT_FAILURE = "the disk is full", "stopped at the first failure"
BY_USER, BY_SYSTEM = "interrupted", "ended by SIGTERM"


class Result(NamedTuple):
    """Of one image; there is no output for what could not be planned."""

    source: Path
    output: Path | None
    status: str
    """RESTORED; SKIPPED, because it has an output; FAILED, for `reason`; LEFT, because the run ended before."""
    reason: str = ""
    note: str = ""


@dataclass
class Tally:
    """The results so far, and why the run ended before all images were tried, if it did."""

    results: list[Result] = field(default_factory=list)
    stopped: str = ""

    def of(self, status: str) -> list[Result]:
        return [result for result in self.results if result.status == status]

    def add_left(self, plan: Plan) -> None:
        """Those of a plan of which nothing is known yet are left."""
        known = {result.source for result in self.results}
        self.results += [Result(job.source, job.output, LEFT) for job in plan.jobs if job.source not in known]

    @property
    def exit_code(self) -> int:
        if self.stopped in (BY_USER, BY_SYSTEM):
            return INTERRUPTED if self.stopped == BY_USER else TERMINATED
        return SOME_FAILED if self.of(FAILED) else OK


def merged(tallies: Sequence[Tally]) -> Tally:
    """One for all processes that shared the images."""
    results = [result for tally in tallies for result in tally.results]
    return Tally(
        sorted(results, key=lambda result: str(result.source)),
        next((tally.stopped for tally in tallies if tally.stopped), ""),
    )


def tell(tally: Tally, output: Path, seconds: float, *, quiet: bool) -> None:
    """Print what failed and why the run ended, and unless `quiet`, notes and the numbers."""
    if failed := tally.of(FAILED):
        say("failed:", *(f"  {result.source}: {result.reason}" for result in failed), to=sys.stderr)
    restored = tally.of(RESTORED)
    num_left = len(tally.of(LEFT))
    if tally.stopped == DISK_FULL:
        left = f"stopped, the disk is full, {num_left} images are left; restored before:"
        say(left, *(f"  {result.output}" for result in restored), to=sys.stderr)
    elif tally.stopped:
        say(f"{tally.stopped}, {num_left} images are left: the same command goes on from here", to=sys.stderr)
    if quiet:
        return
    if notes := [f"  {result.source}: {result.note}" for result in restored if result.note]:
        say("restored in part:", *notes)
    counts = f"restored {len(restored)}, skipped {len(tally.of(SKIPPED))}, failed {len(failed)}"
    say(f"{counts} in {seconds:.1f} s -> {output}")


def report(tally: Tally, ignored: Counter[str], seconds: float) -> dict[str, Any]:
    """Of values that JSON has. Bytes of a name that are no UTF-8 are written as \\xNN."""
    return {
        "restore_diff": __version__,
        "exit_code": tally.exit_code,
        "stopped": tally.stopped or None,
        "seconds": round(seconds, 3),
        "counts": {status: len(tally.of(status)) for status in (RESTORED, SKIPPED, FAILED, LEFT)},
        "ignored": {_text(kind): number for kind, number in ignored.items()},
        "images": [
            {
                "source": _text(result.source),
                "output": None if result.output is None else _text(result.output),
                "status": result.status,
                "reason": _text(result.reason) or None,
                "note": result.note or None,
            }
            for result in tally.results
        ],
    }


def write_report(found: dict[str, Any], to: str) -> None:
    """To a file, whose folder is made, or to stdout if `to` is "-". OSError as the disk gives it."""
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    if to == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(Path(to), text.encode())


def _text(value: Path | str) -> str:
    return os.fsencode(value).decode("utf-8", "backslashreplace")
