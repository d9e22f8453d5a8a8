"""python -m restore_diff import-ckpt: another program's checkpoint becomes weights of this one."""

import argparse

from restore_diff.commands.console import BAD_USAGE, OK, complain, path, say

PROGRAM = "restore_diff import-ckpt"


def main(argv: list[str]) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    args = _parse(argv)
    from restore_diff.checkpoint import WeightsError, save_weights
    from restore_diff.config import to_dict  # heavy, as are those that follow
    from restore_diff.interop.weatherdiffusion import read_weatherdiffusion

    try:
        if args.output.exists() and not args.overwrite:
            complain(PROGRAM, f"{args.output} exists already; --overwrite replaces it")
            return BAD_USAGE
        imported = read_weatherdiffusion(args.file)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        save_weights(args.output, imported.tensors, to_dict(imported.config), imported.step)
    except (WeightsError, OSError) as error:
        complain(PROGRAM, error)
        return BAD_USAGE
    millions = sum(tensor.numel() for tensor in imported.tensors.values()) / 1e6
    tile = imported.config.tiling.tile_size_px
    say(f"{args.output}: {millions:.1f} M parameters, for tiles of {tile} px, step {imported.step}")
    say(f"next    python restore.py -i your_photos -o restored --ckpt {args.output}")
    return OK


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Read another program's checkpoint, running nothing in it, and write safetensors with a config.",
        epilog="exit codes: 0 done, 2 bad usage or a file that is no such checkpoint",
        allow_abbrev=False,
    )
    parser.add_argument("format", choices=["weatherdiffusion"], help="whose checkpoint it is")
    parser.add_argument("file", type=path, help="for instance WeatherDiff64.pth.tar")
    parser.add_argument("-o", "--output", type=path, required=True, metavar="FILE", help="model.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE where it exists")
    return parser.parse_args(argv)
