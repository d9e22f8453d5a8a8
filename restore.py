"""Restore photographs: python restore.py -i photos/ -o restored/"""

from restore_diff.commands.restore import main

if __name__ == "__main__":
    raise SystemExit(main())
