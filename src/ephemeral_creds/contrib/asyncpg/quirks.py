"""How asyncpg's pool works inside, as far as rotations depend on it.

Seen in 0.32; `tests/guards/test_asyncpg_quirks.py` fails where it changes. A pool has one
holder for each connection that it may have; the holders that are not borrowed are in a queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["connect_parameters", "put_back", "reconnect", "take_idle"]


def connect_parameters(pool: Any) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return what the pool's ``connect=`` is called with."""
    options = {
        "loop": pool._loop,  # noqa: SLF001
        "connection_class": pool._connection_class,  # noqa: SLF001
        "record_class": pool._record_class,  # noqa: SLF001
    }
    return tuple(pool._connect_args), options | pool._connect_kwargs  # noqa: SLF001


def take_idle(pool: Any, wanted: Callable[[object], bool]) -> Any:
    """Take a holder with an idle connection that is wanted out of the queue; ``None`` if none is.

    The others stay in their order. Nothing is awaited: no task sees the queue without them.
    """
    queue = pool._queue  # noqa: SLF001
    holders = [queue.get_nowait() for _ in range(queue.qsize())]
    found = next((h for h in holders if h.is_connected() and wanted(h._con)), None)  # noqa: SLF001
    for holder in reversed(holders):
        if holder is not found:
            queue.put_nowait(holder)
    return found


async def reconnect(holder: Any) -> None:
    """End the connection of a holder that was taken, and have the pool connect it again.

    The pool's ``connect=`` is called before any other task runs.
    """
    holder.terminate()
    # 0.32 does this by itself.
    holder._con = None  # noqa: SLF001
    await holder.connect()


def put_back(pool: Any, holder: Any) -> None:
    """Put a holder back that was taken."""
    pool._queue.put_nowait(holder)  # noqa: SLF001
