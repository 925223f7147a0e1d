"""Listening beside a pool, with the pool's credentials and to the same server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.conninfo import make_conninfo

from ephemeral_creds.contrib.psycopg import alisten
from ephemeral_creds.pool._compat import resolved_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ephemeral_creds.contrib.psycopg import AsyncListener
    from ephemeral_creds.pool._async.pool import AsyncRotatingConnectionPool

__all__ = ["listen_beside"]

# What a pool's kwargs may have for psycopg's connect() that libpq does not know.
_PSYCOPG_ONLY = {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}


async def listen_beside(
    pool: AsyncRotatingConnectionPool[Any],
    channels: Iterable[str],
    catch_up: Callable[[], object],
) -> AsyncListener:
    """Return a listener on a connection of its own, which rotates as the pool's do.

    Args:
        pool: an open one.
        channels: their names, without quotes.
        catch_up: called, or called and awaited, wherever notifications may have been missed.
    """
    conninfo: str = await resolved_async(pool.conninfo) or ""
    options: dict[str, Any] = await resolved_async(pool.kwargs) or {}
    given = {name: value for name, value in options.items() if name not in _PSYCOPG_ONLY}
    return alisten(pool.keeper, make_conninfo(conninfo, **given), channels, catch_up=catch_up)
