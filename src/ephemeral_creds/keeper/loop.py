"""Calling what blocks from asyncio."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_thread", "require_asyncio"]

P = ParamSpec("P")
T = TypeVar("T")


def require_asyncio(what: str) -> None:
    """Raise a `ConfigurationError` if no asyncio event loop runs here, as under trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            f"{what} needs a running asyncio event loop, but none runs in this thread; trio is not "
            "supported, anyio is where it runs on asyncio"
        ) from None


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`, which may block, in a thread of its own.

    Not in the loop's executor, where it would wait behind other calls.
    """
    thread = ThreadPoolExecutor(1)
    result = thread.submit(function, *args, **kwargs)
    thread.shutdown(wait=False)
    try:
        return await asyncio.wrap_future(result)
    finally:
        if result.done():
            # This only waits for the thread to end.
            thread.shutdown()
