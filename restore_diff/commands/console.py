"""What a command prints. A file may be named anything: its name must not move the cursor, nor end the program."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

from restore_diff.files import printable


def say(*lines: object, to: TextIO | None = None) -> None:
    """Print each line, on stdout when no stream is given, with what the stream cannot encode escaped too."""
    stream = to or sys.stdout
    encoding = stream.encoding or "utf-8"
    with tqdm.external_write_mode(stream):  # a progress bar steps aside
        for line in lines:
            stream.write(printable(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def lines_of(error: Exception | str) -> list[str]:
    """What an error says; of an OSError, the file and the reason."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    return text.splitlines() or [type(error).__name__]


def complain(program: str, error: Exception | str) -> None:
    """Print on stderr what is wrong, one line for each mistake."""
    say(*(f"{program}: {line}" for line in lines_of(error)), to=sys.stderr)


@contextmanager
def printing(enabled: bool) -> Iterator[None]:
    """Let nothing out on stdout, inside the block, unless `enabled`."""
    with contextlib.nullcontext() if enabled else contextlib.redirect_stdout(io.StringIO()):
        yield


class ConsoleHandler(logging.Handler):
    """Prints what the package logs."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), to=sys.stderr)


@contextmanager
def logging_to_console() -> Iterator[None]:
    """Print warnings of the package on stderr, inside the block."""
    logger, handler = logging.getLogger("restore_diff"), ConsoleHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
