"""restore-diff export and import-ckpt: convert weights to and from the files of other programs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from restore_diff.commands.console import CHECKPOINT, OK, PLUGIN, path, run_command, say
from restore_diff.errors import UserError

if TYPE_CHECKING:
    from restore_diff.checkpoint import Weights
    from restore_diff.config import ExperimentConfig

EXPORT = "restore-diff export"
IMPORT = "restore-diff import-ckpt"


def main(argv: list[str]) -> int:
    """Run export; its help lists the exit codes. Raises SystemExit for --help and malformed arguments."""
    args = parser().parse_args(argv)
    if args.format != "safetensors" and (args.half or args.card):
        parser().error("--half and --card are for safetensors")
    return run_command(EXPORT, lambda: _export(args))


def _export(args: argparse.Namespace) -> int:
    _check_output(args.output, args.overwrite, is_folder=args.format == "diffusers")
    import torch  # slow, as are those that follow

    from restore_diff.interop.onnx import require_onnx
    from restore_diff.registry import load_plugins
    from restore_diff.trained import load_experiment, trained_network

    if args.format == "onnx":
        require_onnx()
    load_plugins(map(str, args.plugin))
    source, config, weights = load_experiment(args.ckpt)
    say(f"weights {source} (step {weights.step})")
    trained_network(config, weights, torch.device("cpu"))  # raises an error for weights of another network
    EXPORTS[args.format](args, config, weights)
    return OK


def import_main(argv: list[str]) -> int:
    """Run import-ckpt; its help lists the exit codes. Raises SystemExit for --help and malformed arguments."""
    args = import_parser().parse_args(argv)
    return run_command(IMPORT, lambda: _import(args))


def _import(args: argparse.Namespace) -> int:
    _check_output(args.output, args.overwrite, is_folder=False)
    import torch  # slow, as are those that follow

    from restore_diff.checkpoint import Weights, save_weights
    from restore_diff.config import to_dict
    from restore_diff.interop.diffusers import read_diffusers
    from restore_diff.interop.weatherdiffusion import read_weatherdiffusion
    from restore_diff.trained import trained_network

    read = {"weatherdiffusion": read_weatherdiffusion, "diffusers": read_diffusers}[args.format]
    tensors, config, step = read(args.file)
    trained_network(config, Weights(tensors, {}, step), torch.device("cpu"))  # raises an error for other weights
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_weights(args.output, tensors, to_dict(config), step)
    millions = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    tile = config.tiling.tile_size_px
    sizes = f"for tiles of {tile} px" if tile else "for whole images"
    say(f"{args.output}: {millions:.1f} M parameters, {sizes}, step {step}")
    if config.model.condition_channels:
        say(f"next    restore-diff restore -i your_photos -o restored --ckpt {args.output}")
    else:
        say(f"next    restore-diff sample --ckpt {args.output} -o samples.png")
    return OK


def _to_onnx(args: argparse.Namespace, config: "ExperimentConfig", weights: "Weights") -> None:
    import torch

    from restore_diff import build
    from restore_diff.files import replace_atomically
    from restore_diff.interop.onnx import sampling_metadata, to_onnx
    from restore_diff.trained import trained_network

    model = trained_network(config, weights, torch.device("cpu"))
    alpha_bar = build.schedule(config).alpha_bar
    exported = to_onnx(model, sampling_metadata(config, alpha_bar, model.size_multiple, weights.step))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(args.output, exported.content)
    say(
        f"checked by onnxruntime at two sizes and two batch sizes: within {exported.difference:.1e} of torch, "
        "relative to the largest output",
        f"{args.output}: x_t, t, degraded -> output; sizes in multiples of {model.size_multiple}, range -1 to 1",
    )


def _to_diffusers(args: argparse.Namespace, config: "ExperimentConfig", weights: "Weights") -> None:
    from restore_diff.interop.diffusers import save_diffusers

    samples = save_diffusers(args.output, config, weights)
    sample = "torch.cat([degraded, x_t], dim=1)" if config.model.condition_channels else "x_t"
    say(f"{args.output}: diffusers.UNet2DModel.from_pretrained; its sample is {sample}")
    if samples:
        say("and diffusers.DDIMPipeline.from_pretrained, which samples images")


def _to_safetensors(args: argparse.Namespace, config: "ExperimentConfig", weights: "Weights") -> None:
    from restore_diff.checkpoint import save_weights
    from restore_diff.config import to_dict

    card = args.card.read_text(encoding="utf-8") if args.card else ""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_weights(args.output, weights.tensors, to_dict(config), weights.step, args.half, card)
    say(f"{args.output}: restore-diff restore -i your_photos -o restored --ckpt {args.output}")


EXPORTS = {"onnx": _to_onnx, "diffusers": _to_diffusers, "safetensors": _to_safetensors}


def _check_output(output: Path, overwrite: bool, is_folder: bool) -> None:
    """Raise UserError if nothing can be written to `output`."""
    if output.is_dir() and not is_folder:
        raise UserError(f"{output} is a folder; -o names a file")
    if output.is_file() and is_folder:
        raise UserError(f"{output} is a file; -o names a folder")
    if not overwrite and (any(output.iterdir()) if output.is_dir() else output.exists()):
        raise UserError(f"{output} exists already; --overwrite replaces it")


def parser() -> argparse.ArgumentParser:
    """The arguments of export, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=EXPORT,
        description="Write the averaged weights of a run for other programs.",
        epilog="exit codes: 0 done, 2 bad usage, unreadable weights, or a network that the format does not support",
        allow_abbrev=False,
    )
    parser.add_argument(
        "format",
        choices=list(EXPORTS),
        help="onnx: one file, checked against torch; diffusers: a folder for UNet2DModel, and for DDIMPipeline if "
        "unconditional; safetensors: one file for restore.py and test.py",
    )
    parser.add_argument("--ckpt", type=path, metavar="PATH", help=CHECKPOINT)
    parser.add_argument("--plugin", type=path, action="append", default=[], metavar="FILE", help=PLUGIN)
    parser.add_argument("-o", "--output", type=path, required=True, metavar="PATH", help="file or folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--half", action="store_true", help="safetensors: store float16, half the size")
    parser.add_argument("--card", type=path, metavar="FILE", help="safetensors: store this model card in the file")
    return parser


def import_parser() -> argparse.ArgumentParser:
    """The arguments of import-ckpt."""
    parser = argparse.ArgumentParser(
        prog=IMPORT,
        description="Convert another program's checkpoint to safetensors with a config, without running code in it.",
        epilog="exit codes: 0 done, 2 bad usage or not such a checkpoint",
        allow_abbrev=False,
    )
    programs = ["weatherdiffusion", "diffusers"]
    parser.add_argument("format", choices=programs, help="program that wrote the checkpoint")
    files = "checkpoint, for instance WeatherDiff64.pth.tar; of diffusers, a folder with a UNet2DModel"
    parser.add_argument("file", type=path, help=files)
    parser.add_argument("-o", "--output", type=path, required=True, metavar="FILE", help="model.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing FILE")
    return parser
