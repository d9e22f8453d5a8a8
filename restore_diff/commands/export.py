"""python -m restore_diff export: the averaged weights of a run become a file for other programs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from restore_diff.commands.console import BAD_USAGE, CHECKPOINT, INTERRUPTED, OK, complain, path, say

if TYPE_CHECKING:
    from restore_diff.checkpoint import Weights
    from restore_diff.config import ExperimentConfig

PROGRAM = "restore_diff export"


def main(argv: list[str]) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    args = _parse(argv)
    if problem := _in_the_way(args):
        complain(PROGRAM, problem)
        return BAD_USAGE
    import torch  # heavy, as are those that follow

    from restore_diff.commands.console import USER_ERRORS
    from restore_diff.interop.diffusers import DiffusersError
    from restore_diff.interop.onnx import OnnxError, require_onnx
    from restore_diff.trained import load_experiment, trained_network

    try:
        if args.format == "onnx":
            require_onnx()
        source, config, weights = load_experiment(args.ckpt)
        say(f"weights {source} (step {weights.step})")
        trained_network(config, weights, torch.device("cpu"))  # refuses weights of another network
        EXPORTS[args.format](args, config, weights)
    except (*USER_ERRORS, DiffusersError, OnnxError) as error:
        complain(PROGRAM, error)
        return BAD_USAGE
    except KeyboardInterrupt:
        complain(PROGRAM, "interrupted")
        return INTERRUPTED
    return OK


def _to_onnx(args: argparse.Namespace, config: "ExperimentConfig", weights: "Weights") -> None:
    import torch

    from restore_diff import build
    from restore_diff.files import replace_atomically
    from restore_diff.interop.onnx import sampling_notes, to_onnx
    from restore_diff.trained import trained_network

    model = trained_network(config, weights, torch.device("cpu"))
    alpha_bar = build.schedule(config).alpha_bar
    exported = to_onnx(model, sampling_notes(config, alpha_bar, model.size_multiple, weights.step))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(args.output, exported.content)
    say(
        f"checked by onnxruntime at two sizes and two batch sizes: at most {exported.difference:.1e} of the "
        "output's scale from torch",
        f"{args.output}: x_t, t, degraded -> output; sizes in multiples of {model.size_multiple}, range -1 to 1",
    )


def _to_diffusers(args: argparse.Namespace, config: "ExperimentConfig", weights: "Weights") -> None:
    from restore_diff.interop.diffusers import save_diffusers

    save_diffusers(args.output, config, weights)
    say(f"{args.output}: diffusers.UNet2DModel.from_pretrained; its sample is torch.cat([degraded, x_t], dim=1)")


def _to_safetensors(args: argparse.Namespace, config: "ExperimentConfig", weights: "Weights") -> None:
    from restore_diff.checkpoint import save_weights
    from restore_diff.config import to_dict

    output: Path = args.output
    output.parent.mkdir(parents=True, exist_ok=True)
    card = args.card.read_text(encoding="utf-8") if args.card else ""
    save_weights(output, weights.tensors, to_dict(config), weights.step, args.half, card)
    say(f"{output}: python restore.py -i your_photos -o restored --ckpt {output}")


EXPORTS = {"onnx": _to_onnx, "diffusers": _to_diffusers, "safetensors": _to_safetensors}


def _in_the_way(args: argparse.Namespace) -> str:
    """What stands where the output is to go; empty where nothing does."""
    output: Path = args.output
    is_folder = args.format == "diffusers"
    if output.is_dir() and not is_folder:
        return f"{output} is a folder; -o names a file"
    if output.is_file() and is_folder:
        return f"{output} is a file; -o names a folder"
    taken = output.is_dir() and any(output.iterdir()) if is_folder else output.exists()
    return f"{output} exists already; --overwrite replaces it" if taken and not args.overwrite else ""


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Write the averaged weights of a run for other programs.",
        epilog="exit codes: 0 done, 2 bad usage, weights that cannot be read, or a format that cannot hold them",
        allow_abbrev=False,
    )
    parser.add_argument(
        "format",
        choices=list(EXPORTS),
        help="onnx: one file, checked against torch; diffusers: a folder for UNet2DModel; "
        "safetensors: one file that restore.py and test.py read",
    )
    parser.add_argument("--ckpt", type=path, metavar="PATH", help=CHECKPOINT)
    parser.add_argument("-o", "--output", type=path, required=True, metavar="PATH", help="file or folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what stands at the output")
    parser.add_argument("--half", action="store_true", help="safetensors: half the size, as float16")
    parser.add_argument("--card", type=path, metavar="FILE", help="safetensors: a model card to put into the file")
    args = parser.parse_args(argv)
    if args.format != "safetensors" and (args.half or args.card):
        parser.error("--half and --card are for safetensors")
    return args
