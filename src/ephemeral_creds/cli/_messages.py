"""Results on stdout, and errors on stderr, each in one line."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OutputLost", "flush", "print_error", "print_note", "print_result"]

_PSYCOPG = "install libpq, or psycopg with its own: pip install 'psycopg[binary]'"


class OutputLost(Exception):
    """Standard output cannot be written."""


def print_note(command: str, text: str) -> None:
    """Print on stderr what happens, or what is to be known."""
    print(f"ephemeral-creds {command}: {text}", file=sys.stderr, flush=True)


def print_error(command: str, error: Exception | str, *, debug: bool = False) -> None:
    """Print on stderr why a command fails, in one line.

    Args:
        command: which.
        error: the reason.
        debug: whether to print the traceback as well. It shows lines of code and messages, no
            values, and the library's errors have no secret in their chain either.
    """
    if debug and isinstance(error, Exception):
        traceback.print_exception(error)
    print_note(command, f"error: {_one_line(error)}")


def print_result(text: str) -> None:
    """Print on stdout what the command is for.

    Raises:
        BrokenPipeError: the reader has gone.
        OutputLost: it could not be written.
    """
    if sys.stdout is None:
        raise OutputLost("standard output is closed: redirect it, to /dev/null for example")
    with _written():
        print(text)
    flush()


def flush() -> None:
    """Write what is still to be written to stdout.

    Not left to the interpreter's end, where an error can no longer be reported.

    Raises:
        BrokenPipeError: the reader has gone.
        OutputLost: it could not be written.
    """
    if sys.stdout is not None:
        with _written():
            sys.stdout.flush()


@contextlib.contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is still in the buffer would be written once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputLost(f"standard output cannot be written: {error.strerror}") from None


def _one_line(error: Exception | str) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, ImportError) and (
        # psycopg's own list of the ways in which it tried to load libpq.
        "pq wrapper" in text or "psycopg" in text
    ):
        text = f"psycopg cannot be used ({text}): {_PSYCOPG}"
    return " ".join(text.split()) or type(error).__name__
