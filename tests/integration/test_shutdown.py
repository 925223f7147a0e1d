"""Closing: under load, in the middle of things, with everything else gone, and by itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import textwrap
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from minting import BRIEF, PATIENCE, Events, RoleProvider
from scripts import run
from twins import EAGER, AsyncTwin, Worker, user_of, wait_until, work_until

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    CredentialKeeper,
    RotatingConnectionPool,
)
from ephemeral_creds.exceptions import KeeperClosed, ProviderUnavailable
from ephemeral_creds.testing import TCPProxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from twins import Setup

    from ephemeral_creds.testing import PostgresServer


def closes(pool: Any, timeout: float) -> None:
    """Close a pool whose surroundings never answer: without a bound, it would never return."""
    started = time.monotonic()
    pool.close(timeout)
    assert time.monotonic() - started < PATIENCE
    assert pool.closed


class TestClose:
    def test_the_lease_is_revoked(self, setup: Setup) -> None:
        pool = setup.pool()
        pool.close(PATIENCE)
        assert setup.provider.roles() == []
        assert setup.provider.closed
        pool.close()
        with pytest.raises(psycopg_pool.PoolClosed):
            pool.getconn()
        with pytest.raises(psycopg_pool.PoolClosed):
            pool.open()

    def test_under_load_all_workers_get_pool_closed(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2, max_size=4)
        workers = [Worker(work_until, pool, threading.Event()) for _ in range(8)]
        wait_until(lambda: pool.get_stats().get("requests_num", 0) > 20)
        closes(pool, timeout=PATIENCE / 2)
        for worker in workers:
            with pytest.raises(psycopg_pool.PoolClosed):
                worker.get()
        assert setup.provider.roles() == []
        wait_until(lambda: setup.provider.sessions() == {})

    def test_a_borrowed_connection_keeps_its_role_until_it_is_returned(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        borrowed = pool.getconn()
        closing = Worker(pool.close, PATIENCE)
        wait_until(lambda: pool.closed)
        assert user_of(borrowed) == setup.role(1)
        borrowed.rollback()
        assert closing.running
        assert setup.provider.roles() == [setup.role(1)]
        pool.putconn(borrowed)
        closing.get()
        assert borrowed.closed
        assert setup.provider.roles() == []

    def test_a_connection_that_waits_to_be_reset_is_closed(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        """psycopg_pool forgets it, and leaves it open."""
        reached, go_on = threading.Event(), threading.Event()

        def reset(_: object) -> None:
            reached.set()
            assert go_on.wait(PATIENCE)

        async def reset_async(connection: object) -> None:
            await asyncio.to_thread(reset, connection)

        pool = setup.pool(
            min_size=2,
            num_workers=1,
            reset=reset_async if isinstance(setup.twin, AsyncTwin) else reset,
        )
        for connection in [pool.getconn(), pool.getconn()]:
            pool.putconn(connection)
        assert reached.wait(PATIENCE)
        # The second one is in the queue behind the first.
        closing = Worker(pool.close, timeout=PATIENCE)
        wait_until(lambda: pool.closed)
        go_on.set()
        closing.get()
        assert setup.provider.roles() == []
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    def test_connections_that_were_just_returned_do_not_delay_close(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(5):
            pool = setup.pool(min_size=4, reset=lambda _: None)
            connections = [pool.getconn() for _ in range(4)]
            returning = [Worker(pool.putconn, connection) for connection in connections]
            started = time.monotonic()
            pool.close(timeout=PATIENCE)
            assert time.monotonic() - started < PATIENCE / 2
            for worker in returning:
                worker.get()
            setup.provider = RoleProvider(setup.server, setup.prefix)
            setup.stack.callback(setup.provider.disconnect)
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    def test_a_connection_that_is_never_returned_does_not_block_close(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = setup.pool(min_size=1)
        borrowed = pool.getconn()
        closes(pool, timeout=0.3)
        assert "still borrowed or being opened: 1." in caplog.text
        wait_until(lambda: setup.provider.roles() == [])
        assert borrowed.execute("SELECT 1").fetchone() == (1,)
        borrowed.rollback()
        pool.putconn(borrowed)
        assert borrowed.closed

    def test_d13_in_the_middle_of_a_rotation(self, setup: Setup) -> None:
        gate = setup.twin.gate()
        pool = setup.pool(min_size=3, connection_class=gate)
        setup.rotate(2)
        setup.revoked(1)
        while gate.reached.acquire(blocking=False):
            pass
        gate.opened.clear()
        setup.provider.change()
        assert gate.reached.acquire(timeout=PATIENCE)
        closing = Worker(pool.close, PATIENCE / 2)
        wait_until(lambda: pool.closed)
        gate.opened.set()
        closing.get()
        assert setup.provider.roles() == []
        wait_until(lambda: setup.provider.sessions() == {})

    def test_while_connections_are_moving(self, setup: Setup) -> None:
        gate = setup.twin.gate()
        pool = setup.pool(min_size=6, connection_class=gate)
        borrowed = [pool.getconn() for _ in range(6)]
        setup.rotate(2)
        gate.opened.clear()
        for connection in borrowed:
            pool.putconn(connection)
        closing = Worker(pool.close, PATIENCE / 2)
        wait_until(lambda: pool.closed)
        gate.opened.set()
        closing.get()
        assert setup.provider.roles() == []
        wait_until(lambda: setup.provider.sessions() == {})

    def test_a_provider_that_hangs_does_not_hold_it_up(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = setup.pool(min_size=1)
        setup.provider.gate.clear()
        setup.provider.change()
        wait_until(lambda: setup.provider.calls.count("fetch") == 2)
        closes(pool, timeout=0.2)
        assert "does not answer" in caplog.text
        # When it comes to, what it brought and what there was are revoked.
        setup.provider.gate.set()
        wait_until(lambda: setup.provider.closed)
        assert setup.provider.roles() == []

    def test_a_provider_that_hangs_from_the_start(self, setup: Setup) -> None:
        setup.provider.gate.clear()
        pool = setup.pool(wait=False)
        waiting = Worker(pool.getconn, timeout=3600.0)
        wait_until(lambda: setup.provider.calls == ["fetch"])
        closes(pool, timeout=0.5)
        with pytest.raises((KeeperClosed, psycopg_pool.PoolClosed)):
            waiting.get()
        # What it brings too late is revoked.
        setup.provider.gate.set()
        wait_until(lambda: setup.provider.closed)
        assert setup.provider.calls == ["fetch", "revoke 1"]
        assert setup.provider.roles() == []

    def test_a_revocation_that_fails_is_left_to_the_lease(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        setup.provider.failures["revoke"] = [ProviderUnavailable("sealed")] * 100
        closes(pool, timeout=2.0)
        wait_until(lambda: setup.provider.closed)

    def test_postgresql_gone(self, setup: Setup, own_postgres: PostgresServer) -> None:
        provider = RoleProvider(own_postgres, setup.prefix)
        pool = setup.pool(
            provider, refresh=EAGER, observers=[setup.events], conninfo=own_postgres.conninfo()
        )
        own_postgres.stop(immediate=True)
        with pytest.raises(psycopg.OperationalError):
            pool.getconn(timeout=0.3).execute("SELECT 1")
        closes(pool, timeout=1.0)

    def test_postgresql_silent(self, setup: Setup) -> None:
        """Packets are dropped: connects hang, and so do queries."""
        with TCPProxy(setup.server.host, setup.server.port) as proxy:
            pool = setup.pool(
                conninfo=f"host={proxy.host} port={proxy.port} dbname=postgres sslmode=disable",
                min_size=2,
                max_size=8,
            )
            proxy.stall()
            before = proxy.total
            pool.resize(6, 8)
            wait_until(lambda: proxy.total > before)
            setup.provider.change()
            closes(pool, timeout=1.0)
            wait_until(lambda: setup.provider.roles() == [])

    def test_with_a_proof_under_way(self, setup: Setup) -> None:
        gate = setup.twin.gate()
        keeper = CredentialKeeper(setup.provider, refresh=EAGER, observers=[setup.events])
        with keeper:
            pool = setup.pool(keeper, min_size=1, max_size=1, connection_class=gate)
            while gate.reached.acquire(blocking=False):
                pass
            gate.opened.clear()
            setup.provider.change()
            assert gate.reached.acquire(timeout=PATIENCE)
            pool.close(timeout=BRIEF)
            gate.opened.set()
            wait_until(lambda: setup.provider.sessions() == {})

    def test_from_two_threads_at_once(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2)
        closing = [Worker(pool.close, PATIENCE / 2) for _ in range(2)]
        for worker in closing:
            worker.get()
        assert pool.closed
        assert setup.provider.calls.count("revoke 1") == 1

    def test_interrupted_it_revokes_the_lease_in_the_background(
        self, setup: Setup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Interrupted(BaseException):
            pass

        def interrupt(_: float) -> None:
            raise Interrupted

        pool = setup.pool()
        monkeypatch.setattr(pool._worker, "join", interrupt)
        with pytest.raises(Interrupted):
            pool.close()
        setup.revoked(1)

    def test_while_it_is_being_opened(
        self,
        postgres: PostgresServer,
        unique: Callable[[str], str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        provider = RoleProvider(postgres, unique("pool"))
        pool = RotatingConnectionPool(
            provider, postgres.conninfo(), min_size=1, refresh=EAGER, observers=[]
        )
        closing: list[Worker] = []
        open_for_real = psycopg_pool.ConnectionPool.open

        def open_late(*args: Any, **kwargs: Any) -> None:
            closing.append(Worker(pool.close))
            if not pool._beginning.locked():
                closing[0].join()
            open_for_real(*args, **kwargs)

        monkeypatch.setattr(psycopg_pool.ConnectionPool, "open", open_late)
        pool.open()
        closing[0].join()
        assert pool.closed
        assert provider.closed
        provider.disconnect()

    def test_a_shared_keeper_stays(self, setup: Setup) -> None:
        keeper = CredentialKeeper(setup.provider, refresh=EAGER, observers=[setup.events])
        with keeper:
            first = setup.pool(keeper, min_size=1)
            second = setup.pool(keeper, min_size=1)
            first.close()
            with second.connection() as connection:
                assert user_of(connection) == setup.role(1)
            setup.rotate(2)
            setup.revoked(1)
            second.close()
            assert keeper.status().ready
        assert setup.provider.roles() == []

    def test_a_keeper_that_was_closed_first(self, setup: Setup) -> None:
        keeper = CredentialKeeper(setup.provider, refresh=EAGER, observers=[setup.events])
        keeper.start()
        pool = setup.pool(keeper, min_size=1)
        keeper.close(PATIENCE)
        assert setup.provider.roles() == []
        closes(pool, timeout=1.0)

    def test_no_thread_is_left(self, setup: Setup) -> None:
        before = set(threading.enumerate())
        pool = setup.pool(min_size=2)
        setup.rotate(2)
        pool.close()
        ours = {t for t in set(threading.enumerate()) - before if "asyncio" not in t.name}
        wait_until(lambda: not any(t.is_alive() for t in ours), f"the end of {ours}")


class TestForgotten:
    def test_a_pool_that_was_not_closed_revokes_its_lease(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        provider, events = RoleProvider(postgres, unique("pool")), Events()
        before = set(threading.enumerate())
        pool = RotatingConnectionPool(
            provider, postgres.conninfo(), refresh=EAGER, observers=[events], min_size=2
        )
        pool.open(wait=True)
        gone = weakref.ref(pool)
        del pool
        wait_until(lambda: gc.collect() is not None and gone() is None)
        wait_until(lambda: provider.closed)
        assert provider.roles() == []
        provider.wait_for_sessions({})
        wait_until(lambda: set(threading.enumerate()) <= before)
        provider.disconnect()

    def test_an_async_one_too(self, postgres: PostgresServer, unique: Callable[[str], str]) -> None:
        provider, events = RoleProvider(postgres, unique("pool")), Events()

        async def forget() -> None:
            pool: AsyncRotatingConnectionPool[Any] = AsyncRotatingConnectionPool(
                provider, postgres.conninfo(), refresh=EAGER, observers=[events], min_size=2
            )
            await pool.open(wait=True)
            gone = weakref.ref(pool)
            del pool
            for _ in range(int(PATIENCE / 0.01)):
                gc.collect()
                if gone() is None:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("something holds the pool")

        asyncio.run(forget())
        wait_until(lambda: provider.closed)
        assert provider.roles() == []
        provider.wait_for_sessions({})
        provider.disconnect()


ENDS = {
    "normal": "",
    "exit": "sys.exit(3)",
    "exception": "raise RuntimeError('on purpose')",
    "borrowed": "borrowed = pool.getconn()",
    "in rotation": "provider.change()",
    "in a cycle": "pool.itself = pool; del pool",
}
CODES = {"exit": 3, "exception": 1}


class TestInterpretersExit:
    @pytest.mark.parametrize("end", ENDS)
    def test_sync(self, postgres: PostgresServer, unique: Callable[[str], str], end: str) -> None:
        body = f"""\
            provider = Roles()
            pool = make(provider)
            pool.open(wait=True)
            with pool.connection() as connection:
                connection.execute("SELECT 1")
            up()
            {ENDS[end]}
            """
        check(postgres, unique("exit"), body, end)

    @pytest.mark.parametrize("end", ENDS)
    def test_async(self, postgres: PostgresServer, unique: Callable[[str], str], end: str) -> None:
        body = f"""\
            async def main():
                global pool, borrowed
                provider = Roles()
                pool = make(provider, "async")
                await pool.open(wait=True)
                async with pool.connection() as connection:
                    await connection.execute("SELECT 1")
                up()
                {ENDS[end].replace("pool.getconn", "await pool.getconn")}
            asyncio.run(main())
            """
        check(postgres, unique("exit"), body, end)

    @pytest.mark.parametrize("order", ["pools first", "keeper first"])
    def test_shared_keeper(
        self, postgres: PostgresServer, unique: Callable[[str], str], order: str
    ) -> None:
        body = f"""\
            from ephemeral_creds import CredentialKeeper
            keeper = CredentialKeeper(Roles(), observers=())
            pools = [make(keeper), make(keeper)]
            if {order == "keeper first"}:
                keeper.start()
            for pool in pools:
                pool.open()
            keeper.start()
            for pool in pools:
                pool.wait()
            up()
            """
        check(postgres, unique("exit"), body, "normal")

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_closed_properly(
        self, postgres: PostgresServer, unique: Callable[[str], str], kind: str
    ) -> None:
        maybe, wait = ("async ", "await ") if kind == "async" else ("", "")
        body = f"""\
            {maybe}def main():
                {maybe}with make(None, "{kind}") as pool:
                    {wait}pool.wait()
                    up()
            {"asyncio.run(main())" if kind == "async" else "main()"}
            """
        check(postgres, unique("exit"), body, "normal")

    def test_a_provider_that_hangs_is_waited_for_once(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        body = """\
            provider = Roles()
            pool = make(provider)
            pool.open(wait=True)
            provider.gate.clear()
            up()
            pool.close(1.0)
            """
        prefix = unique("exit")
        ended = run(postgres, prefix, textwrap.dedent(body))
        assert (ended.code, ended.noise) == (0, [])
        assert ended.err.count("does not answer") == 1
        assert ended.seconds < PATIENCE
        # No process was left to revoke it.
        (role,) = postgres.roles(prefix)
        with postgres.admin() as admin:
            admin.execute(f"DROP ROLE {role}")


def check(postgres: PostgresServer, prefix: str, body: str, end: str) -> None:
    ended = run(postgres, prefix, body)
    assert (ended.code, ended.out) == (CODES.get(end, 0), "up\n"), ended.err
    expected = 1 if end == "exception" else 0
    assert len(ended.noise) == expected, ended.err
    assert ended.seconds < PATIENCE, ended.err
    assert postgres.roles(prefix) == []
