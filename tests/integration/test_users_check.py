"""A `check=` of the user's: a dead role that it notices is replaced at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from minting import PATIENCE
from psycopg import sql
from twins import AsyncTwin, user_of, wait_until

from ephemeral_creds import RotationPolicy
from ephemeral_creds.events import LoginRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from twins import Setup

    from ephemeral_creds import RotatingConnectionPool

# psycopg_pool sleeps half a minute between six connections that fail their check.
WITHOUT_SLEEPING = 25.0

# Seconds for which the one that has proven the new credentials waits for a test to continue.
PARK = 3600.0


def asking(setup: Setup, query: str, *, wrapped: bool = False) -> Callable[[Any], object]:
    """Return a check that runs `query` in a transaction."""

    def check(connection: Any) -> None:
        try:
            connection.execute(query).fetchall()
        except psycopg.Error as error:
            if wrapped:
                raise KeyError("as a service checks it") from error
            raise
        connection.rollback()

    async def check_async(connection: Any) -> None:
        try:
            await (await connection.execute(query)).fetchall()
        except psycopg.Error as error:
            if wrapped:
                raise KeyError("as a service checks it") from error
            raise
        await connection.rollback()

    return check_async if isinstance(setup.twin, AsyncTwin) else check


def drop(setup: Setup, number: int) -> None:
    """Drop a role under its live sessions."""
    setup.provider._admin.execute(
        sql.SQL("DROP ROLE {}").format(sql.Identifier(setup.role(number)))
    )


def users(pool: RotatingConnectionPool[Any], count: int) -> list[str]:
    found = []
    for _ in range(count):
        with pool.connection(timeout=WITHOUT_SLEEPING) as connection:
            found.append(user_of(connection))
    return found


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_one_that_notices_a_dead_role_brings_the_pool_back(
    setup: Setup, autocommit: bool, wrapped: bool
) -> None:
    check = asking(setup, "SELECT current_user", wrapped=wrapped)
    pool = setup.pool(min_size=6, check=check, kwargs={"autocommit": autocommit})
    drop(setup, 1)
    assert users(pool, 12) == [setup.role(2)] * 12
    setup.provider.wait_for_sessions({2: 6})
    assert pool.get_stats()["requests_num"] == 12


def test_one_that_notices_it_after_the_new_credentials_came(setup: Setup) -> None:
    """The old ones wait for their replacements, which are held up."""
    gate = setup.twin.gate()
    pool = setup.pool(
        min_size=3,
        max_size=3,
        connection_class=gate,
        check=asking(setup, "SELECT current_user"),
        rotation=RotationPolicy(overshoot=1, park=PARK),
    )
    borrowed = [pool.getconn() for _ in range(3)]
    drop(setup, 1)
    setup.provider.failures["revoke"] = [RuntimeError("it is gone already")] * 99
    setup.rotate(2)
    gate.opened.clear()
    for connection in borrowed:
        pool.putconn(connection)
    assert users(pool, 6) == [setup.role(2)] * 6
    gate.opened.set()
    setup.provider.wait_for_sessions({2: 3})


def test_the_timeout_in_the_message_is_the_callers(setup: Setup) -> None:
    """Not what a connection that was found dead had left of it."""

    def check(connection: Any) -> None:
        threading.Event().wait(0.1)
        connection.pgconn.finish()
        raise ValueError("it is dead")

    gate = setup.twin.gate()
    pool = setup.pool(min_size=1, max_size=1, connection_class=gate, check=check)
    gate.opened.clear()
    pool.verify_connections()
    with pytest.raises(psycopg_pool.PoolTimeout, match=r"after 0\.30 sec"):
        pool.getconn(0.3)
    gate.opened.set()


def test_any_failure_on_an_old_connection_replaces_it(setup: Setup) -> None:
    rotated = threading.Event()

    def check(connection: Any) -> None:
        if rotated.is_set() and connection._lease.generation == 1:
            raise ValueError("a replica that has gone")

    gate = setup.twin.gate()
    pool = setup.pool(
        min_size=2,
        max_size=2,
        connection_class=gate,
        check=check,
        rotation=RotationPolicy(park=PARK),
    )
    borrowed = [pool.getconn() for _ in range(2)]
    setup.rotate(2)
    gate.opened.clear()
    for connection in borrowed:
        pool.putconn(connection)
    rotated.set()
    assert users(pool, 4) == [setup.role(2)] * 4
    gate.opened.set()
    setup.revoked(1)


def test_one_that_lacks_a_grant_keeps_its_connection(setup: Setup) -> None:
    """As psycopg_pool has it: the connection is well, and is tried again after a while."""
    lacking = threading.Event()

    def check(connection: Any) -> None:
        if lacking.is_set():
            raise psycopg.errors.InsufficientPrivilege("permission denied for table orders")

    pool = setup.pool(min_size=1, max_size=1, check=check)
    with pool.connection() as connection:
        pid = connection.info.backend_pid
    lacking.set()
    with pytest.raises(psycopg_pool.PoolTimeout):
        pool.getconn(timeout=0.3)
    lacking.clear()
    with pool.connection() as connection:
        assert connection.info.backend_pid == pid
    assert not pool.status().suspect
    assert setup.provider.calls == ["fetch"]
    assert setup.events.of(LoginRejected) == []


def test_one_that_fails_for_another_reason_is_psycopg_pools_business(setup: Setup) -> None:
    failing = threading.Event()
    calls: list[int] = []

    def check(_: object) -> None:
        calls.append(1)
        if failing.is_set():
            raise ValueError("a mistake of its own")

    pool = setup.pool(min_size=2, max_size=2, check=check)
    sessions = setup.provider.sessions()
    failing.set()
    with pytest.raises(psycopg_pool.PoolTimeout):
        pool.getconn(timeout=0.3)
    # It sleeps before it tries the next.
    assert len(calls) <= 2
    failing.clear()
    assert users(pool, 2) == [setup.role(1)] * 2
    assert setup.provider.sessions() == sessions
    assert pool.get_stats().get("connections_lost", 0) == 0


def test_a_server_that_does_not_say_whether_the_role_is_there(setup: Setup) -> None:
    """The session ends in the middle of the check of a pool that is suspect."""

    def check(connection: Any) -> None:
        if armed.is_set():
            armed.clear()
            connection.pgconn.finish()
            raise psycopg.OperationalError("the connection is lost")

    armed = threading.Event()
    pool = setup.pool(min_size=2, max_size=2, check=check)
    pool.verify_connections()
    armed.set()
    assert users(pool, 3) == [setup.role(1)] * 3
    wait_until(lambda: pool.get_stats()["pool_available"] == 2, patience=PATIENCE)
    assert setup.provider.calls == ["fetch"]
