"""Before the first credentials, psycopg_pool's rules hold: who waits, is refused, is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import psycopg_pool
import pytest
from minting import BRIEF, PATIENCE
from twins import Worker, user_of, wait_until

from ephemeral_creds import NotReady
from ephemeral_creds.events import CredentialsPublished, FetchFailed
from ephemeral_creds.exceptions import AccessDenied, ConfigurationError

if TYPE_CHECKING:
    from twins import Setup

    from ephemeral_creds import RotatingConnectionPool

# Only a person can correct these.
HOPELESS = [ConfigurationError("unknown role"), AccessDenied("no policy for it")]


def without_credentials(setup: Setup, **options: Any) -> RotatingConnectionPool[Any]:
    """Return an open pool whose credentials come when the provider's gate is opened."""
    setup.provider.gate.clear()
    return setup.pool(wait=False, **{"min_size": 1, "max_size": 1} | options)


def queue(pool: RotatingConnectionPool[Any], count: int, timeout: float = PATIENCE) -> list[Worker]:
    """Let so many clients ask for a connection, one after the other."""
    clients: list[Worker] = []

    def all_are_waiting() -> bool:
        return pool.get_stats()["requests_waiting"] == len(clients)

    for _ in range(count):
        clients.append(Worker(pool.getconn, timeout))
        wait_until(all_are_waiting)
    return clients


def counted(pool: RotatingConnectionPool[Any]) -> dict[str, int]:
    stats = pool.get_stats()
    return {name: stats.get(f"requests_{name}", 0) for name in ("num", "waiting", "errors")}


def test_first_come_first_served(setup: Setup) -> None:
    pool = without_credentials(setup)
    clients = queue(pool, 6)
    setup.provider.gate.set()
    for number, client in enumerate(clients):
        connection: Any = client.get()
        assert [other.running for other in clients[number + 1 :]] == [True] * (5 - number)
        pool.putconn(connection)


def test_max_waiting_counts(setup: Setup) -> None:
    pool = without_credentials(setup, max_waiting=3)
    clients = queue(pool, 3)
    for _ in range(2):
        with pytest.raises(psycopg_pool.TooManyRequests):
            pool.getconn(PATIENCE)
    assert counted(pool) == {"num": 5, "waiting": 3, "errors": 2}
    setup.provider.gate.set()
    for client in clients:
        pool.putconn(cast("Any", client.get()))
    assert counted(pool) == {"num": 5, "waiting": 0, "errors": 2}


def test_a_timeout_counts_and_names_the_missing_step(setup: Setup) -> None:
    pool = without_credentials(setup)
    with pytest.raises(NotReady) as caught:
        pool.getconn(BRIEF)
    assert isinstance(caught.value, psycopg_pool.PoolTimeout)
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_errors"]) == (1, 1)


def test_a_pool_without_a_minimum_opens_a_connection_for_the_first_client(setup: Setup) -> None:
    pool = without_credentials(setup, min_size=0, max_size=2)
    (client,) = queue(pool, 1)
    setup.provider.gate.set()
    connection: Any = client.get()
    assert user_of(connection) == setup.role(1)
    connection.rollback()
    pool.putconn(connection)


def test_a_waiting_checkout_fails_with_pool_closed(setup: Setup) -> None:
    pool = without_credentials(setup)
    clients = queue(pool, 2)
    closing = Worker(pool.close, BRIEF)
    for client in clients:
        assert isinstance(client.join().error, psycopg_pool.PoolClosed)
    setup.provider.gate.set()
    closing.get()


def test_waiting_for_the_pool_ends_when_it_is_closed(setup: Setup) -> None:
    """The keeper is not the pool's own, and stays open."""
    setup.clock()
    pool = without_credentials(setup)
    opening = Worker(pool.wait, 10 * PATIENCE)
    pool.close(BRIEF)
    # The latter where it had not begun to.
    ended = (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed)
    assert isinstance(opening.join().error, ended)


def test_drain_before_the_pool_is_open_has_nothing_to_do(setup: Setup) -> None:
    pool = setup.make(min_size=1, max_size=1)
    pool.drain()
    pool.open(wait=True, timeout=PATIENCE)
    with pool.connection() as connection:
        assert user_of(connection) == setup.role(1)


@pytest.mark.parametrize("error", HOPELESS)
def test_waiting_checkouts_fail_at_once_where_waiting_cannot_help(
    setup: Setup, error: Exception
) -> None:
    pool = without_credentials(setup, max_size=2)
    clients = queue(pool, 3, timeout=3600.0)
    setup.provider.failures["fetch"] = [error] * 1000
    setup.provider.gate.set()
    for client in clients:
        with pytest.raises(type(error), match=str(error)) as caught:
            client.get()
        assert isinstance(caught.value, psycopg_pool.PoolTimeout)
    assert counted(pool) == {"num": 3, "waiting": 0, "errors": 3}


@pytest.mark.parametrize("error", HOPELESS)
def test_later_checkouts_fail_at_once_until_the_fault_is_fixed(
    setup: Setup, error: Exception
) -> None:
    setup.provider.failures["fetch"] = [error] * 1000
    pool = setup.pool(wait=False, min_size=1, max_size=1)
    setup.events.wait_for(FetchFailed)
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            pool.getconn(3600.0)
    assert counted(pool) == {"num": 2, "waiting": 0, "errors": 2}
    setup.provider.failures["fetch"].clear()
    setup.events.wait_for(CredentialsPublished)
    pool.wait(PATIENCE)
    with pool.connection(PATIENCE) as connection:
        assert user_of(connection) == setup.role(1)
