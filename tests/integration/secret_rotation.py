"""Users of a real PostgreSQL whose passwords are rotated, and a pool that follows a secret."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql
from source_load import PoolLoad
from twins import wait_until

from ephemeral_creds import CredentialKeeper, RefreshPolicy, RotatingConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds import CredentialProvider, Observer
    from ephemeral_creds.testing import PostgresServer

__all__ = ["Rotation", "change_under_load", "pool_for", "uses"]


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

    def _next_values(self) -> dict[str, Any]:
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


def uses(keeper: CredentialKeeper, values: dict[str, Any]) -> None:
    """Wait until these are in use."""
    wait_until(
        lambda: keeper.current().credentials.password.reveal() == values["password"],
        "the new credentials in use",
    )


def change_under_load(
    keeper: CredentialKeeper,
    pool: RotatingConnectionPool,
    rotation: Rotation,
    write: Callable[[dict[str, Any]], object],
    new_user: Callable[[], str],
) -> None:
    """Change the password three times, then the user three times, while no query fails.

    Args:
        keeper: the pool's.
        pool: the pool, which has the rotation's first user.
        rotation: of one user.
        write: writes the secret.
        new_user: returns the name of another user.
    """
    pool.wait()
    with PoolLoad(pool) as load:
        for _ in range(3):
            rotation.take_turn()
            rotation.set_secret()
            write(rotation.values)
            uses(keeper, rotation.values)
            load.goes_on()
        assert keeper.current().generation == 1
        for _ in range(3):
            old = rotation.values["username"]
            rotation = Rotation(rotation.postgres, (new_user(),))
            write(rotation.values)
            uses(keeper, rotation.values)
            wait_until(lambda: not rotation.sessions(old), f"{old} has sessions")  # noqa: B023
            load.goes_on()
    status = keeper.status()
    assert load.failures == []
    assert status.generation == 4
    print(f"{load.succeeded} operations, {status.rejected_logins} refused logins")
