"""What the asyncpg pool's `quirks` rely on is still so inside asyncpg."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

asyncpg = pytest.importorskip("asyncpg")
pool_module = pytest.importorskip("asyncpg.pool")

LOOKED_AT = ("0.32.",)


def test_the_version_was_looked_at() -> None:
    assert asyncpg.__version__.startswith(LOOKED_AT), "look through the quirks once more"


@pytest.mark.parametrize(
    "name",
    ["_queue", "_loop", "_connection_class", "_record_class", "_connect_args", "_connect_kwargs"],
)
def test_a_pool_has_these_attributes(name: str) -> None:
    assert name in pool_module.Pool.__slots__


@pytest.mark.parametrize("name", ["_async__init__", "_acquire", "release", "terminate", "close"])
def test_a_pool_has_these_methods(name: str) -> None:
    assert callable(getattr(pool_module.Pool, name))


class Connection:
    """As much of an `asyncpg.Connection` as a holder looks at."""

    def __init__(self) -> None:
        self.ended = False

    def is_closed(self) -> bool:
        return self.ended

    def terminate(self) -> None:
        self.ended = True


class Pool:
    """As much of an `asyncpg.Pool` as a holder looks at, which connects at once."""

    _generation = 0

    def __init__(self, size: int) -> None:
        self._loop = asyncio.get_running_loop()
        make: Any = getattr(pool_module, "_PoolConnectionHolderQueue", asyncio.LifoQueue)
        self._queue: Any = make(maxsize=size)
        self.made: list[Any] = []
        self.holders = [
            pool_module.PoolConnectionHolder(self, max_queries=9, setup=None, max_inactive_time=0)
            for _ in range(size)
        ]
        for holder in self.holders:
            self._queue.put_nowait(holder)

    async def _get_new_connection(self) -> Any:
        self.made.append(Connection())
        return self.made[-1]

    def is_closing(self) -> bool:
        return False

    def _schedule_min_size_maintenance(self) -> None:
        pass


def test_one_idle_holder_is_taken_and_the_others_keep_their_order() -> None:
    from ephemeral_creds.contrib.asyncpg import quirks

    async def main() -> None:
        pool = Pool(4)
        for holder in pool.holders[1:]:
            await holder.connect()
        second = pool.made[1]
        taken = quirks.take_idle(pool, lambda connection: connection is second)
        assert taken is pool.holders[2]
        assert quirks.take_idle(pool, lambda connection: connection is second) is None
        quirks.put_back(pool, taken)
        order = [pool._queue.get_nowait() for _ in range(4)]
        # The last one in is the first one out; one without a connection comes last.
        assert order == [pool.holders[n] for n in (2, 3, 1, 0)]

    asyncio.run(main())


def test_a_taken_holder_connects_without_a_pause() -> None:
    from ephemeral_creds.contrib.asyncpg import quirks

    async def main() -> None:
        pool = Pool(1)
        await pool.holders[0].connect()
        taken = quirks.take_idle(pool, lambda _: True)
        with pytest.raises(StopIteration):
            quirks.reconnect(taken).send(None)
        old, new = pool.made
        assert old.ended
        assert taken._con is new

    asyncio.run(main())
