"""Minutes under load with a rotation each second: nothing may fail, and nothing may be left."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._contenders import UNLIMITED
from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    CredentialKeeper,
    RotatingConnectionPool,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.testing import DatabaseEngine, PostgresServer, VaultServer

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 20
EVERY = 1.0
# Enough to keep two processors busy; a service does something else between queries as well.
THREAD_PAUSE, TASK_PAUSE = 0.02, 0.1
_REPORT = 30.0
_PATIENCE = 20.0


class Load:
    """What was done and what failed; each caller counts in a place of its own."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.failures: Counter[str] = Counter()
        self._queries: list[list[int]] = []

    @property
    def queries(self) -> int:
        """Queries that succeeded."""
        return sum(count for (count,) in self._queries)

    def counter(self) -> list[int]:
        """Return a place to count in."""
        self._queries.append([0])
        return self._queries[-1]

    def failed(self, error: Exception) -> None:
        """Note a failure."""
        self.failures[f"{type(error).__name__}: {str(error)[:200]}"] += 1

    def run_thread(self, pool: RotatingConnectionPool[Any]) -> None:
        """Query until the end."""
        counter = self.counter()
        while not self.ended.wait(THREAD_PAUSE):
            try:
                with pool.connection() as conn:
                    conn.execute("SELECT count(*) FROM pg_roles WHERE rolname = current_user")
                counter[0] += 1
            except Exception as error:
                self.failed(error)

    async def run_task(self, pool: AsyncRotatingConnectionPool[Any]) -> None:
        """Query until the end."""
        counter = self.counter()
        while not self.ended.is_set():
            await asyncio.sleep(TASK_PAUSE)
            try:
                async with pool.connection() as conn:
                    await conn.execute("SELECT count(*) FROM pg_roles WHERE rolname = current_user")
                counter[0] += 1
            except Exception as error:
                self.failed(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print nothing but one line of JSON")
    options = parser.parse_args(arguments)
    # A proxy of the environment must not get what is meant for this machine.
    os.environ["no_proxy"] = "127.0.0.1"
    before = set(threading.enumerate())
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        vault = stack.enter_context(VaultServer())
        answer: dict[str, Any] = {"vault": vault.version}
        around = set(threading.enumerate())
        engine = DatabaseEngine(vault, postgres)
        engine.create_role("soak")
        answer |= _run(options, engine)
        answer["connections_left"], answer["roles_left"] = _left(postgres)
        answer["threads_left"] = sorted(t.name for t in set(threading.enumerate()) - around)
    answer["threads_left"] += sorted(t.name for t in set(threading.enumerate()) - before)
    answer["ok"] = not (
        answer["failed"]
        or answer["connections_left"]
        or answer["roles_left"]
        or answer["threads_left"]
        or answer["peak_connections"] > answer["max_connections"]
        or answer["mints"] != answer["revocations"]
        or answer["rotations"] < 0.9 * options.minutes * 60 / EVERY
    )
    if not options.json:
        for key, value in answer.items():
            print(f"{key:<18} {value}")
    print(json.dumps(answer))
    return 0 if answer["ok"] else 1


def _run(options: argparse.Namespace, engine: DatabaseEngine) -> dict[str, Any]:
    load = Load()
    provider = VaultDynamicProvider(
        "soak",
        auth=TokenAuth(engine.vault.root_token),
        config=VaultConfig(engine.vault.address),
    )
    keeper = CredentialKeeper(provider, refresh=UNLIMITED, observers=())
    conninfo = engine.postgres.conninfo()
    pool: RotatingConnectionPool[Any] = RotatingConnectionPool(keeper, conninfo, min_size=SIZE)
    tasks = threading.Thread(
        target=lambda: asyncio.run(_run_tasks(keeper, conninfo, load, options.tasks)), name="tasks"
    )
    memory: list[float] = []
    with keeper, pool:
        pool.wait()
        threads = [
            threading.Thread(target=load.run_thread, args=(pool,), name=f"load-{number}")
            for number in range(options.threads)
        ]
        for thread in (*threads, tasks):
            thread.start()
        began = time.monotonic()
        rotations = 0
        try:
            while (elapsed := time.monotonic() - began) < options.minutes * 60:
                if len(memory) <= elapsed / _REPORT:
                    memory.append(_megabytes())
                    if not options.json:
                        print(_line(elapsed, keeper, load, memory[-1]), flush=True)
                keeper.refresh()
                rotations += 1
                time.sleep(max(began + rotations * EVERY - time.monotonic(), 0.0))
        finally:
            load.ended.set()
            for thread in (*threads, tasks):
                thread.join()
    status = keeper.status()
    return {
        "seconds": round(elapsed, 1),
        "queries": load.queries,
        "failed": load.failures.total(),
        "failures": dict(load.failures),
        "rotations": status.rotations,
        "mints": status.grants,
        "revocations": status.revocations,
        "peak_connections": pool.peak_connections,
        "max_connections": SIZE + 2,
        "megabytes": memory,
    }


async def _run_tasks(keeper: CredentialKeeper, conninfo: str, load: Load, count: int) -> None:
    pool: AsyncRotatingConnectionPool[Any]
    async with AsyncExitStack() as stack:
        pool = AsyncRotatingConnectionPool(keeper, conninfo, min_size=SIZE)
        await stack.enter_async_context(pool)
        await asyncio.gather(*(load.run_task(pool) for _ in range(count)))


def _line(elapsed: float, keeper: CredentialKeeper, load: Load, megabytes: float) -> str:
    status = keeper.status()
    return (
        f"{elapsed:5.0f} s: {load.queries} queries, {load.failures.total()} failed, "
        f"{status.rotations} rotations, {status.revocations} revocations, {megabytes} MB"
    )


def _left(postgres: PostgresServer) -> tuple[int, list[str]]:
    """Return connections and roles that are still there after a moment."""
    deadline = time.monotonic() + _PATIENCE
    with closing(postgres.admin()) as admin:
        while True:
            (row,) = admin.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND pid <> pg_backend_pid() AND usename IS DISTINCT FROM %s",
                [postgres.superuser],
            ).fetchall()
            roles = postgres.roles()
            if not (row[0] or roles) or time.monotonic() > deadline:
                return int(row[0]), roles
            time.sleep(0.1)


def _megabytes() -> float:
    """Return this process's resident memory; 0 where the system does not tell."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return 0.0
    pages = int(status.read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGESIZE") / 1e6, 1)


if __name__ == "__main__":
    sys.exit(main())
