"""A checkout that fails says why, and "all connections are in use" only when they are."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest
from minting import BRIEF, PATIENCE
from twins import wait_until

from ephemeral_creds import CheckoutFailed, DatabaseUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twins import Setup

IN_USE = "all connections are in use"


@pytest.fixture
def silent() -> Iterator[str]:
    """A server whose host takes connections, and which never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"host=127.0.0.1 port={listener.getsockname()[1]} dbname=postgres"


def why(pool: Any, timeout: float = BRIEF) -> str:
    with pytest.raises(CheckoutFailed) as caught:
        pool.getconn(timeout=timeout)
    assert isinstance(caught.value, psycopg_pool.PoolTimeout)
    return str(caught.value)


def test_all_are_in_use(setup: Setup) -> None:
    pool = setup.pool(min_size=1, max_size=1)
    with pool.connection():
        assert IN_USE in why(pool)


def test_the_server_is_silent(setup: Setup, silent: str) -> None:
    with closing(setup.pool(min_size=1, max_size=1, conninfo=silent, wait=False)) as pool:
        # An opening may still wait until the pool has the keeper's credentials.
        wait_until(lambda: pool._rotation.overview.size)
        with pytest.raises(DatabaseUnreachable, match=r"1 connecting for .* without an answer"):
            pool.getconn(timeout=BRIEF)
        assert not pool.status().ready
        with pytest.raises(DatabaseUnreachable, match="without an answer"):
            pool.wait(BRIEF)


def test_wait_has_opened_some(setup: Setup) -> None:
    gate, opened = setup.twin.gate(), threading.Semaphore(0)

    def configure(_: object) -> None:
        gate.opened.clear()
        opened.release()

    pool = setup.pool(
        wait=False, min_size=8, num_workers=1, connection_class=gate, configure=configure
    )
    setup.stack.callback(gate.opened.set)
    assert opened.acquire(timeout=PATIENCE)
    wait_until(lambda: pool.get_stats()["pool_available"] == 1)
    wait_until(lambda: pool._rotation.overview.openings)
    with pytest.raises(CheckoutFailed) as caught:
        pool.wait(BRIEF)
    assert "of 8 connections" in str(caught.value)
    assert "1 idle, 1 connecting for" in str(caught.value)
    assert "6 waiting to be opened" in str(caught.value)
    gate.opened.set()


def test_configure_hangs(setup: Setup) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def configure(_: object) -> Any:
        reached.set()
        if setup.twin.name == "async":
            return asyncio.to_thread(go_on.wait, PATIENCE)
        return go_on.wait(PATIENCE)

    pool = setup.pool(wait=False, min_size=1, configure=configure)
    setup.stack.callback(go_on.set)
    assert reached.wait(PATIENCE)
    said = why(pool)
    assert "1 in configure= for" in said
    assert IN_USE not in said
    go_on.set()


def test_the_users_check_fails(setup: Setup) -> None:
    def check(_: object) -> None:
        raise ValueError("hunter2")

    pool = setup.pool(min_size=2, check=check)
    said = why(pool)
    assert "2 idle, and check= fails: ValueError at " in said
    assert "hunter2" not in said
    assert IN_USE not in said


def test_connections_were_closed_and_never_returned(setup: Setup) -> None:
    pool = setup.pool(min_size=2, max_size=3)
    for _ in range(2):
        pool.getconn().close()
    with pool.connection():
        said = why(pool)
    assert "1 in use, 2 closed and never returned" in said
    assert "close_returns=True" in said


def test_no_time_was_given(setup: Setup) -> None:
    pool = setup.pool(min_size=1)
    said = why(pool, timeout=0)
    assert "it was given no time" in said
    assert IN_USE not in said
