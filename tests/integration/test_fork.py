"""Real forks: the child refuses what it inherited, and the parent never notices."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import pytest
from scripts import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import PostgresServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

KINDS = ["sync", "async"]

# What programs share: an open pool in the parent, and how its child and it make sure of things.
# From Python 3.12 on, forking a process with threads is warned of; here it is meant.
HEAD = """\
import warnings
from psycopg_pool import PoolClosed
from ephemeral_creds import CredentialKeeper, KeeperClosed
warnings.filterwarnings("ignore", "This process", DeprecationWarning)

def use(pool):
    # A pool of either kind, in a process without a running loop.
    if hasattr(pool, "__aenter__"):
        async def main():
            async with pool:
                async with pool.connection() as connection:
                    await connection.execute("SELECT current_user")
        asyncio.run(main())
    else:
        with pool, pool.connection() as connection:
            connection.execute("SELECT current_user")

def refused(function, *kinds, says):
    try:
        value = function()
        if asyncio.iscoroutine(value):
            asyncio.run(value)
    except kinds as error:
        assert says in str(error), error
    else:
        raise AssertionError("not refused")

def children(count, work):
    # Each ends as a gunicorn worker does: by SystemExit, with all that Python does at the end.
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            work(number)
            sys.exit(10 + number)
        pids.append(pid)
    for number, pid in enumerate(pids):
        assert exit_status(pid) == 10 + number
"""

# The parent's pool, and a check that it is as it was, with the very same sessions.
SYNC_PARENT = """\
def parent(work):
    provider = Roles("parent")
    pool = make(provider)
    pool.open(wait=True)
    def pids():
        connections = [pool.getconn() for _ in range(2)]
        found = {c.execute("SELECT pg_backend_pid()").fetchone() for c in connections}
        for c in connections:
            c.rollback()
            pool.putconn(c)
        return found
    before = pids()
    up()
    work(pool, provider)
    assert pids() == before
    assert sessions("parent") == {provider.prefix + "_1": 2}, sessions()
    assert provider.calls == ["fetch"]
    pool.close()
"""
ASYNC_PARENT = """\
def parent(work):
    async def main():
        provider = Roles("parent")
        pool = make(provider, "async")
        await pool.open(wait=True)
        async def pids():
            connections = [await pool.getconn() for _ in range(2)]
            found = set()
            for c in connections:
                cursor = await c.execute("SELECT pg_backend_pid()")
                found.add(await cursor.fetchone())
                await c.rollback()
                await pool.putconn(c)
            return found
        before = await pids()
        up()
        # Children are forked outside of the loop, as servers do.
        thread = threading.Thread(target=work, args=(pool, provider))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        assert await pids() == before
        assert sessions("parent") == {provider.prefix + "_1": 2}, sessions()
        assert provider.calls == ["fetch"]
        await pool.close()
    asyncio.run(main())
