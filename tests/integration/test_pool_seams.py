"""What others do with a pool of psycopg's, through its public names: it has to work as before."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from minting import BRIEF, PATIENCE
from twins import Setup, user_of, wait_until

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    ConfigurationError,
    NotReady,
    RotatingConnectionPool,
    RotationPolicy,
)
from ephemeral_creds.events import BorrowedAtDeadline

if TYPE_CHECKING:
    from collections.abc import Callable

NOWHERE = "host=127.0.0.1 port=1 dbname=postgres"


def apart(setup: Setup, pool: RotatingConnectionPool[Any], **options: Any) -> Any:
    """Open a connection as job queues do to LISTEN on."""
    connection = setup.twin.connect(
        pool.connection_class, setup.server.conninfo(), autocommit=True, **options
    )
    setup.stack.callback(connection.close)
    return connection


def counting_closes(setup: Setup, closed: list[int]) -> type[Any]:
    """Make a connection class that writes down the process id of each session it closes."""

    class Counting(psycopg.Connection[Any]):
        def close(self) -> None:
            if not self.closed:
                closed.append(self.info.backend_pid)
            super().close()

    class AsyncCounting(psycopg.AsyncConnection[Any]):
        async def close(self) -> None:
            if not self.closed:
                closed.append(self.info.backend_pid)
            await super().close()

    return AsyncCounting if setup.twin.name == "async" else Counting


def telling_of_outages(setup: Setup, tell: Callable[[], None]) -> type[Any]:
    """Make a pool that overrides `reconnect_failed` and calls nothing of psycopg_pool's."""

    class Telling(RotatingConnectionPool[Any]):
        def reconnect_failed(self) -> None:
            tell()

    class AsyncTelling(AsyncRotatingConnectionPool[Any]):
        async def reconnect_failed(self) -> None:
            tell()

    return AsyncTelling if setup.twin.name == "async" else Telling


def counting_loans(setup: Setup, loans: list[int]) -> type[Any]:
    """Make a pool that overrides `getconn` and `putconn` to write down how many are lent."""

    class Counting(RotatingConnectionPool[Any]):
        def getconn(self, timeout: float | None = None) -> Any:
            connection = super().getconn(timeout)
            loans.append(1)
            return connection

        def putconn(self, conn: Any) -> None:
            loans.append(-1)
            super().putconn(conn)

    class AsyncCounting(AsyncRotatingConnectionPool[Any]):
        async def getconn(self, timeout: float | None = None) -> Any:
            connection = await super().getconn(timeout)
            loans.append(1)
            return connection

        async def putconn(self, conn: Any) -> None:
            loans.append(-1)
            await super().putconn(conn)

    return AsyncCounting if setup.twin.name == "async" else Counting


