"""What PostgreSQL itself has to say: connections and roles, looked at all the time."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg

from ephemeral_creds.cli._world import APPLICATION

if TYPE_CHECKING:
    from ephemeral_creds.testing import PostgresServer

__all__ = ["Census"]

_INTERVAL = 0.05  # seconds; a role lives for some ten seconds, a connection for almost as long

_CONNECTIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
_ROLES = "SELECT rolname, rolvaliduntil::text FROM pg_roles WHERE starts_with(rolname, 'v-')"


class Census:
    """Samples in a thread of its own, over a connection of the superuser.

    Attributes:
        peak_connections: the most connections of the pool that PostgreSQL had at once, in two
            looks in a row.
        renewals: how often a role's VALID UNTIL was seen to move.
        error: why sampling ended early; ``None`` where it did not.
    """

    def __init__(self, postgres: PostgresServer) -> None:
        self.peak_connections = 0
        self.renewals = 0
        self.error: str | None = None
        self._postgres = postgres
        self._last_pids: set[int] = set()
        self._valid_until: dict[str, str | None] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-census", daemon=True)

    @property
    def roles_seen(self) -> int:
        """How many roles of ours there have been."""
        return len(self._valid_until)

    def start(self) -> None:
        """Start to sample."""
        self._thread.start()

    def close(self) -> None:
        """Stop. May be called again."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with closing(self._postgres.admin()) as connection:
                while not self._stopping.wait(_INTERVAL):
                    self._sample(connection)
        except psycopg.Error as error:
            self.error = f"{type(error).__name__}: {error}"

    def _sample(self, connection: psycopg.Connection) -> None:
        pids = {pid for (pid,) in connection.execute(_CONNECTIONS, [APPLICATION])}
        # A server process outlives its connection by some milliseconds. What the pool opens for
        # less than the time between two looks, it counts itself.
        self.peak_connections = max(self.peak_connections, len(pids & self._last_pids))
        self._last_pids = pids
        for role, until in connection.execute(_ROLES):
            self.renewals += self._valid_until.get(role, until) != until
            self._valid_until[role] = until
