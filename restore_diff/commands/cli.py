"""The command restore-diff: run a command by name. Only the chosen command is imported."""

import difflib
import importlib
import sys

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
}
"""Command -> (module in restore_diff.commands, with `:function` if that is not `main`; help)."""
USAGE = "usage: restore-diff COMMAND ...   (restore-diff COMMAND --help)\n\n" + "\n".join(
    f"  {name:12}  {text}" for name, (_, text) in COMMANDS.items()
)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; 2 for an unknown name."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"
        print(f"restore-diff: unknown command {argv[0][:80]!r}; {hint}", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[argv[0]][0].partition(":")
    command = getattr(importlib.import_module(f"restore_diff.commands.{module}"), function or "main")
    return command(argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
