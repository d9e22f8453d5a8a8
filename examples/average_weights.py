"""Average the weights of several runs of one network, where one run started from another.

python examples/average_weights.py runs/a runs/b -o mean.safetensors

The mean is often better than each (Wortsman et al., "Model soups", ICML 2022), because runs from one start lie in the
same basin of the loss. The file has the config of the last run.
"""

import argparse
from pathlib import Path

import torch

from restore_diff.checkpoint import WeightsError, save_weights
from restore_diff.commands.console import BAD_USAGE, OK, USER_ERRORS, complain
from restore_diff.config import to_dict
from restore_diff.trained import load_experiment


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("weights", nargs="+", type=Path, help="run folders, checkpoints or weights files")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.safetensors")
    args = parser.parse_args(argv)
    try:
        average(args.weights, args.output)
        return OK
    except USER_ERRORS as error:
        complain("average_weights.py", error)
        return BAD_USAGE


def average(paths: list[Path], output: Path) -> None:
    """Write the mean to `output`. Raises WeightsError for unreadable files or different networks."""
    found = [load_experiment(path) for path in paths]
    _, config, last = found[-1]
    for path, of_path, _ in found:
        if of_path.model != config.model:
            raise WeightsError(f"{path}: its network (`model`) differs from that of {paths[-1]}")
    mean = {
        name: torch.stack([weights.tensors[name].float() for _, _, weights in found]).mean(0) for name in last.tensors
    }
    save_weights(output, mean, to_dict(config), last.step)


if __name__ == "__main__":
    raise SystemExit(main())
