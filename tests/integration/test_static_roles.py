"""Static roles under load: the password changes, and no query fails."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from minting import Events
from psycopg import sql
from twins import wait_until

from differences import needs
from ephemeral_creds import (
    ConfigurationError,
    CredentialKeeper,
    RotatingConnectionPool,
    TokenAuth,
    VaultConfig,
    VaultStaticProvider,
)
from ephemeral_creds.events import PasswordChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import DatabaseEngine

    Unique = Callable[[str], str]


@pytest.fixture
def username(engine: DatabaseEngine, unique: Unique) -> str:
    name = unique("static_app")
    with engine.postgres.admin() as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    return name


@pytest.fixture
def provider(
    engine: DatabaseEngine, unique: Unique, username: str
) -> Iterator[Callable[..., VaultStaticProvider]]:
    made: list[VaultStaticProvider] = []

    def make(role: str | None = None, **rotation: str) -> VaultStaticProvider:
        if role is None:
            engine.create_static_role(role := unique("static"), username, **rotation)
        config = VaultConfig(engine.vault.address, read_timeout=20)
        auth = TokenAuth(engine.vault.root_token)
        made.append(VaultStaticProvider(role, auth=auth, config=config))
        return made[-1]

    yield make
    for one in made:
        one.close()


def conninfo(engine: DatabaseEngine) -> str:
    return f"host={engine.postgres.host} port={engine.postgres.port} dbname=postgres"


def test_a_read_says_when_to_read_again(
    engine: DatabaseEngine, provider: Callable[..., VaultStaticProvider], username: str
) -> None:
    grant = provider(rotation_period="60s").fetch()
    assert grant.credentials.username == username
    lease = grant.lease
    assert (lease.lease_id, lease.renewable, lease.duration) == ("", False, float("inf"))
    assert lease.rotates_in is not None
    assert 0 < lease.rotates_in <= 60
    engine.postgres.login(username, grant.credentials.password).close()


@needs("schedule")
def test_a_rotation_schedule(provider: Callable[..., VaultStaticProvider]) -> None:
    lease = provider(rotation_schedule="0 0 * * SAT").fetch().lease
    assert lease.rotates_in is not None
    assert 0 <= lease.rotates_in <= 7 * 86400


def test_no_such_static_role(provider: Callable[..., VaultStaticProvider]) -> None:
    with pytest.raises(ConfigurationError, match=r"static-creds/nothing.*static role 'nothing'"):
        provider("nothing").fetch()


@pytest.mark.slow
def test_the_password_changes_under_load_and_no_query_fails(
    engine: DatabaseEngine,
    provider: Callable[..., VaultStaticProvider],
    unique: Unique,
    username: str,
) -> None:
    """By period, and by hand in between, while connections are opened all the time."""
    role = unique("static")
    # The shortest that Vault allows.
    engine.create_static_role(role, username, rotation_period="5s")
    events = Events()
    failures: list[str] = []
    queries = 0
    over = threading.Event()
    keeper = CredentialKeeper(provider(role), observers=[events])
    pool = RotatingConnectionPool(keeper, conninfo(engine), min_size=2, max_size=6)
    with keeper, pool:
        pool.wait()

        def work() -> None:
            nonlocal queries
            while not over.is_set():
                try:
                    with pool.connection() as conn:
                        conn.execute("SELECT current_user").fetchone()
                        queries += 1
                    if queries % 5 == 0:
                        # As a busy server would: so that there are logins at every moment.
                        with pool.connection() as conn:
                            conn.close()
                except psycopg.Error as error:
                    failures.append(str(error))
                time.sleep(0.01)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            events.wait_for(PasswordChanged)
            for _ in range(5):
                seen = len(events.of(PasswordChanged))
                engine.rotate_static_role(role)
                events.wait_for(PasswordChanged, seen + 1)
            wait_until(lambda: queries > 100 or failures)
        finally:
            over.set()
            for thread in threads:
                thread.join(30)
        status = pool.status()
    assert failures == []
    assert status.keeper.generation == 1
    assert status.keeper.rotations == 0


def test_idle_sessions_stay_when_the_password_changes(
    engine: DatabaseEngine,
    provider: Callable[..., VaultStaticProvider],
    unique: Unique,
    username: str,
) -> None:
    role = unique("static")
    engine.create_static_role(role, username)
    events = Events()
    keeper = CredentialKeeper(provider(role), observers=[events])
    pool = RotatingConnectionPool(keeper, conninfo(engine), min_size=3, max_size=4)
    with keeper, pool:
        pool.wait()
        before = pids(pool, 3)
        engine.rotate_static_role(role)
        # More connections than there are: the fourth meets the new password.
        assert pids(pool, 4) > before
        events.wait_for(PasswordChanged)
        assert pids(pool, 4) > before


def pids(pool: RotatingConnectionPool, count: int) -> set[int]:
    """Return the sessions that `count` checkouts at the same time get."""
    borrowed = [pool.getconn() for _ in range(count)]
    try:
        return {conn.info.backend_pid for conn in borrowed}
    finally:
        for conn in borrowed:
            pool.putconn(conn)
