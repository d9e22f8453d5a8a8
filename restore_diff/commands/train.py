"""train.py and restore-diff train: train on pairs, then score the test set."""

import argparse
import sys

from restore_diff.commands.console import BAD_USAGE, INTERRUPTED, OK, complain, device, hyphenated, program
from restore_diff.config import ConfigError, load_config, to_yaml


def main(argv: list[str] | None = None) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    argv = hyphenated(sys.argv[1:] if argv is None else argv)
    args = parser().parse_intermixed_args(argv)
    try:
        config = load_config(args.cfg, args.overrides)
    except ConfigError as error:
        complain("train.py", error)
        return BAD_USAGE
    if args.print_config:
        print(to_yaml(config), end="")
        return OK
    try:
        from restore_diff.commands.training_run import train  # heavy

        return train(config, args, ["train.py", *argv])
    except KeyboardInterrupt:  # before or after the training itself, which saves first
        complain("train.py", "interrupted; the same command goes on from here")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=program("train.py"),
        description="Train on pairs, then score the test set. The same command again goes on where it stopped.",
        epilog="exit codes: 0 done, 2 bad usage, config, data, checkpoint or files, 4 training could not go on (values "
        "not finite, disk or memory full, a data worker or another process gone), 130 Ctrl-C and 143 SIGTERM, both "
        "after saving",
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
    return parser
