"""Threads that do something without a pause: query a pool, or send requests to a service."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from minting import PATIENCE
from twins import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Load", "add_and_read"]


class Load:
    """Operations without a pause, until the block ends; each failure is kept.

    Args:
        operation: what each worker does again and again.
        pause: seconds between two of its operations.
    """

    def __init__(
        self, operation: Callable[[], object], workers: int = 4, *, pause: float = 0.01
    ) -> None:
        self.succeeded = 0
        self.failures: list[str] = []
        self._operation, self._pause = operation, pause
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def goes_on(self, more: int = 20) -> None:
        """Wait until some more operations have succeeded, or one has failed."""
        wanted = self.succeeded + more
        wait_until(lambda: self.failures or self.succeeded >= wanted, "operations")

    def _work(self) -> None:
        while not self._done.wait(self._pause):
            try:
                self._operation()
            except Exception as error:
                self.failures.append(repr(error))
            else:
                self.succeeded += 1


def add_and_read(ask: Callable[[str, str], Any]) -> Callable[[], None]:
    """Return what adds a job to the service of an example, and reads it again.

    Args:
        ask: sends a request for a path by a method to the service, and returns its answer.
    """

    def operation() -> None:
        job = ask("/jobs?payload=x", "POST")
        assert ask(f"/jobs/{job['id']}", "GET")["payload"] == "x"

    return operation