class TestConnectionClass:
    def test_an_unpooled_connection_has_the_given_arguments(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        connection = apart(setup, pool, application_name="listener")
        assert connection.autocommit
        assert connection.info.get_parameters()["application_name"] == "listener"
        assert user_of(connection) == setup.role(1)
        assert isinstance(getattr(connection, "raw", connection), pool.connection_class)

    def test_a_replacement_that_waits_is_not_for_others(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1, rotation=RotationPolicy(park=3600.0))
        with pool.connection():
            setup.rotate(2)
            wait_until(lambda: setup.provider.sessions() == {setup.role(1): 1, setup.role(2): 1})
            listener = apart(setup, pool)
            assert listener.autocommit
            assert user_of(listener) == setup.role(2)
            assert pool.status().connections == {1: 1, 2: 1}
        heard: list[str] = []
        listener.add_notify_handler(lambda notify: heard.append(notify.payload))
        listener.execute(f"LISTEN {setup.prefix}")
        with pool.connection() as connection:
            connection.execute(f"NOTIFY {setup.prefix}, 'hello'")
        listener.execute("SELECT 1")
        assert heard == ["hello"]

    def test_the_pool_lets_go_of_a_lease_that_only_others_use(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2)
        listener = apart(setup, pool)
        setup.rotate(2)
        setup.revoked(1)
        assert pool.status().stale == 0
        assert setup.events.of(BorrowedAtDeadline) == []
        # What PostgreSQL makes of a session without a role is between the two of them.
        assert listener.info.user == setup.role(1)

    def test_configure_may_connect_for_itself(self, setup: Setup) -> None:
        seen: list[str] = []

        def configure(_: object) -> Any:
            opening = pool.connection_class.connect(setup.server.conninfo(), **options)
            return look_async(opening) if setup.twin.name == "async" else look(opening)

        def look(connection: Any) -> None:
            seen.append(connection.info.get_parameters()["application_name"])
            connection.close()

        async def look_async(opening: Any) -> None:
            connection = await opening
            seen.append(connection.info.get_parameters()["application_name"])
            await connection.close()

        options: dict[str, Any] = {"application_name": "apart"}
        pool = setup.make(min_size=1, configure=configure)
        pool.open(wait=True, timeout=PATIENCE)
        assert seen == ["apart"]
        assert pool.status().connections == {1: 1}

    def test_session_role_holds_for_others_too(self, setup: Setup) -> None:
        role = f"{setup.prefix}_owner"
        with setup.server.admin() as admin:
            admin.execute(f'CREATE ROLE "{role}"')
        setup.stack.callback(setup.provider._admin.execute, f'DROP ROLE "{role}"')
        setup.provider.grants = [role]
        pool = setup.pool(min_size=1, session_role=role)
        assert user_of(apart(setup, pool)) == role

    def test_without_credentials_it_fails_as_a_checkout_does(self, setup: Setup) -> None:
        pool = setup.make(rotation=RotationPolicy(connect_timeout=BRIEF))
        with pytest.raises(NotReady) as caught:
            apart(setup, pool)
        assert isinstance(caught.value, psycopg.OperationalError)

    def test_a_user_among_the_arguments_is_an_error(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        with pytest.raises(ConfigurationError, match="remove it"):
            apart(setup, pool, user="somebody")

    def test_it_shows_whose_it_is(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        base = "AsyncConnection" if setup.twin.name == "async" else "Connection"
        with pool.connection() as connection:
            shown = repr(getattr(connection, "raw", connection))
        module = f"ephemeral_creds.pool._{setup.twin.name}.session"
        assert shown.startswith(f"<{module}.Leased{base} [")
        listener = apart(setup, pool)
        assert repr(getattr(listener, "raw", listener)).startswith(f"<{module}.Unpooled{base} [")

    def test_a_connection_has_one_attribute_of_the_librarys(self, setup: Setup) -> None:
        def attributes(pool: Any) -> set[str]:
            with pool.connection() as connection:
                return set(vars(getattr(connection, "raw", connection)))

        traced = setup.pool(min_size=1, rotation=RotationPolicy(trace_borrowers=True))
        server = setup.server
        login = {"user": server.superuser, "password": server.password.reveal()}
        with psycopg_pool.ConnectionPool(server.conninfo(), kwargs=login, min_size=1) as plain:
            assert attributes(traced) == attributes(plain) | {"_lease"}


class TestClose:
    def test_a_broken_connection_goes_back_as_any_other(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1, max_size=1, close_returns=True)
        for _ in range(3):
            connection = pool.getconn(timeout=PATIENCE)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            connection.close()
            connection.close()
        with pool.connection(timeout=PATIENCE) as connection:
            assert user_of(connection) == setup.role(1)
        assert pool.get_stats()["pool_size"] == 1
        wait_until(lambda: pool.status().connections == {1: 1})

    @pytest.mark.parametrize("close_returns", [False, True])
    def test_the_users_own_is_called_for_each_connection(
        self, setup: Setup, close_returns: bool
    ) -> None:
        opened: list[int] = []
        closed: list[int] = []
        pool = setup.pool(
            min_size=3,
            connection_class=counting_closes(setup, closed),
            configure=lambda connection: opened.append(connection.info.backend_pid),
            close_returns=close_returns,
        )
        for generation in (2, 3):
            with pool.connection(), pool.connection():
                setup.rotate(generation)
            setup.revoked(generation - 1)
        with pool.connection():
            pool.verify_connections()
            setup.provider._admin.execute(f'DROP ROLE "{setup.role(3)}"')
        setup.provider.change()
        setup.published(4)
        wait_until(lambda: pool.status().connections == {4: 3})
        pool.close()
        setup.provider.wait_for_sessions({})
        assert sorted(closed) == sorted(opened)

    def test_a_pool_that_was_never_open_can_still_be_opened(self, setup: Setup) -> None:
        pool = setup.make(min_size=1)
        pool.close()
        pool.open(wait=True, timeout=PATIENCE)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(1)


class TestSubclasses:
    def test_putconn_is_called_only_for_connections_of_getconn(self, setup: Setup) -> None:
        loans: list[int] = []
        pool = setup.pool(min_size=3, kind=counting_loans(setup, loans))
        for generation in (2, 3):
            with pool.connection():
                setup.rotate(generation)
                pool.verify_connections()
            setup.revoked(generation - 1)
        wait_until(lambda: pool.status().connections == {3: 3})
        with pool.connection():
            pass
        assert loans == [1, -1] * 3


class TestOutages:
    def test_a_pool_with_a_reconnect_failed_of_its_own_fills_up_again(self, setup: Setup) -> None:
        up, told = threading.Event(), threading.Semaphore(0)
        attempts: list[int] = []

        def conninfo() -> str:
            attempts.append(1)
            return setup.server.conninfo() if up.is_set() else NOWHERE

        pool = setup.pool(
            wait=False,
            min_size=2,
            conninfo=conninfo,
            kind=telling_of_outages(setup, told.release),
            reconnect_timeout=0.3,
            rotation=RotationPolicy(retry_initial=0.05, retry_max=0.1),
        )
        assert told.acquire(timeout=PATIENCE)
        wait_until(lambda: len(attempts) > 10)
        assert pool.get_stats()["pool_size"] == 2
        up.set()
        wait_until(lambda: pool.get_stats()["pool_available"] == 2)
        assert not told.acquire(blocking=False)
        stats = pool.get_stats()
        assert stats["connections_num"] == len(attempts)
        assert stats["connections_errors"] == len(attempts) - 2

    def test_it_is_called_on_time_and_not_with_the_next_attempt(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        told = threading.Event()
        pool = setup.pool(
            wait=False,
            min_size=1,
            conninfo=NOWHERE,
            reconnect_timeout=BRIEF,
            reconnect_failed=lambda _: told.set(),
            rotation=RotationPolicy(retry_initial=3600.0, retry_max=3600.0),
        )
        assert told.wait(PATIENCE)
        assert pool.get_stats()["connections_num"] == 1
        assert "each reconnection attempt of 0.1 s has failed" in caplog.text


class TestAttributes:
    @pytest.mark.parametrize("name", ["conninfo", "kwargs"])
    def test_a_later_setting_applies_after_a_rotation(self, setup: Setup, name: str) -> None:
        pool: Any = setup.pool(min_size=2)
        raw = getattr(pool, "raw", pool)
        if name == "conninfo":
            raw.conninfo = setup.server.conninfo() + " application_name=moved"
        else:
            raw.kwargs = {"application_name": "moved"}
        for generation in (2, 3):
            setup.rotate(generation)
            setup.revoked(generation - 1)
            with pool.connection() as first, pool.connection() as second:
                for connection in (first, second):
                    shown = connection.execute("SHOW application_name").fetchone()
                    assert shown == ("moved",)

    def test_they_read_as_they_were_given(self, setup: Setup) -> None:
        pool = setup.make(reconnect_timeout=17.0, kwargs={"application_name": "x"})
        assert pool.reconnect_timeout == 17.0
        assert pool.conninfo == setup.server.conninfo()
        assert pool.kwargs == {"application_name": "x"}
