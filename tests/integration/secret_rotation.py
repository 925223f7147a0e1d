"""Users of a real PostgreSQL whose passwords are rotated, and a pool that follows a secret."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql
from twins import wait_until

from ephemeral_creds import CredentialKeeper, RefreshPolicy, RotatingConnectionPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds import CredentialProvider, Observer
    from ephemeral_creds.testing import PostgresServer

__all__ = ["Rotation", "pool_for", "uses"]


@dataclass
class Rotation:
    """One user or several, who take turns.

    Attributes:
        values: the secret as it is to be now; PostgreSQL has them at first.
    """

    postgres: PostgresServer
    users: tuple[str, ...]
    turn: int = 0

    def __post_init__(self) -> None:
        for user in self.users:
            self._execute("CREATE ROLE {} LOGIN PASSWORD {}", user, secrets.token_urlsafe(12))
        self.values = self._next_values()
        self.set_secret()

    def take_turn(self) -> None:
        """Make the next values, which PostgreSQL does not know yet."""
        self.turn += 1
        self.values = self._next_values()

    def set_secret(self) -> None:
        """Tell PostgreSQL the password."""
        user, password = str(self.values["username"]), str(self.values["password"])
        self._execute("ALTER ROLE {} PASSWORD {}", user, password)

    def sessions(self, user: object) -> int:
        """Return how many sessions a user has."""
        with self.postgres.admin() as conn:
            query = "SELECT count(*)::int FROM pg_stat_activity WHERE usename = %s"
            row = conn.execute(query, [user]).fetchone()
        assert row is not None
        return int(row[0])

    @property
    def conninfo(self) -> str:
        """Where PostgreSQL is."""
        return f"host={self.postgres.host} port={self.postgres.port} dbname=postgres"

    def _next_values(self) -> dict[str, object]:
        return {
            "engine": "postgres",
            "host": self.postgres.host,
            "port": self.postgres.port,
            "dbname": "postgres",
            "username": self.users[self.turn % len(self.users)],
            "password": secrets.token_urlsafe(12),
        }

    def _execute(self, text: str, user: str, password: str) -> None:
        with self.postgres.admin() as conn:
            conn.execute(sql.SQL(text).format(sql.Identifier(user), sql.Literal(password)))


@contextlib.contextmanager
def pool_for(
    provider: CredentialProvider,
    conninfo: str,
    *observers: Observer,
    min_size: int = 4,
    max_size: int = 6,
) -> Iterator[tuple[CredentialKeeper, RotatingConnectionPool]]:
    """Open a pool whose keeper tries again soon."""
    keeper = CredentialKeeper(
        provider, refresh=RefreshPolicy(retry_initial=0.1), observers=observers
    )
    pool = RotatingConnectionPool(keeper, conninfo, min_size=min_size, max_size=max_size)
    with keeper, pool:
        yield keeper, pool


def uses(keeper: CredentialKeeper, values: dict[str, object]) -> None:
    """Wait until these are in use."""
    wait_until(
        lambda: keeper.current().credentials.password.reveal() == values["password"],
        "the new credentials in use",
    )
