"""restore-diff sample: draw new images from an unconditional network."""

import argparse
import sys
from pathlib import Path
from typing import Any

from restore_diff.commands.console import (
    BAD_USAGE,
    CHECKPOINT,
    INTERRUPTED,
    OK,
    PLUGIN,
    SAMPLERS,
    USER_ERRORS,
    complain,
    count,
    device,
    hyphenated,
    path,
    say,
)

PROGRAM = "restore-diff sample"
MAX_FRAMES = 50
FRAME_MS = 80
LAST_FRAME_MS = 2000


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code of the help text. Raises SystemExit for --help and malformed arguments."""
    args = parser().parse_args(hyphenated(sys.argv[1:] if argv is None else argv))
    try:
        return _sample(args)
    except (*USER_ERRORS, ValueError) as error:
        complain(PROGRAM, error)
        return BAD_USAGE
    except KeyboardInterrupt:
        complain(PROGRAM, "interrupted")
        return INTERRUPTED


def _sample(args: argparse.Namespace) -> int:
    from restore_diff import api, trained  # heavy
    from restore_diff.data.images import write_image
    from restore_diff.registry import load_plugins

    load_plugins(map(str, args.plugin))
    source = args.ckpt or trained.newest_run() or trained.SHIPPED_NAME
    settings = {"sampler.num_steps": args.steps, "sampler.name": args.sampler, "sampler.eta": args.eta}
    if args.eta is None and args.sampler not in (None, "ddim"):
        settings["sampler.eta"] = 0  # of the config, which is of ddim
    if args.guidance:
        if args.label is None:
            raise ValueError("--guidance: needs a --label to strengthen")
        settings |= {"sampler.guidance": "classifier_free", "sampler.guidance_options.scale": args.guidance}
    overrides = [f"{name}={value}" for name, value in settings.items() if value is not None]
    loaded = api.load(source, device=args.device, overrides=overrides)
    states: list[Any] = []
    keep = (lambda step, x_t, estimate: states.append(x_t)) if args.gif else None
    images = loaded.sample(args.num, args.size, args.label, args.seed, callback=keep)
    write_image(args.output, _grid(images))
    sampler = loaded.config.sampler
    say(f"{args.output}: {len(images)} images of {images.shape[-1]} px, {sampler.name} {sampler.num_steps} steps")
    if args.gif:
        codec = trained.codec(loaded.config)
        every = -(-len(states) // MAX_FRAMES)
        write_gif(args.gif, [*(codec.decode(x_t) for x_t in states[::every]), images])
        say(f"{args.gif}: from noise to images")
    return OK


def write_gif(file: Path, batches: list[Any]) -> None:
    """Write each batch (B,3,H,W) in [0, 1], e.g. x_t of each step, as one frame; the last one is shown longer."""
    import io

    from torchvision.transforms.functional import to_pil_image

    from restore_diff.files import replace_atomically

    first, *others = [to_pil_image(_grid(images)) for images in batches]
    encoded, durations = io.BytesIO(), [FRAME_MS] * len(others) + [LAST_FRAME_MS]
    first.save(encoded, "gif", save_all=True, append_images=others, duration=durations, loop=0)
    replace_atomically(file, encoded.getvalue())


def _grid(images: Any) -> Any:
    """(3,H,W) in [0, 1]: the images in a grid about as wide as high."""
    from torchvision.utils import make_grid

    return make_grid(images.clamp(0, 1).cpu(), nrow=round(len(images) ** 0.5), padding=2, pad_value=1.0)


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Draw new images from an unconditional network, e.g. one of configs/digits.yaml.",
        epilog="exit codes: 0 done, 2 bad usage, weights or files, 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--ckpt", type=path, metavar="PATH", help=CHECKPOINT)
    parser.add_argument("-o", "--output", type=path, required=True, metavar="FILE.png", help="all images in a grid")
    parser.add_argument("--gif", type=path, metavar="FILE.gif", help="also write the steps from noise to images")
    parser.add_argument("-n", "--num", type=count(1, 10_000), default=64, help="number of images (default: 64)")
    parser.add_argument("--size", type=count(1), metavar="PX", help="side (default: that of the training crops)")
    parser.add_argument("--label", help="a label of the network, e.g. 3 for digits (default: unknown)")
    guidance_help = "classifier-free guidance of strength W towards the label (default: 0, none)"
    parser.add_argument("--guidance", type=float, default=0.0, metavar="W", help=guidance_help)
    parser.add_argument("--seed", type=count(0), default=0, help="of the noise (default: 0)")
    parser.add_argument("--steps", type=count(1), help="sampling steps (default: as in the config)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: as in the config")
    parser.add_argument("--eta", type=float, help="ddim: 0 deterministic, 1 ancestral DDPM (default: as in the config)")
    parser.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    parser.add_argument("--plugin", type=path, action="append", default=[], metavar="FILE.py", help=PLUGIN)
    return parser
