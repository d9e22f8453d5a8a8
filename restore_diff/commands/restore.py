"""python restore.py: photographs and folders of them go in, restored images of the same size come out."""

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from restore_diff.commands.arguments import hyphenated
from restore_diff.commands.console import lines_of, logging_to_console, say
from restore_diff.commands.exit_codes import BAD_USAGE, INTERRUPTED, TERMINATED
from restore_diff.commands.restore_arguments import parse
from restore_diff.commands.restore_report import (
    AT_FAILURE,
    BY_SYSTEM,
    BY_USER,
    DISK_FULL,
    FAILED,
    RESTORED,
    SKIPPED,
    Result,
    Tally,
    merged,
    report,
    tell,
    write_report,
)
from restore_diff.data.formats import is_image
from restore_diff.files import remove_abandoned
from restore_diff.restoration.job_plan import Naming, Plan, PlanError, Shard, plan_jobs

if TYPE_CHECKING:
    from restore_diff.restoration.folder import Restore


def main(argv: list[str] | None = None) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    args = parse(hyphenated(sys.argv[1:] if argv is None else argv))
    try:
        with logging_to_console(), _silent_decoders(), _terminable():
            return _run(args)
    except KeyboardInterrupt as signalled:  # before the first image
        terminated = isinstance(signalled, _Terminated)
        say(BY_SYSTEM if terminated else BY_USER, to=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    rank, num_ranks = _place_among_processes()
    args.quiet = args.quiet or args.json == "-" or rank > 0
    try:
        plan = _plan(args, rank, num_ranks)
    except (PlanError, OSError) as error:
        return _bad_usage(error)
    if not plan.sources.images and not plan.sources.unreadable:
        where = ", ".join(args.input)
        return _bad_usage(f"no image in {where} ({_ignored(plan)}); PNG, JPEG, WebP, TIFF, BMP and GIF are read")
    tally = Tally([Result(job.source, job.output, SKIPPED) for job in plan.done])
    if rank == 0:  # which alone tells what all have seen
        tally.results += [Result(path, None, FAILED, reason) for path, reason in plan.sources.unreadable]
    if args.dry_run:
        _show(plan, args.quiet)
        tally.add_left(plan)
    else:
        gc.disable()  # of what importing torch makes nothing is garbage: a seventh less of that time
        from restore_diff.commands.errors import USER_ERRORS  # heavy

        gc.enable()
        try:
            tally = _restore_shared(plan, args, tally, num_ranks)
        except USER_ERRORS as error:
            return _bad_usage(error)
    return tally.exit_code if rank > 0 else _conclude(plan, tally, args, time.monotonic() - started)


def _place_among_processes() -> tuple[int, int]:
    """As torchrun tells it: who this is, from 0 on, and how many share the images."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def _plan(args: argparse.Namespace, rank: int, num_ranks: int) -> Plan:
    number, total = args.shard
    return plan_jobs(
        args.input,
        args.output,
        Naming(args.ext, args.suffix),
        is_image,
        recursive=args.recursive,
        overwrite=args.overwrite,
        compare=args.compare,
        uncertainty=args.uncertainty,
        shard=Shard((number - 1) * num_ranks + rank, total * num_ranks),
    )


def _restore_shared(plan: Plan, args: argparse.Namespace, tally: Tally, num_ranks: int) -> Tally:
    """Restore this process's images; what became of those of all processes."""
    if num_ranks == 1:
        _restore_planned(plan, args, tally)
        return tally
    from torch import distributed

    from restore_diff.evaluation.sharing import OtherRankFailed, sharing

    with sharing():  # and wait for the others at the end: torchrun ends all when one ends with some images failed
        _restore_planned(plan, args, tally)
        if tally.stopped in (BY_USER, BY_SYSTEM):
            return tally
        tallies = [tally] * num_ranks
        try:
            distributed.all_gather_object(tallies, tally)
        except RuntimeError as error:
            raise OtherRankFailed("another process ended before its images were restored") from error
    return merged(tallies)


def _restore_planned(plan: Plan, args: argparse.Namespace, tally: Tally) -> None:
    remove_abandoned(plan.folders)
    if plan.sources.ignored and not args.quiet:
        say(_ignored(plan))
    if args.fail_fast and tally.of(FAILED):
        tally.stopped = AT_FAILURE
    elif plan.jobs:
        _restore_jobs(plan, _load(args), args, tally)
    tally.add_left(plan)


def _load(args: argparse.Namespace) -> "Restore":
    """Build the restorer of the checkpoint, with what the arguments override of its config."""
    from torch import cat

    from restore_diff import trained

    restorer, description = trained.load_restorer(
        args.ckpt,
        device=args.device,
        precision=args.dtype,
        quality=args.quality,
        num_samples=args.n_samples,
        num_steps=args.steps,
        sampler=args.sampler,
        tile_size_px=None if args.tile == "auto" else args.tile,
        tile_overlap_px=args.tile_overlap,
        weather=None if args.weather == "auto" else args.weather,
    )
    if not args.quiet:
        say(description)
    if args.uncertainty:
        return lambda image, name: cat(restorer.restore_with_spread(image, names=[name], seed=args.seed))
    return lambda image, name: restorer.restore(image, names=[name], seed=args.seed)


def _restore_jobs(plan: Plan, restore: "Restore", args: argparse.Namespace, tally: Tally) -> None:
    from tqdm import tqdm

    from restore_diff.restoration.folder import DiskFull, Writing, restore_folder

    writing = Writing(args.jpeg_quality, keep_alpha=args.alpha == "keep", keep_metadata=args.metadata == "keep")
    outcomes = restore_folder(plan.jobs, restore, args.max_pixels, writing)
    with closing(outcomes), tqdm(total=len(plan.jobs), unit="image", disable=args.quiet or None) as bar:
        try:
            for job, reason, note, _ in outcomes:
                tally.results.append(Result(job.source, job.output, FAILED if reason else RESTORED, reason, note))
                if args.verbose:
                    say(f"{job.source} -> {reason or job.output}")
                bar.update()
                if reason and args.fail_fast:
                    tally.stopped = AT_FAILURE
                    break
        except DiskFull:
            tally.stopped = DISK_FULL
        except KeyboardInterrupt as signalled:
            tally.stopped = BY_SYSTEM if isinstance(signalled, _Terminated) else BY_USER


def _conclude(plan: Plan, tally: Tally, args: argparse.Namespace, seconds: float) -> int:
    """Say what became of the images; the exit code."""
    if not args.dry_run:
        tell(tally, args.output, seconds, quiet=args.quiet)
    if args.json:
        try:
            write_report(report(tally, plan.sources.ignored, seconds), args.json)
        except OSError as error:
            return _bad_usage(error)
    return tally.exit_code


def _show(plan: Plan, quiet: bool) -> None:
    if quiet:
        return
    say(*(f"{job.source} -> {path}" for job in plan.jobs for path in job.written))
    say(f"would restore {len(plan.jobs)}, skip {len(plan.done)} that have an output -> {plan.root}; {_ignored(plan)}")


def _ignored(plan: Plan) -> str:
    ignored = plan.sources.ignored
    kinds = ", ".join(f"{number} {kind}" for kind, number in ignored.most_common())
    return f"ignored {ignored.total()} that are no images" + (f": {kinds}" if kinds else "")


def _bad_usage(error: Exception | str) -> int:
    lines = error.args if isinstance(error, PlanError) else lines_of(error)
    say(*(f"{'restore.py: ' if number == 0 else ''}{line}" for number, line in enumerate(lines)), to=sys.stderr)
    return BAD_USAGE


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which then ends the run as Ctrl-C does: the image in work is lost, the list of the others is not."""


@contextmanager
def _terminable() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _silent_decoders() -> Iterator[None]:
    """Pillow warns and logs of what is odd in a file; what is wrong with it, the outcome of the image says."""
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        logger.removeHandler(handler)
