"""Restore photographs: python restore.py -i photos/ -o restored/"""

import gc

from restore_diff.commands.restore import main

if __name__ == "__main__":
    exit_code = main()
    gc.freeze()  # saves half a second of garbage collection at exit
    raise SystemExit(exit_code)
