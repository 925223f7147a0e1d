# Made from _async/session.py by tools/make_sync.py: change that, then run "nox -s twins".
"""What PostgreSQL is asked about a session and its role."""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg.rows import scalar_row

from ephemeral_creds.pool.login import CURRENT_USER, VALID_FOR
from ephemeral_creds.pool.time_limit import TimeLimit

if TYPE_CHECKING:
    from psycopg_pool.abc import CT

__all__ = ["current_user", "valid_for"]


def current_user(connection: CT, seconds: float) -> str:
    """Ask who we are, without leaving a transaction open."""
    role = _ask(connection, CURRENT_USER, seconds)
    # Where the database is SQL_ASCII, psycopg does not decode text.
    return role.decode(errors="backslashreplace") if isinstance(role, bytes) else str(role)


def valid_for(connection: CT, seconds: float) -> float | None:
    """Return for how many seconds more its role may log in; ``None`` for no limit.

    Raises:
        psycopg.Error: there is no answer; the connection can be used unless it is closed.
    """
    autocommit = connection.autocommit
    try:
        remaining = _ask(connection, VALID_FOR, seconds)
    except psycopg.Error:
        if not connection.closed:
            connection.set_autocommit(autocommit)
        raise
    return remaining if isinstance(remaining, float) else None


def _ask(connection: CT, query: LiteralString, seconds: float) -> object:
    """Return the one value that `query` brings in time, without leaving a transaction open."""
    autocommit = connection.autocommit
    if not autocommit:
        connection.set_autocommit(True)
    with TimeLimit(connection, seconds):
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(query)
            value: object = cursor.fetchone()
    # Not in a finally clause: after a failure the connection is discarded, and an error from
    # here would take the place of that failure, be it a cancellation.
    if not autocommit:
        connection.set_autocommit(False)
    return value
