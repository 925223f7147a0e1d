"""What PostgreSQL is asked about a session and its role."""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg.rows import scalar_row

from ephemeral_creds.pool.login import CURRENT_USER, VALID_FOR
from ephemeral_creds.pool.time_limit import TimeLimit

if TYPE_CHECKING:
    from psycopg_pool.abc import ACT

__all__ = ["current_user", "valid_for"]


async def current_user(connection: ACT, seconds: float) -> str:
    """Ask who we are, without leaving a transaction open."""
    role = await _ask(connection, CURRENT_USER, seconds)
    # Where the database is SQL_ASCII, psycopg does not decode text.
    return role.decode(errors="backslashreplace") if isinstance(role, bytes) else str(role)


async def valid_for(connection: ACT, seconds: float) -> float | None:
    """Return for how many seconds more its role may log in; ``None`` for no limit.

    Raises:
        psycopg.Error: there is no answer; the connection can be used unless it is closed.
    """
    autocommit = connection.autocommit
    try:
        remaining = await _ask(connection, VALID_FOR, seconds)
    except psycopg.Error:
        if not connection.closed:
            await connection.set_autocommit(autocommit)
        raise
    return remaining if isinstance(remaining, float) else None


async def _ask(connection: ACT, query: LiteralString, seconds: float) -> object:
    """Return the one value that `query` brings in time, without leaving a transaction open."""
    autocommit = connection.autocommit
    if not autocommit:
        await connection.set_autocommit(True)
    with TimeLimit(connection, seconds):
        async with connection.cursor(row_factory=scalar_row) as cursor:
            await cursor.execute(query)
            value: object = await cursor.fetchone()
    # Not in a finally clause: after a failure the connection is discarded, and an error from
    # here would take the place of that failure, be it a cancellation.
    if not autocommit:
        await connection.set_autocommit(False)
    return value
