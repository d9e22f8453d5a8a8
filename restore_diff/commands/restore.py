"""The arguments of restore.py."""

import argparse
import gc
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from restore_diff import __version__
from restore_diff.commands.console import (
    BAD_USAGE,
    CHECKPOINT,
    INTERRUPTED,
    OK,
    QUALITIES,
    SAMPLERS,
    SOME_FAILED,
    TERMINATED,
    WEATHERS,
    count,
    device,
    dtype,
    hyphenated,
    lines_of,
    logging_to_console,
    path,
    pixels,
    say,
    tile,
)
from restore_diff.data.names import is_image
from restore_diff.files import printable, remove_abandoned, replace_atomically
from restore_diff.restoration.sources import Naming, Plan, PlanError, Shard, plan_jobs


def parse(argv: list[str]) -> argparse.Namespace:
    """Raises SystemExit for --help and malformed arguments."""
    parser = argparse.ArgumentParser(
        prog="restore.py",
        description="Restore a photograph, a folder, or a tree of folders. What is restored already is skipped.",
        epilog="exit codes: 0 all restored, 2 bad usage, 3 some images failed (listed at the end), 130 interrupted, "
        "143 terminated. Several machines that see the same folders share them by --shard, several processes of one by "
        "torchrun.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-i",
        "--input",
        type=_text_of_path,
        nargs="+",
        required=True,
        metavar="IN",
        help="images, folders, patterns such as 'photos/**/*.jpg', or @FILE: a list of images and folders, one a line",
    )
    parser.add_argument(
        "-o", "--output", type=path, required=True, metavar="OUT", help="a folder, or a file for a single image"
    )
    parser.add_argument("--ckpt", type=path, metavar="PATH", help=CHECKPOINT)
    _add_restoring(parser)
    _add_files(parser)
    _add_many(parser)
    _add_printing(parser)
    args = parser.parse_args(argv)
    if args.uncertainty and (args.n_samples or 0) < 2 and args.quality != "best":
        parser.error("--uncertainty needs several samples: add --n-samples 4")
    if args.verbose and args.json == "-":
        parser.error("-v prints where --json - prints the report: leave out one of them")
    return args


def _add_restoring(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how it is restored (default: as the checkpoint's config says)")
    how.add_argument("--quality", choices=QUALITIES, help="one dial: sets steps, tiles and samples (docs/speed.md)")
    how.add_argument(
        "--weather",
        choices=WEATHERS,
        default="auto",
        help="what the photographs show, for weights that can be told; auto: they see for themselves; unknown: without",
    )
    how.add_argument("--steps", type=count(1), metavar="N", help="network calls per image")
    how.add_argument("--sampler", choices=SAMPLERS)
    how.add_argument(
        "--seed", type=count(0), default=0, metavar="N", help="another seed gives another sample (default 0)"
    )
    how.add_argument("--n-samples", type=count(1), metavar="K", help="average K restorations of each image")
    how.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write to OUT/uncertainty how far the samples lie apart: white is a standard deviation of 0.1",
    )
    how.add_argument("--tile", type=tile, default="auto", metavar="auto|0|N", help="side of a tile in px, 0: no tiles")
    how.add_argument("--tile-overlap", type=count(0), metavar="N", help="overlap of tiles in px")
    how.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    how.add_argument(
        "--dtype",
        type=dtype,
        default="auto",
        metavar="auto|float32|bfloat16|float16",
        help="auto: bfloat16 on GPUs and CPUs that compute with it, else float32",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument("--suffix", default="", metavar="TEXT", help="added to the names, before the ending")
    files.add_argument(
        "--ext", choices=("auto", "png", "jpg", "webp", "tif"), default="auto", help="auto: as the input"
    )
    files.add_argument(
        "--jpeg-quality", type=count(1, 100), default=95, metavar="N", help="of JPEG and WebP, 1 to 100 (default 95)"
    )
    files.add_argument(
        "--alpha", choices=("keep", "drop"), default="keep", help="drop: outputs are opaque, as JPEG must be"
    )
    files.add_argument(
        "--metadata",
        choices=("keep", "strip"),
        default="keep",
        help="strip: no EXIF, that is camera, place and time; the colour profile stays, it is part of the colours",
    )
    files.add_argument("--overwrite", action="store_true", help="restore again what has an output")
    files.add_argument("--no-recursive", dest="recursive", action="store_false", help="no subfolders")
    files.add_argument(
        "--max-pixels", type=pixels, default="200M", metavar="N", help="refuse larger images (default 200M)"
    )
    files.add_argument("--compare", action="store_true", help="also write degraded | restored to OUT/comparisons")
    files.add_argument("--dry-run", action="store_true", help="list what would be written, and where")


def _add_many(parser: argparse.ArgumentParser) -> None:
    many = parser.add_argument_group("many images")
    many.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="only the I-th of N shares, such as 3/8, by name"
    )
    many.add_argument("--fail-fast", action="store_true", help="stop at the first image that fails")


def _add_printing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        type=_report,
        metavar="FILE",
        help="also report what became of each image; -: on stdout, and only that",
    )
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    talk.add_argument("-v", "--verbose", action="store_true", help="print each image")


def _text_of_path(text: str) -> str:
    path(text)
    return text


def _report(text: str) -> str:
    if text != "-" and not text.lower().endswith(".json"):  # so that a slip cannot replace a photograph
        raise argparse.ArgumentTypeError(f"must be -, or a file whose name ends in .json, got {printable(text)}")
    return text


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, such as 3/8, got {printable(text)}")
    return int(match[1]), int(match[2])


# What became of the images of a restore.py run: for the user, for the exit code, and as JSON for programs.

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


# python restore.py: photographs and folders of them go in, restored images of the same size come out.

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
        from restore_diff.commands.console import USER_ERRORS  # heavy

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

    from restore_diff.distributed import OtherRankFailed, sharing

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
