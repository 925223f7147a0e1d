"""A service under load beside an agent: what every scenario of the agent needs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psycopg
from minting import PATIENCE, Events

from ephemeral_creds import FileProvider, RefreshPolicy
from ephemeral_creds.events import CredentialsPublished, LoginRejected
from ephemeral_creds.lifecycle.policy import Tuning

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds import RotatingConnectionPool
    from ephemeral_creds.testing import DatabaseEngine

__all__ = ["HURRIED", "Load", "Role", "Watched", "make_role"]

HURRIED = RefreshPolicy(
    renew_at=0.5,
    margin=1.0,
    retry_initial=0.2,
    mint_interval=1.0,
    _tuning=Tuning(config_retry=1.0),
)
"""For credentials of seconds; the defaults are for a minute and more."""


@dataclass(frozen=True)
class Role:
    """A role of Vault whose credentials have rights that end with them, and the way to it."""

    name: str
    path: str
    policy: str
    table: str


def make_role(engine: DatabaseEngine, name: str, *, default_ttl: str, max_ttl: str) -> Role:
    """Make a role that may write to a table of its own, through a group."""
    group, table = f"{name}_group", f"{name}_jobs"
    with engine.postgres.admin() as connection:
        connection.execute(f"CREATE ROLE {group} NOLOGIN")
        connection.execute(f"CREATE TABLE {table} (id bigserial PRIMARY KEY, worker int)")
        connection.execute(f"GRANT SELECT, INSERT ON {table} TO {group}")
        connection.execute(f"GRANT USAGE ON SEQUENCE {table}_id_seq TO {group}")
    path = engine.create_role(
        name,
        default_ttl=default_ttl,
        max_ttl=max_ttl,
        grants=[f'GRANT {group} TO "{{{{name}}}}"'],
    )
    policy = engine.admin.write_policy(name, {path: ["read"], "sys/leases/revoke": ["update"]})
    return Role(name, path, policy, table)


@dataclass
class Load:
    """Threads that use a pool until the block ends; each failure is kept.

    Between two transactions they pause, or they would keep each other, and the threads that are to
    be disturbed, from running at all on a machine that has other things to do.

    A query needs a right of the role: a dropped role that still has its session would fail. That
    is told to the pool, as `docs/explanation/limits.md` says.
    """

    pool: RotatingConnectionPool[Any]
    table: str
    workers: int = 8
    pause: float = 0.05
    failures: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(self.workers)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def succeeded(self) -> int:
        return len(self.latencies)

    def goes_on(self, seconds: float = PATIENCE) -> None:
        """Wait until each worker may have succeeded once more."""
        wanted = self.succeeded + 2 * self.workers
        give_up_at = time.monotonic() + seconds
        while self.succeeded < wanted:
            assert time.monotonic() < give_up_at, dict(self.failures)
            time.sleep(0.01)

    def quantile(self, share: float) -> float:
        """Return a latency in seconds, checkout included."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def _work(self, number: int) -> None:
        while not self._done.wait(self.pause):
            begun = time.perf_counter()
            try:
                with self.pool.connection() as connection:
                    connection.execute(f"INSERT INTO {self.table} (worker) VALUES (%s)", [number])
                    connection.execute(f"SELECT count(*) FROM {self.table} WHERE id < 10")
            except Exception as error:
                self.failures[f"{type(error).__name__}: {error}"[:200]] += 1
                if isinstance(error, psycopg.errors.InsufficientPrivilege):
                    self.pool.verify_connections()
                self._done.wait(0.05)
            else:
                self.latencies.append(time.perf_counter() - begun)


class Watched:
    """A file's provider, and what was heard of it."""

    def __init__(self, file: Path) -> None:
        self.provider = FileProvider(file, poll_interval=0.2)
        self.events = Events()

    def handovers(self, count: int) -> None:
        """Wait until new credentials have come into use `count` times."""
        self.events.wait_for(CredentialsPublished, 1 + count)

    def refused(self) -> int:
        """Return how many logins PostgreSQL refused, which no caller notices at a handover."""
        return len(self.events.of(LoginRejected))
