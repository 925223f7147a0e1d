"""Ways to give a pool new credentials while it is used, ours among them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from psycopg_pool import ConnectionPool

from benchmarks._world import Login, RoleProvider, Roles, slow_class
from ephemeral_creds import CredentialKeeper, RefreshPolicy, RotatingConnectionPool

if TYPE_CHECKING:
    from ephemeral_creds import Credentials
    from ephemeral_creds.testing import PostgresServer

__all__ = ["Contender", "Control", "Drain", "Ours", "Static", "Swap"]

# Nothing to protect here, and a rotation every two seconds is wanted.
UNLIMITED = RefreshPolicy(mint_interval=0.0)


class Contender(ABC):
    """A pool of `size`, whatever way it has of getting new credentials."""

    name: str

    def __init__(self, server: PostgresServer, size: int) -> None:
        self.server = server
        self.size = size
        self.slow = slow_class()
        self.roles = Roles(server, f"bench_{self.name}")
        self._numbers = itertools.count(1)
        self._recent: list[Credentials] = []
        self.pool: ConnectionPool[Any] = self.make()
        self.pool.open(wait=True)

    @abstractmethod
    def make(self) -> ConnectionPool[Any]:
        """Return a pool that is not open yet."""

    @abstractmethod
    def rotate(self) -> None:
        """Give it new credentials."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do in the background."""
        return self.pool.get_stats()["pool_available"] == self.size

    def close(self) -> None:
        """Close everything."""
        self.pool.close()
        self.roles.close()

    def mint(self) -> Credentials:
        """Make a role; the one before the last is dropped."""
        self._recent.append(self.roles.mint(next(self._numbers)))
        if len(self._recent) > 2:
            self.roles.drop(self._recent.pop(0).username)
        return self._recent[-1]

    def with_callable(self) -> ConnectionPool[Any]:
        """Return psycopg's pool, which asks for the latest credentials at each connect."""
        return ConnectionPool(
            self.server.conninfo(),
            kwargs=lambda: Login.of(self.server, self._recent[-1]).arguments(),
            connection_class=self.slow,
            min_size=self.size,
            open=False,
        )


class Static(Contender):
    """psycopg's pool, whose credentials do not change: what the others are compared with."""

    name = "static"

    def make(self) -> ConnectionPool[Any]:
        self.mint()
        return self.with_callable()

    def rotate(self) -> None:
        pass


class Control(Static):
    """A second one, to see how much two of the same differ."""

    name = "control"


class Drain(Contender):
    """psycopg's pool with a function for kwargs, drained after each change."""

    name = "drain"

    def make(self) -> ConnectionPool[Any]:
        self.mint()
        return self.with_callable()

    def rotate(self) -> None:
        self.mint()
        self.pool.drain()


class Swap(Contender):
    """Two of psycopg's pools: the new one is filled, takes over, and the old one is closed."""

    name = "swap"

    def make(self) -> ConnectionPool[Any]:
        credentials = self.mint()
        return ConnectionPool(
            self.server.conninfo(),
            kwargs=Login.of(self.server, credentials).arguments(),
            connection_class=self.slow,
            min_size=self.size,
            open=False,
        )

    def rotate(self) -> None:
        fresh = self.make()
        fresh.open(wait=True)
        old, self.pool = self.pool, fresh
        old.close()


class Ours(Contender):
    """`RotatingConnectionPool` with its defaults."""

    name = "ours"

    def make(self) -> ConnectionPool[Any]:
        self.keeper = CredentialKeeper(RoleProvider(self.roles), refresh=UNLIMITED, observers=())
        self.keeper.start()
        self.rotating: RotatingConnectionPool[Any] = RotatingConnectionPool(
            self.keeper,
            self.server.conninfo(),
            kwargs={"autocommit": True},
            connection_class=self.slow,
            min_size=self.size,
        )
        return self.rotating

    def rotate(self) -> None:
        self.keeper.refresh()

    @property
    def settled(self) -> bool:
        return super().settled and not self.rotating.status().stale

    def close(self) -> None:
        self.pool.close()
        self.keeper.close()
        self.roles.close()
