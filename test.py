"""Score a trained network on its test sets: python test.py"""

from restore_diff.commands.test import main

if __name__ == "__main__":
    raise SystemExit(main())
