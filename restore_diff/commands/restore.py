"""python restore.py: a photograph, a folder or a tree of folders goes in, restored images of the same size come out."""

import argparse
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from restore_diff.commands.arguments import count, device, dtype, hyphenated, path, pixels, tile
from restore_diff.commands.console import lines_of, logging_to_console, say
from restore_diff.commands.exit_codes import BAD_USAGE, INTERRUPTED, OK, SOME_FAILED
from restore_diff.restoration.job_plan import Naming, Plan, PlanError, plan_folder

if TYPE_CHECKING:
    from restore_diff.restoration.folder import Restore

SAMPLERS = ("ddim",)


@dataclass
class Tally:
    """What became of the images of a run, and why it ended before all were tried, if it did."""

    num_left: int
    failed: list[tuple[Path, str]]
    restored: list[Path] = field(default_factory=list)
    disk_full: bool = False
    interrupted: bool = False


def main(argv: list[str] | None = None) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    args = _parse(argv)
    try:
        with logging_to_console():
            return _run(args)
    except KeyboardInterrupt:
        say("interrupted", to=sys.stderr)
        return INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    try:
        plan = plan_folder(
            args.input,
            args.output,
            Naming(args.ext, args.suffix),
            _is_image,
            recursive=args.recursive,
            overwrite=args.overwrite,
            compare=args.compare,
        )
    except (PlanError, OSError) as error:
        return _bad_usage(error)
    tally = Tally(num_left=len(plan.jobs), failed=[*plan.scan.unreadable])
    if not plan.scan.images and not tally.failed:
        return _bad_usage(f"no image in {args.input} ({_ignored(plan)}); PNG, JPEG, WebP, TIFF, BMP and GIF are read")
    if args.dry_run:
        return _show(plan)
    if plan.scan.ignored and not args.quiet:
        say(_ignored(plan))
    if plan.jobs:
        from restore_diff.commands.errors import USER_ERRORS  # heavy

        try:
            restore = _load(args)
        except USER_ERRORS as error:
            return _bad_usage(error)
        _restore_all(plan, restore, args, tally)
    return _conclude(plan, tally, args, time.monotonic() - started)


def _is_image(path: Path) -> bool:
    from restore_diff.data.images import is_image  # heavy, and needed only for files without the ending of an image

    return is_image(path)


def _load(args: argparse.Namespace) -> "Restore":
    """Build the restorer of the checkpoint, with what the arguments override of its config."""
    from restore_diff import trained

    restorer, description = trained.load_restorer(
        args.ckpt,
        device=args.device,
        precision=args.dtype,
        num_steps=args.steps,
        sampler=args.sampler,
        tile_size_px=None if args.tile == "auto" else args.tile,
        tile_overlap_px=args.tile_overlap,
    )
    if not args.quiet:
        say(description)
    return lambda image, name: restorer.restore(image, names=[name], seed=args.seed)


def _restore_all(plan: Plan, restore: "Restore", args: argparse.Namespace, tally: Tally) -> None:
    from tqdm import tqdm

    from restore_diff.restoration.folder import DiskFull, restore_folder

    outcomes = restore_folder(plan.jobs, restore, args.max_pixels, args.quality)
    with closing(outcomes), tqdm(total=len(plan.jobs), unit="image", disable=args.quiet or None) as bar:
        try:
            for outcome in outcomes:
                tally.num_left -= 1
                if outcome.reason:
                    tally.failed.append((outcome.job.source, outcome.reason))
                else:
                    tally.restored.append(outcome.job.output)
                if args.verbose:
                    say(f"{outcome.job.source} -> {outcome.reason or outcome.job.output}")
                bar.update()
        except DiskFull:
            tally.disk_full = True
        except KeyboardInterrupt:
            tally.interrupted = True


