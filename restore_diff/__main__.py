"""python -m restore_diff TOOL: what is not training, testing or restoring."""

import importlib
import sys

TOOLS = {
    "datasets": "the known data sets, what of them is on this disk, and where to get the rest",
    "doctor": "what is wrong with this machine, or with a data set",
    "render": "degrade clean photographs with rendered weather, and write the pairs",
    "shard": "copy a data set of many small files into few tar files, for network disks",
    "import-ckpt": "turn another program's checkpoint into weights of this one",
    "export": "turn weights into a file for other programs",
}
USAGE = "usage: python -m restore_diff TOOL ...\n\n" + "\n".join(f"  {name:12}  {text}" for name, text in TOOLS.items())


def main(argv: list[str] | None = None) -> int:
    """Run one tool; the exit code is its own, 2 for a name that is none."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in TOOLS:
        tool = importlib.import_module(f"restore_diff.commands.{argv[0].replace('-', '_')}")
        return tool.main(argv[1:])
    asked = bool(argv) and argv[0] in ("-h", "--help")
    print(USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    raise SystemExit(main())
