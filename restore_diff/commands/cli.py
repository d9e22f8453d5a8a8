"""The command restore-diff: run a command by name. Only the chosen command is imported."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Callable
from typing import Any

COMMANDS = {
    "train": ("train", "train on pairs, then score the test set"),
    "test": ("test", "score a trained network, or finished images"),
    "restore": ("restore", "restore photographs"),
    "sample": ("sample", "draw new images from an unconditional network"),
    "app": ("app", "restore photographs in a browser, and look at training runs"),
    "datasets": ("datasets", "list the known data sets, their state on this disk, and their sources"),
    "doctor": ("doctor", "check this machine, or a data set"),
    "render": ("render", "render weather on clean photographs and write the pairs"),
    "shard": ("shard", "pack many small files into few zip files, for network disks"),
    "import-ckpt": ("export:import_main", "convert a checkpoint of another program"),
    "export": ("export", "export weights for other programs"),
    "completion": ("cli:completion_main", "print a script for bash, zsh or fish that completes arguments by Tab"),
}
"""Command -> (module in restore_diff.commands, with `:function` if that is not `main`; help). `parser`, or
`import_parser` for `import_main`, returns its arguments."""
USAGE = "usage: restore-diff COMMAND ...   (restore-diff COMMAND --help)\n\n" + "\n".join(
    f"  {name:12}  {text}" for name, (_, text) in COMMANDS.items()
)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; 2 for an unknown name. Raises SystemExit as the commands do."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        from restore_diff.commands.console import end_quietly

        end_quietly()


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"
        print(f"restore-diff: unknown command {argv[0][:80]!r}; {hint}", file=sys.stderr)
        return 2
    return _function(argv[0])(argv[1:])


def _function(command: str, wanted: str = "main") -> Callable[..., Any]:
    """`main` of a command, or `parser`."""
    module, _, function = COMMANDS[command][0].partition(":")
    name = (function or "main").replace("main", wanted)
    return getattr(importlib.import_module(f"restore_diff.commands.{module}"), name)


def completion_main(argv: list[str]) -> int:
    """Print the script for one shell. Raises SystemExit for --help and malformed arguments."""
    from restore_diff.commands.console import BAD_USAGE, OK, complain, path

    shell = completion_parser().parse_args(argv).shell
    try:
        import shtab
    except ImportError:
        complain("restore-diff completion", 'shtab is missing: pip install "restore_diff[completion]"')
        return BAD_USAGE
    whole = argparse.ArgumentParser(prog="restore-diff")
    subparsers = whole.add_subparsers()
    for name, (_, text) in COMMANDS.items():
        of_command = _function(name, "parser")()
        for argument in of_command._actions:
            if argument.type is path or argument.dest == "input":
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
        subparsers.add_parser(name, help=text, description=text, parents=[of_command], add_help=False)
    print(shtab.complete(whole, shell))
    return OK


def completion_parser() -> argparse.ArgumentParser:
    """The arguments of completion."""
    parser = argparse.ArgumentParser(
        prog="restore-diff completion",
        description="Print a completion script, e.g. for bash: "
        "restore-diff completion bash > ~/.local/share/bash-completion/completions/restore-diff",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