def _conclude(plan: Plan, tally: Tally, args: argparse.Namespace, seconds: float) -> int:
    """Print what became of the images, and return the exit code that says it."""
    if tally.failed:
        say("failed:", *(f"  {path}: {reason}" for path, reason in tally.failed), to=sys.stderr)
    if tally.disk_full:
        left = f"stopped, the disk is full, {tally.num_left} images are left; restored before:"
        say(left, *(f"  {path}" for path in tally.restored), to=sys.stderr)
    if tally.interrupted:
        say(f"interrupted, {tally.num_left} images are left: the same command goes on from here", to=sys.stderr)
    if not args.quiet:
        counts = f"restored {len(tally.restored)}, skipped {len(plan.done)}, failed {len(tally.failed)}"
        say(f"{counts} in {seconds:.1f} s -> {args.output}")
    if tally.interrupted:
        return INTERRUPTED
    return SOME_FAILED if tally.failed else OK


def _show(plan: Plan) -> int:
    say(*(f"{job.source} -> {path}" for job in plan.jobs for path in job.written))
    say(f"would restore {len(plan.jobs)}, skip {len(plan.done)} that have an output -> {plan.root}; {_ignored(plan)}")
    return OK


def _ignored(plan: Plan) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in plan.scan.ignored.most_common())
    return f"ignored {plan.scan.ignored.total()} that are no images" + (f": {kinds}" if kinds else "")


def _bad_usage(error: Exception | str) -> int:
    lines = error.args if isinstance(error, PlanError) else lines_of(error)
    say(*(f"{'restore.py: ' if number == 0 else ''}{line}" for number, line in enumerate(lines)), to=sys.stderr)
    return BAD_USAGE


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="restore.py",
        description="Restore a photograph, a folder, or a tree of folders. What is restored already is skipped.",
        epilog="exit codes: 0 all restored, 2 bad usage, 3 some images failed (listed at the end), 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("-i", "--input", type=path, required=True, metavar="IN", help="an image or a folder")
    parser.add_argument(
        "-o",
        "--output",
        type=path,
        required=True,
        metavar="OUT",
        help="a folder, or a file for a single image",
    )
    parser.add_argument("--ckpt", type=path, metavar="PATH", help="checkpoint or run folder (default: the newest run)")

    how = parser.add_argument_group("how it is restored (default: as the checkpoint's config says)")
    how.add_argument("--steps", type=count(1), metavar="N", help="network calls per image")
    how.add_argument("--sampler", choices=SAMPLERS)
    how.add_argument(
        "--seed", type=count(0), default=0, metavar="N", help="another seed gives another sample (default 0)"
    )
    how.add_argument("--tile", type=tile, default="auto", metavar="auto|0|N", help="side of a tile in px, 0: no tiles")
    how.add_argument("--tile-overlap", type=count(0), metavar="N", help="overlap of tiles in px")
    how.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    how.add_argument("--dtype", type=dtype, default="auto", metavar="auto|float32|bfloat16|float16")

    files = parser.add_argument_group("files")
    files.add_argument("--suffix", default="", metavar="TEXT", help="added to the names, before the ending")
    files.add_argument(
        "--ext", choices=("auto", "png", "jpg", "webp", "tif"), default="auto", help="auto: as the input"
    )
    files.add_argument(
        "--quality", type=count(1, 100), default=95, metavar="N", help="of JPEG and WebP, 1 to 100 (default 95)"
    )
    files.add_argument("--overwrite", action="store_true", help="restore again what has an output")
    files.add_argument("--no-recursive", dest="recursive", action="store_false", help="no subfolders")
    files.add_argument(
        "--max-pixels",
        type=pixels,
        default="200M",
        metavar="N",
        help="refuse larger images (default 200M)",
    )
    files.add_argument("--compare", action="store_true", help="also write degraded | restored to OUT/comparisons")
    files.add_argument("--dry-run", action="store_true", help="list what would be written, and where")
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    talk.add_argument("-v", "--verbose", action="store_true", help="print each image")
    return parser.parse_args(hyphenated(sys.argv[1:] if argv is None else argv))
