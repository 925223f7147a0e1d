"""A provider that mints real roles in a real PostgreSQL, when a test says so."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import sql

from ephemeral_creds import Credentials, Secret, SystemClock
from ephemeral_creds.testing import ScriptedProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from ephemeral_creds import Event, Grant
    from ephemeral_creds.testing import PostgresServer

PATIENCE = 60.0
"""Seconds to wait for what has to come, on a machine that has much else to do."""

BRIEF = 0.1
"""Seconds to ask for what cannot come, once its reason has been seen."""


class RoleProvider(ScriptedProvider):
    """Each fetch makes ``<prefix>_1``, ``<prefix>_2`` …; each revocation drops one.

    `login` says whether the next ones may log in: ``LOGIN`` or ``NOLOGIN``; `grants` which roles
    they are members of, and `settings` what they have by ``ALTER ROLE … SET``. `end_sessions` says
    whether a revocation ends the sessions of the role as well.
    """

    def __init__(
        self, server: PostgresServer, prefix: str, *, duration: float = 3600.0, maximum: float = 1e6
    ) -> None:
        super().__init__(SystemClock(), duration=duration, maximum=maximum, mint=self._mint)
        self.login = "LOGIN"
        self.grants: list[str] = []
        self.settings: dict[str, str] = {}
        self.end_sessions = False
        self.prefix = prefix
        self._admin: psycopg.Connection[tuple[object, ...]] = server.admin()

    def _mint(self, number: int) -> Credentials:
        name, password = f"{self.prefix}_{number}", f"minted-password-{self.prefix}-{number}"
        self._admin.execute(
            sql.SQL("CREATE ROLE {} {} PASSWORD {}").format(
                sql.Identifier(name), sql.SQL(self.login), sql.Literal(password)
            )
        )
        for role in self.grants:
            self._admin.execute(
                sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name))
            )
        for setting, value in self.settings.items():
            self._admin.execute(
                sql.SQL("ALTER ROLE {} SET {} = {}").format(
                    sql.Identifier(name), sql.Identifier(setting), sql.Literal(value)
                )
            )
        return Credentials(name, Secret(password))

    def revoke(self, grant: Grant) -> None:
        super().revoke(grant)
        name = grant.credentials.username
        if self.end_sessions:
            self._admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s",
                [name],
            )
        self._admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))

    @contextmanager
    def owner(self, name: str) -> Iterator[str]:
        """Make a role to grant to those that are minted, and drop it and what it owns afterwards.

        On the connection of the revocations, since PostgreSQL refuses one of two that drop a role
        and a member of it at the same time: "tuple concurrently deleted".
        """
        role = sql.Identifier(name)
        self._admin.execute(sql.SQL("CREATE ROLE {}").format(role))
        yield name
        self._admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
        self._admin.execute(sql.SQL("DROP ROLE {}").format(role))

    def sessions(self) -> dict[str, int]:
        """Return how many sessions each of the roles has, as the server sees it."""
        rows = self._admin.execute(
            "SELECT usename::text, count(*)::int FROM pg_stat_activity"
            " WHERE usename LIKE %s GROUP BY 1 ORDER BY 1",
            [f"{self.prefix}\\_%"],
        ).fetchall()
        return {str(name): int(str(count)) for name, count in rows}

    def asleep(self) -> list[str]:
        """Return the roles that run ``pg_sleep`` right now."""
        rows = self._admin.execute(
            "SELECT usename::text FROM pg_stat_activity"
            " WHERE wait_event = 'PgSleep' AND usename LIKE %s ORDER BY 1",
            [f"{self.prefix}\\_%"],
        ).fetchall()
        return [str(name) for (name,) in rows]

    def wait_for_sessions(self, expected: dict[int, int]) -> None:
        """Wait until the roles have so many sessions each; a backend takes a moment to exit."""
        wanted = {f"{self.prefix}_{number}": count for number, count in expected.items()}
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.02)):
            if self.sessions() == wanted:
                return
            pause.wait(0.02)
        assert self.sessions() == wanted

    def roles(self) -> list[str]:
        """Return the roles that exist."""
        rows = self._admin.execute(
            "SELECT rolname::text FROM pg_roles WHERE rolname LIKE %s ORDER BY 1",
            [f"{self.prefix}\\_%"],
        ).fetchall()
        return [str(name) for (name,) in rows]

    def alter(self, number: int, change: str) -> None:
        """Change a role without telling the keeper or the pool."""
        name = sql.Identifier(f"{self.prefix}_{number}")
        self._admin.execute(sql.SQL("ALTER ROLE {} " + change).format(name))

    def disconnect(self) -> None:
        """Close the administrator's connection and drop what is left."""
        with self._admin:
            for name in self.roles():
                self._admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


class Events:
    """An observer that tests can wait on."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.seen.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: type[Event], count: int = 1) -> list[Event]:
        """Wait until `count` events of a kind were seen, and return those of that kind."""
        with self._changed:
            found = self._changed.wait_for(lambda: len(self.of(kind)) >= count, PATIENCE)
        assert found, f"{count} {kind.__name__} expected, seen: {self.seen}"
        return self.of(kind)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.seen if isinstance(event, kind)]
