"""python -m restore_diff COMMAND: the same as restore-diff COMMAND."""

from restore_diff.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
