"""Restore photographs: python restore.py -i photos/ -o restored/"""

import gc

from restore_diff.commands.restore import main

if __name__ == "__main__":
    exit_code = main()
    gc.freeze()  # what is left now goes with the process: to search it for garbage first takes half a second
    raise SystemExit(exit_code)
