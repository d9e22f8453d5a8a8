"""Implementation of restore.py: restore photographs and folders of them, and report the result of each image."""

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
    PLUGIN,
    QUALITIES,
    SAMPLERS,
    SOME_FAILED,
    TERMINATED,
    USER_ERRORS,
    WEATHERS,
    count,
    device,
    dtype,
    end_quietly,
    hyphenated,
    lines_of,
    logging_to_console,
    path,
    pixels,
    program,
    say,
    tile,
)
from restore_diff.data.formats import FORMATS
from restore_diff.errors import UserError
from restore_diff.files import printable, remove_abandoned, replace_atomically
from restore_diff.restoration.sources import Naming, Plan, PlanError, Shard, plan_jobs

if TYPE_CHECKING:
    from restore_diff.restoration.folder import Restore

RESTORED, SKIPPED, FAILED, LEFT = "restored", "skipped", "failed", "left"
DISK_FULL, AT_FAILURE = "the disk is full", "stopped at the first failure"
MAX_NAMED = 10
"""Files with the same note that are listed by name."""
BY_USER, BY_SYSTEM = "interrupted", "ended by SIGTERM"


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=program("restore.py"),
        description="Restore a photograph, a folder, or a tree of folders. Images that have an output are skipped.",
        epilog="exit codes: 0 all restored, 2 bad usage, 3 some images failed (listed at the end), 130 interrupted, "
        "143 terminated. To share the images: --shard on several machines, torchrun for processes of one machine.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    inputs = "images, folders, patterns such as 'photos/**/*.jpg', or @FILE: a list of images and folders, one per line"
    add("-i", "--input", type=_text_of_path, nargs="+", required=True, metavar="IN", help=inputs)
    add("-o", "--output", type=path, required=True, metavar="OUT", help="a folder, or a file for a single image")
    add("--ckpt", "-n", "--name", type=path, metavar="PATH", help=CHECKPOINT)
    add("--plugin", type=path, action="append", default=[], metavar="FILE", help=PLUGIN)
    _add_restoring(parser)
    _add_files(parser)
    add = parser.add_argument_group("many images").add_argument
    share = "restore only the I-th of N shares of the images, e.g. 3/8; shares depend on names only"
    add("--shard", type=_shard, default=(1, 1), metavar="I/N", help=share)
    add("--fail-fast", action="store_true", help="stop at the first image that fails")
    report = "also write a JSON report of all images; -: print it on stdout, and nothing else there"
    parser.add_argument("--json", type=_report, metavar="FILE", help=report)
    add = parser.add_mutually_exclusive_group().add_argument
    add("-q", "--quiet", action="store_true", help="print failures only")
    add("-v", "--verbose", action="store_true", help="print each image")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Raises SystemExit for --help and malformed arguments."""
    args = parser().parse_args(argv)
    if args.zero_shot == "inpaint":
        parser().error("--zero-shot inpaint:MASK: name the file of the mask")
    if args.verbose and args.json == "-":
        parser().error("-v and --json - both print on stdout: leave out one of them")
    return args


def _add_restoring(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("restoration (default: the settings of the checkpoint)").add_argument
    weather = "label for networks with weather conditioning; auto: detect per image; unknown: no label (default auto)"
    zero_shot = (
        "with an unconditional --ckpt (configs/prior.yaml): inpaint:MASK (white: fill in), sr:FACTOR, deblur:SIGMA (in "
        "px) or colorize"
    )
    uncertainty = "also write per-pixel uncertainty (standard deviation over samples; white: 0.1) to OUT/uncertainty"
    dtypes = "auto: bfloat16 on GPUs and CPUs with hardware support, else float32"
    add("--quality", choices=QUALITIES, help="preset of steps, tiles and samples (docs/speed.md)")
    add("--weather", choices=WEATHERS, default="auto", help=weather)
    add("--zero-shot", metavar="TASK", help=zero_shot)
    add("--steps", "-s", type=count(1), metavar="N", help="sampling steps: network calls per image and sample")
    add("--sampler", choices=SAMPLERS)
    add("--seed", type=count(0), default=0, metavar="N", help="seed of the noise (default 0)")
    add("--n-samples", type=count(1), metavar="K", help="average K restorations of each image")
    add("--uncertainty", action="store_true", help=uncertainty)
    add("--tile", "-t", type=tile, default="auto", metavar="auto|0|N", help="side of a tile in px, 0: no tiles")
    add("--tile-overlap", type=count(0), metavar="N", help="overlap of tiles in px")
    add("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    add("--dtype", type=dtype, default="auto", metavar="auto|float32|bfloat16|float16", help=dtypes)
    add("--fp16", "--half", dest="dtype", action="store_const", const="float16", help="the same as --dtype float16")


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("files").add_argument
    endings = ("auto", "png", "jpg", "webp", "tif", "avif", "heic")
    quality = "quality of JPEG, WebP, AVIF and HEIC, 1 to 100 (default 95)"
    metadata = "strip: remove EXIF, XMP, IPTC and text (camera, place, time, author); the colour profile stays"
    add("--suffix", default="", metavar="TEXT", help="append TEXT to the file names, before the ending")
    add("--ext", choices=endings, default="auto", help="format of the outputs; auto: as the input")
    add("--jpeg-quality", type=count(1, 100), default=95, metavar="N", help=quality)
    add("--alpha", choices=("keep", "drop"), default="keep", help="drop: remove transparency, e.g. for JPEG")
    add("--metadata", choices=("keep", "strip"), default="keep", help=metadata)
    add("--overwrite", action="store_true", help="restore images that have an output again")
    add("--no-recursive", dest="recursive", action="store_false", help="do not enter subfolders")
    add("--max-pixels", type=pixels, default="200M", metavar="N", help="refuse larger images (default 200M)")
    add("--compare", action="store_true", help="also write degraded | restored to OUT/comparisons")
    add("--dry-run", action="store_true", help="list the outputs without writing them")


def _text_of_path(text: str) -> str:
    path(text)
    return text


def _report(text: str) -> str:
    if text != "-" and not text.lower().endswith(".json"):  # so that a typing error cannot replace a photograph
        raise argparse.ArgumentTypeError(f"must be -, or a file whose name ends in .json, got {printable(text)}")
    return text


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, such as 3/8, got {printable(text)}")
    return int(match[1]), int(match[2])


class Result(NamedTuple):
    """Result of one image; without output if it could not be planned."""

    source: Path
    output: Path | None
    status: str
    """RESTORED; SKIPPED: it has an output; FAILED: see `reason`; LEFT: the run ended before it."""
    reason: str = ""
    note: str = ""


@dataclass
class Tally:
    """Results so far, and why the run ended before all images were tried, or ""."""

    results: list[Result] = field(default_factory=list)
    stopped: str = ""
    unsupported: list[tuple[Path, str]] = field(default_factory=list)
    """Failures that are counted by format instead of listed."""

    def of(self, status: str) -> list[Result]:
        return [result for result in self.results if result.status == status]

    def add_left(self, plan: Plan) -> None:
        """Add the planned images without a result as LEFT."""
        known = {result.source for result in self.results}
        self.results += [Result(job.source, job.output, LEFT) for job in plan.jobs if job.source not in known]

    @property
    def exit_code(self) -> int:
        if self.stopped in (BY_USER, BY_SYSTEM):
            return INTERRUPTED if self.stopped == BY_USER else TERMINATED
        return SOME_FAILED if self.of(FAILED) else OK


def merged(tallies: Sequence[Tally]) -> Tally:
    """The results of all processes that shared the images."""
    results = sorted((result for tally in tallies for result in tally.results), key=lambda result: str(result.source))
    stopped = next((tally.stopped for tally in tallies if tally.stopped), "")
    return Tally(results, stopped, [failure for tally in tallies for failure in tally.unsupported])


def summarise(tally: Tally, output: Path, seconds: float, *, quiet: bool) -> None:
    """Print the failures and why the run ended, and unless `quiet`, notes and counts."""
    restored, failed, num_left = tally.of(RESTORED), tally.of(FAILED), len(tally.of(LEFT))
    if failed:
        unsupported = set(tally.unsupported)
        named = [f"  {r.source}: {r.reason}" for r in failed if (r.source, r.reason) not in unsupported]
        say("failed:", *named, *_counted(tally.unsupported, 0, " ignored"), to=sys.stderr)
    if tally.stopped == DISK_FULL:
        stopped = f"stopped, the disk is full, {num_left} images are left; restored before:"
        say(stopped, *(f"  {result.output}" for result in restored), to=sys.stderr)
    elif tally.stopped:
        say(f"{tally.stopped}, {num_left} images are left: run the same command again to continue", to=sys.stderr)
    if quiet:
        return
    if notes := [(result.source, result.note) for result in restored if result.note]:
        say("restored in part:", *_counted(notes, MAX_NAMED))
    counts = f"restored {len(restored)}, skipped {len(tally.of(SKIPPED))}, failed {len(failed)}"
    say(f"{counts} in {seconds:.1f} s -> {output}")


def _counted(remarks: list[tuple[Path, str]], max_named: int, what: str = "") -> list[str]:
    """Return lines `file: remark`; for more than `max_named` files with the same ending and remark, their number."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for file, remark in remarks:
        groups.setdefault((file.suffix.lower() or "without ending", remark), []).append(file)
    lines = []
    for (ending, remark), paths in groups.items():
        names = paths if len(paths) <= max_named else [f"{len(paths)} {ending}{what}"]
        lines += [f"  {name}: {remark}" for name in names]
    return lines


