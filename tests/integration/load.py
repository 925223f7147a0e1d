"""Requests without a pause to the service of an example."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from minting import PATIENCE
from twins import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Load"]


class Load:
    """Requests without a pause, until the block ends; each failure is kept.

    Args:
        ask: sends a request for a path by a method to the service, and returns what it answers.
    """

    def __init__(self, ask: Callable[[str, str], Any], workers: int = 4) -> None:
        self.succeeded = 0
        self.failures: list[str] = []
        self._ask = ask
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

    def goes_on(self) -> None:
        """Wait until each worker may have succeeded once more, or one has failed."""
        wanted = self.succeeded + 2 * len(self._threads)
        wait_until(lambda: self.failures or self.succeeded >= wanted, "requests")

    def _work(self) -> None:
        while not self._done.wait(0.01):
            try:
                self._request()
            except Exception as error:
                self.failures.append(repr(error))
            else:
                self.succeeded += 1

    def _request(self) -> None:
        job = self._ask("/jobs?payload=x", "POST")
        assert self._ask(f"/jobs/{job['id']}", "GET")["payload"] == "x"