"""


def check(postgres: PostgresServer, prefix: str, *parts: str) -> None:
    ended = run(postgres, prefix, "\n".join([HEAD, *map(textwrap.dedent, parts)]))
    assert (ended.code, ended.noise, ended.out[:3]) == (0, [], "up\n"), ended.err
    assert postgres.roles(prefix) == []


class TestPrefork:
    """A master that opened a pool forks two workers, in the way of gunicorn."""

    CHILD = """
        def child(pool, provider, number):
            refused(lambda: pool.getconn(timeout=1.0), PoolClosed, says="post_fork")
            refused(pool.open, PoolClosed, says="post_fork")
            refused(lambda: pool.resize(1), PoolClosed, says="post_fork")
            refused(pool.check, PoolClosed, says="post_fork")
            refused(pool.drain, PoolClosed, says="post_fork")
            status = pool.status()
            assert not status.ready and status.connections == {}, status
            pool.get_stats()
            if asyncio.iscoroutine(closing := pool.close()):
                asyncio.run(closing)
            use(make(Roles(f"child{number}"), KIND))
            assert provider.calls == ["fetch"]
        """

    @pytest.mark.parametrize("kind", KINDS)
    def test_d12_workers_make_pools_of_their_own(
        self, postgres: PostgresServer, unique: Callable[[str], str], kind: str
    ) -> None:
        check(
            postgres,
            unique("fork"),
            f"KIND = {kind!r}",
            self.CHILD,
            SYNC_PARENT,
            "parent(lambda pool, provider: children(2, lambda n: child(pool, provider, n)))",
        )

    def test_a_pool_that_keeps_no_connection_is_refused_as_well(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        program = """
            provider = Roles("parent")
            pool = make(provider, "null")
            pool.open(wait=True)
            up()
            def child(number):
                refused(lambda: pool.getconn(timeout=1.0), PoolClosed, says="post_fork")
                refused(pool.open, PoolClosed, says="post_fork")
                assert not pool.status().ready
                pool.close()
                use(make(Roles(f"child{number}"), "null"))
            children(2, child)
            assert provider.calls == ["fetch"]
            use(pool)
            """
        check(postgres, unique("fork"), program)

    def test_forked_while_an_event_loop_serves(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        program = """
            def work(pool, provider):
                pid = os.fork()
                if pid == 0:
                    refused(lambda: pool.getconn(timeout=1.0), PoolClosed, says="post_fork")
                    refused(pool.open, PoolClosed, says="post_fork")
                    assert not pool.status().ready
                    use(make(Roles("child"), "async"))
                    # This is not the main thread, whose end would run what Python does at its end.
                    sys.stderr.flush()
                    os._exit(0)
                assert exit_status(pid) == 0
            parent(work)
            """
        check(postgres, unique("fork"), ASYNC_PARENT, program)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_pool_that_was_only_made_is_opened_by_the_workers(
        self, postgres: PostgresServer, unique: Callable[[str], str], kind: str
    ) -> None:
        """What an application with a pool in a module of its own does, under ``--preload``."""
        program = f"""
            provider = Roles()
            pool = make(provider, {kind!r})
            up()
            def child(number):
                provider.prefix += f"child{{number}}"
                use(pool)
                assert provider.closed and not provider.live
            children(2, child)
            assert provider.calls == []
            use(pool)
            """
        check(postgres, unique("fork"), program)

    def test_with_a_connection_borrowed(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        program = """
            def work(pool, provider):
                with pool.connection() as borrowed:
                    borrowed.execute("SELECT 1")
                    pid = os.fork()
                    if pid == 0:
                        pool.putconn(borrowed)
                        del borrowed
                        os._exit(0)
                    assert exit_status(pid) == 0
                    assert borrowed.execute("SELECT 2").fetchone() == (2,)
            parent(work)
            """
        check(postgres, unique("fork"), SYNC_PARENT, program)

    def test_in_the_middle_of_a_rotation(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        """Some connections are old, some wait for their turn, some are being opened."""
        program = """
            import psycopg
            reached, go = threading.Semaphore(0), threading.Event()
            go.set()
            class Held(psycopg.Connection):
                @classmethod
                def connect(cls, *args, **kwargs):
                    reached.release()
                    assert go.wait(60)
                    return super().connect(*args, **kwargs)
            provider = Roles("parent")
            pool = make(provider, min_size=6, connection_class=Held)
            pool.open(wait=True)
            for _ in range(6):
                reached.acquire()
            up()
            go.clear()
            provider.change()
            reached.acquire()
            def child(number):
                refused(lambda: pool.getconn(1.0), PoolClosed, says="post_fork")
                assert not pool.status().ready
                go.set()
                use(make(Roles(f"child{number}")))
            children(2, child)
            go.set()
            while sessions("parent") != {provider.prefix + "_2": 6}:
                pass
            pool.close()
            """
        check(postgres, unique("fork"), program)


class TestLocks:
    """Whatever lock a thread of the parent holds, it will never let go of it in the child."""

    def test_all_of_them_are_held(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        program = """
            held, done = threading.Semaphore(0), threading.Event()
            def hold(lock):
                with lock:
                    held.release()
                    done.wait()
            def work(pool, provider):
                rotation = pool._rotation
                locks = [
                    pool._keeper._thread.changed, pool._worker._wakeup._condition, rotation._lock,
                    pool._tasks.mutex, pool._sched._lock, pool._lock,
                ]
                for lock in locks:
                    threading.Thread(target=hold, args=(lock,)).start()
                    held.acquire()
                def child(number):
                    import gc
                    refused(lambda: pool.getconn(1.0), PoolClosed, says="post_fork")
                    refused(pool._keeper.current, KeeperClosed, says="after the fork")
                    refused(lambda: pool._keeper.wait(1.0), KeeperClosed, says="after the fork")
                    pool.status(), pool.get_stats(), pool.verify_connections(), pool.close()
                    pool._keeper.close()
                    gc.collect()
                    use(make(Roles(f"child{number}")))
                children(2, child)
                done.set()
            parent(work)
            """
        check(postgres, unique("fork"), SYNC_PARENT, program)

    def test_while_the_keeper_asks_the_provider(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        program = """
            provider = Roles("parent")
            pool = make(provider)
            pool.open(wait=True)
            up()
            provider.gate.clear()
            provider.change()
            while provider.calls != ["fetch", "fetch"]:
                pass
            def child(number):
                refused(lambda: pool.getconn(1.0), PoolClosed, says="post_fork")
                use(make(Roles(f"child{number}")))
            children(2, child)
            provider.gate.set()
            while sessions("parent") != {provider.prefix + "_2": 2}:
                pass
            pool.close()
            """
        check(postgres, unique("fork"), program)


class TestKeeper:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_pool_on_an_inherited_keeper_is_refused_when_it_opens(
        self, postgres: PostgresServer, unique: Callable[[str], str], kind: str
    ) -> None:
        program = f"""
            provider = Roles("parent")
            keeper = CredentialKeeper(provider, observers=())
            keeper.start()
            grant = keeper.wait()
            early = make(keeper, {kind!r})
            up()
            def child(number):
                refused(keeper.current, KeeperClosed, says="after the fork")
                refused(keeper.start, KeeperClosed, says="after the fork")
                refused(keeper.refresh, KeeperClosed, says="after the fork")
                assert not keeper.status().ready
                for pool in (early, make(keeper, {kind!r})):
                    refused(pool.open, KeeperClosed, says="after the fork")
                own = CredentialKeeper(Roles(f"child{{number}}"), observers=())
                with own:
                    use(make(own, {kind!r}))
                keeper.close()
                assert provider.calls == ["fetch"]
            children(2, child)
            assert keeper.current() is grant
            use(early)
            keeper.close()
            """
        check(postgres, unique("fork"), program)


class TestMultiprocessing:
    def test_the_fork_context(self, postgres: PostgresServer, unique: Callable[[str], str]) -> None:
        program = """
            import multiprocessing
            def child(pool, number):
                refused(lambda: pool.getconn(1.0), PoolClosed, says="post_fork")
                use(make(Roles(f"child{number}")))
            def work(pool, provider):
                context = multiprocessing.get_context("fork")
                workers = [context.Process(target=child, args=(pool, n)) for n in range(2)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                    assert worker.exitcode == 0
            parent(work)
            """
        check(postgres, unique("fork"), SYNC_PARENT, program)

    def test_a_child_of_a_child(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        program = """
            def child(pool, number):
                own = make(Roles("child"))
                own.open(wait=True)
                def grandchild(number):
                    for inherited in (pool, own):
                        refused(lambda: inherited.getconn(1.0), PoolClosed, says="post_fork")
                    use(make(Roles("grandchild")))
                children(1, grandchild)
                with own.connection() as connection:
                    connection.execute("SELECT 1")
                own.close()
            parent(lambda pool, provider: children(1, lambda n: child(pool, n)))
            """
        check(postgres, unique("fork"), SYNC_PARENT, program)
