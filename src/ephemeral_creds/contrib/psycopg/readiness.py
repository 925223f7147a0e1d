"""Waiting for connections to have something to read, or to be woken, in a pair.

`tools/make_sync.py` has the second one take the place of the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AsyncReadiness", "Readiness"]


class AsyncReadiness:
    """Waits in an event loop. `wake` may be called from any thread, and is not lost."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_due = False

    def wake(self) -> None:
        """Have `wait` return."""
        self._is_due = True
        if self._loop is not None:
            # Nothing waits in a closed loop.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._woken.set)

    async def wait(self, files: Sequence[int], timeout: float | None) -> None:
        """Wait until one of `files` can be read, for `timeout` seconds at most."""
        self._loop = asyncio.get_running_loop()
        for file in files:
            self._loop.add_reader(file, self._woken.set)
        try:
            # After the loop is known: a wake-up from now on sets the event.
            if not self._is_due:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self._woken.wait()
        finally:
            for file in files:
                self._loop.remove_reader(file)
            self._woken.clear()
            self._is_due = False

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class Readiness:
    """Waits in a thread. `wake` may be called from any other, and is not lost."""

    def __init__(self) -> None:
        self._out, self._in = socket.socketpair()
        self._out.setblocking(False)
        self._in.setblocking(False)

    def wake(self) -> None:
        """Have `wait` return."""
        # Full, it wakes as well; closed, there is nothing to wake.
        with contextlib.suppress(OSError):
            self._in.send(b"\0")

    def wait(self, files: Sequence[int], timeout: float | None) -> None:
        """Wait until one of `files` can be read, for `timeout` seconds at most."""
        with selectors.DefaultSelector() as selector:
            for file in (*files, self._out.fileno()):
                selector.register(file, selectors.EVENT_READ)
            selector.select(timeout)
        with contextlib.suppress(BlockingIOError):
            while self._out.recv(4096):
                pass

    def close(self) -> None:
        """Close what it is woken by."""
        self._out.close()
        self._in.close()
