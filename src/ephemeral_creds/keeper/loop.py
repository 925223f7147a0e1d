"""What is needed of the running event loop, which is asyncio's."""

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
    """Raise a `ConfigurationError` where no loop of asyncio's runs, as under trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            f"{what} needs a running asyncio event loop, and there is none here; trio is not "
            "supported, anyio is where it runs on asyncio"
        ) from None


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what may block in a thread that ends with it.

    Not in the loop's own executor: what else waits in there may take its time.
    """
    thread = ThreadPoolExecutor(1)
    result = thread.submit(function, *args, **kwargs)
    thread.shutdown(wait=False)
    try:
        return await asyncio.wrap_future(result)
    finally:
        if result.done():
            # All that it waits for is the end of the thread.
            thread.shutdown()