def write_report(tally: Tally, ignored: Counter[str], seconds: float, to: str) -> None:
    """Write JSON to a file, creating its folder, or to stdout if `to` is "-". Raises OSError.

    Bytes of a file name that are not UTF-8 are written as \\xNN.
    """
    images = [
        {
            "source": _text(result.source),
            "output": None if result.output is None else _text(result.output),
            "status": result.status,
            "reason": _text(result.reason) or None,
            "note": result.note or None,
        }
        for result in tally.results
    ]
    found: dict[str, Any] = {
        "restore_diff": __version__,
        "exit_code": tally.exit_code,
        "stopped": tally.stopped or None,
        "seconds": round(seconds, 3),
        "counts": {status: len(tally.of(status)) for status in (RESTORED, SKIPPED, FAILED, LEFT)},
        "ignored": {_text(kind): number for kind, number in ignored.items()},
        "images": images,
    }
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    if to == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(Path(to), text.encode())


def _text(value: Path | str) -> str:
    return os.fsencode(value).decode("utf-8", "backslashreplace")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code. Raises SystemExit for --help and malformed arguments."""
    args = parse(hyphenated(sys.argv[1:] if argv is None else argv))
    try:
        with logging_to_console(), _silent_decoders(), _terminable():
            return _run(args)
    except USER_ERRORS as error:
        return _bad_usage(error)
    except KeyboardInterrupt as signalled:  # before the first image
        terminated = isinstance(signalled, _Terminated)
        say(BY_SYSTEM if terminated else BY_USER, to=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    rank, num_ranks = 0, 1
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:  # set by torchrun
        rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    args.quiet = args.quiet or args.json == "-" or rank > 0
    plan = _plan(args, rank, num_ranks)
    sources = plan.sources
    if not (sources.images or sources.unreadable or sources.unsupported):
        supported = ", ".join(known.name for known in FORMATS.values() if not known.advice)
        return _bad_usage(f"no image in {', '.join(args.input)} ({_ignored(plan)}); supported: {supported}")
    tally = Tally([Result(job.source, job.output, SKIPPED) for job in plan.done])
    if rank == 0:  # found by all ranks, reported by one
        tally.unsupported = sources.unsupported
        failed = sources.unreadable + sources.unsupported
        tally.results += [Result(path, None, FAILED, reason) for path, reason in failed]
    if args.dry_run:
        if not args.quiet:
            _show(plan)
        tally.add_left(plan)
    else:
        tally = _restore_shared(plan, args, tally, num_ranks)
    if rank == 0:
        seconds = time.monotonic() - started
        if not args.dry_run:
            summarise(tally, args.output, seconds, quiet=args.quiet)
        if args.json:
            write_report(tally, plan.sources.ignored, seconds, args.json)
    return tally.exit_code


def _plan(args: argparse.Namespace, rank: int, num_ranks: int) -> Plan:
    number, total = args.shard
    return plan_jobs(
        args.input,
        args.output,
        Naming(args.ext, args.suffix),
        recursive=args.recursive,
        overwrite=args.overwrite,
        compare=args.compare,
        uncertainty=args.uncertainty,
        shard=Shard((number - 1) * num_ranks + rank, total * num_ranks),
    )


def _restore_shared(plan: Plan, args: argparse.Namespace, tally: Tally, num_ranks: int) -> Tally:
    """Restore the images of this process, and return the results of all processes."""
    if num_ranks == 1:
        _restore_planned(plan, args, tally)
        return tally
    from torch import distributed

    from restore_diff.distributed import OtherProcessFailed, joined

    with joined():  # wait for the others: torchrun ends all processes when one ends with an exit code
        _restore_planned(plan, args, tally)
        if tally.stopped in (BY_USER, BY_SYSTEM):
            return tally
        tallies = [tally] * num_ranks
        try:
            distributed.all_gather_object(tallies, tally)
        except RuntimeError as error:
            raise OtherProcessFailed("another process ended before its images were restored") from error
    return merged(tallies)


def _restore_planned(plan: Plan, args: argparse.Namespace, tally: Tally) -> None:
    remove_abandoned(plan.folders)
    if plan.sources.ignored and not args.quiet:
        say(_ignored(plan))
    if args.fail_fast and tally.of(FAILED):
        tally.stopped = AT_FAILURE
    elif plan.jobs:
        restore = _load(args)
        if args.zero_shot:
            from restore_diff.restoration.zero_shot import require_mask_fits

            require_mask_fits(args.zero_shot, [job.source for job in plan.jobs])
        _restore_jobs(plan, restore, args, tally)
    tally.add_left(plan)


def _load(args: argparse.Namespace) -> "Restore":
    """The restorer of the checkpoint, with settings overridden by the arguments."""
    gc.disable()  # importing torch creates no garbage; without collections it takes a seventh less time
    from torch import cat

    from restore_diff import trained
    from restore_diff.registry import load_plugins

    gc.enable()
    load_plugins(map(str, args.plugin))
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
        zero_shot=args.zero_shot,
    )
    if not args.quiet:
        say(description)
    if args.uncertainty:
        if restorer.samples.number < 2:
            raise UserError("--uncertainty needs several samples: add --n-samples 4")
        return lambda image, name: cat(restorer.restore_with_spread(image, names=[name], seed=args.seed))
    return lambda image, name: restorer.restore(image, names=[name], seed=args.seed)


def _restore_jobs(plan: Plan, restore: "Restore", args: argparse.Namespace, tally: Tally) -> None:
    from tqdm import tqdm

    from restore_diff.restoration.folder import DiskFull, Writing, restore_folder

    writing = Writing(
        args.jpeg_quality,
        keep_alpha=args.alpha == "keep",
        keep_grey=args.zero_shot != "colorize",
        keep_metadata=args.metadata == "keep",
    )
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


def _show(plan: Plan) -> None:
    say(*(f"{job.source} -> {path}" for job in plan.jobs for path in job.written))
    say(f"would restore {len(plan.jobs)}, skip {len(plan.done)} that have an output -> {plan.root}; {_ignored(plan)}")


def _ignored(plan: Plan) -> str:
    ignored = plan.sources.ignored
    kinds = ", ".join(f"{number} {kind}" for kind, number in ignored.most_common())
    return f"ignored {ignored.total()} that are not images" + (f": {kinds}" if kinds else "")


def _bad_usage(error: Exception | str) -> int:
    first, *more = error.args if isinstance(error, PlanError) else lines_of(error)
    if isinstance(error, BrokenPipeError):
        end_quietly()
    say(f"{program('restore.py')}: {first}", *more, to=sys.stderr)
    return BAD_USAGE


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends the run like Ctrl-C, so that finished images are listed."""


@contextmanager
def _terminable() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # only that thread can handle signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _silent_decoders() -> Iterator[None]:
    """Suppress warnings and logs of Pillow: problems of a file are in the result of its image."""
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        logger.removeHandler(handler)
