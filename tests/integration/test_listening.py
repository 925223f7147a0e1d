"""Connections that wait for notifications while their credentials are replaced."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from minting import BRIEF, PATIENCE
from twins import AsyncTwin, Worker, user_of

from ephemeral_creds import ConfigurationError, RotationPolicy

if TYPE_CHECKING:
    from twins import Setup

END = RotationPolicy(listening="end")
TWO: dict[str, Any] = {"min_size": 1, "max_size": 2, "kwargs": {"autocommit": True}}


def notices(setup: Setup, connection: Any, **options: Any) -> list[str]:
    """Wait for notifications, and return what they say."""
    if not isinstance(setup.twin, AsyncTwin):
        return [notice.payload for notice in connection.notifies(**options)]

    async def wait() -> list[str]:
        return [notice.payload async for notice in connection.raw.notifies(**options)]

    return setup.twin.loop.run(wait())


def unpooled(setup: Setup, pool: Any) -> Any:
    connection = setup.twin.connect(pool.connection_class, setup.server.conninfo(), autocommit=True)
    setup.stack.callback(connection.close)
    return connection


@pytest.mark.slow
class TestEnd:
    def test_a_borrowed_connection_listens_no_longer_than_its_credentials_are_in_use(
        self, setup: Setup
    ) -> None:
        pool = setup.pool(min_size=1, rotation=END)

        borrowed = threading.Event()

        def listen() -> None:
            with pool.connection() as connection:
                borrowed.set()
                notices(setup, connection)

        listening = Worker(listen)
        assert borrowed.wait(PATIENCE)
        setup.rotate(2)
        with pytest.raises(psycopg.OperationalError, match="listen on another"):
            listening.get()
        setup.revoked(1)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(2)

    def test_a_connection_outside_the_pool_does_not_either(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1, rotation=END)
        connection = unpooled(setup, pool)
        assert notices(setup, connection, timeout=BRIEF) == []
        setup.rotate(2)
        with pytest.raises(psycopg.OperationalError, match="listen on another"):
            notices(setup, connection, timeout=PATIENCE)
        assert not connection.closed

    def test_earlier_notifications_are_passed_on(self, setup: Setup) -> None:
        pool = setup.pool(rotation=END, **TWO)
        channel = setup.prefix
        with pool.connection() as connection, pool.connection() as other:
            connection.execute(f"LISTEN {channel}")
            setup.rotate(2)
            for number in range(3):
                other.execute(f"NOTIFY {channel}, '{number}'")
            assert notices(setup, connection, stop_after=3) == ["0", "1", "2"]

    def test_the_arguments_mean_what_they_do_without_a_pool(self, setup: Setup) -> None:
        pool = setup.pool(rotation=END, **TWO)
        channel = setup.prefix
        with pool.connection() as connection, pool.connection() as other:
            connection.execute(f"LISTEN {channel}")
            assert notices(setup, connection, timeout=0) == []
            waiting = Worker(notices, setup, connection, stop_after=2)
            for number in range(2):
                other.execute(f"NOTIFY {channel}, '{number}'")
            assert waiting.get() == ["0", "1"]
            assert notices(setup, connection, timeout=BRIEF) == []


@pytest.mark.slow
def test_without_the_policy_a_connection_listens_on(setup: Setup) -> None:
    pool = setup.pool(**TWO)
    with pool.connection() as connection:
        connection.execute(f"LISTEN {setup.prefix}")
        setup.rotate(2)
        with pool.connection() as other:
            assert user_of(other) == setup.role(2)
            other.execute(f"NOTIFY {setup.prefix}, 'x'")
        assert notices(setup, connection, stop_after=1) == ["x"]
        assert notices(setup, connection, timeout=2.0) == []


def test_another_policy_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"listening='close'.* 'leave' or 'end'"):
        RotationPolicy(listening="close")  # type: ignore[arg-type]
