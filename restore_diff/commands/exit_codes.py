"""What the commands end with; each command's help says which of these it uses."""

OK = 0
BAD_USAGE = 2
"""The user can mend it: arguments, config, data, checkpoint, files. argparse ends with the same number."""
SOME_FAILED = 3
STOPPED = 4
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
TERMINATED = 143
"""128 + SIGTERM."""
