"""python train.py: a config and pairs go in, a run folder with trained weights and a scored test set comes out."""

import argparse
import sys

from restore_diff.commands.arguments import device, hyphenated
from restore_diff.commands.console import say
from restore_diff.config import ConfigError, load_config, to_yaml

OK, BAD_USAGE = 0, 2


def main(argv: list[str] | None = None) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    argv = hyphenated(sys.argv[1:] if argv is None else argv)
    args = _parse(argv)
    try:
        config = load_config(args.cfg, args.overrides)
    except ConfigError as error:
        say(*(f"train.py: {problem}" for problem in error.problems), to=sys.stderr)
        return BAD_USAGE
    if args.print_config:
        print(to_yaml(config), end="")
        return OK
    from restore_diff.commands.training_run import train  # heavy

    return train(config, args, ["train.py", *argv])


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train on pairs, then score the test set. The same command again goes on where it stopped.",
        epilog="exit codes: 0 done, 2 bad usage, config, data or checkpoint, 4 training could not go on (values not "
        "finite, disk full), 130 Ctrl-C and 143 SIGTERM, both after saving",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--cfg",
        action="append",
        required=True,
        metavar="FILE",
        help="a YAML file, looked for here and in configs/; may be given again, later files win",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="win over the files")
    parser.add_argument("--fresh", action="store_true", help="start anew; an earlier run of this name is set aside")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    parser.add_argument("--dry-run", action="store_true", help="build everything, say memory and time, and stop")
    parser.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    return parser.parse_intermixed_args(argv)
