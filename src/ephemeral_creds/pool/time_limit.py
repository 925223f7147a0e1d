"""Ending the line to a server that does not answer, or whose time is up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

import psycopg

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TimeLimit", "hang_up"]


def hang_up(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Shut the line of `connection` down, which another thread may be using.

    Not ``close()``: libpq is not made for being closed while it is used.

    Raises:
        psycopg.Error, OSError: there is no line any more.
    """
    with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line:
        # Closed meanwhile, its number may be that of another one.
        if not connection.closed:
            line.shutdown(socket.SHUT_RDWR)


class TimeLimit:
    """The block's query on `connection` fails unless it is answered in time.

    psycopg's own timeouts end with the login, and ``statement_timeout`` is up to a server that
    may not hear of it.

    Args:
        connection: it cannot be used again if there was no answer.
        seconds: how long the block may take.
    """

    def __init__(
        self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], seconds: float
    ) -> None:
        self._connection = connection
        self._seconds = seconds
        self._lock = threading.Lock()
        self._open = True
        self._late = False
        self._clock: threading.Timer | asyncio.TimerHandle

    def __enter__(self) -> Self:
        if isinstance(self._connection, psycopg.AsyncConnection):
            loop = asyncio.get_running_loop()
            self._clock = loop.call_later(self._seconds, self._end)
        else:
            self._clock = timer = threading.Timer(self._seconds, self._end)
            timer.daemon = True
            timer.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clock.cancel()
        with self._lock:
            self._open = False
        if self._late and exc is None:
            raise psycopg.OperationalError(f"no answer within {self._seconds:.3g} s")

    def _end(self) -> None:
        with self._lock:
            if self._open:
                self._late = True
                with contextlib.suppress(psycopg.Error, OSError):
                    hang_up(self._connection)
