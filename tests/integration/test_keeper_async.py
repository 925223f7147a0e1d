"""A keeper in an event loop: whatever its provider does, the loop does not stop."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
from twins import EAGER

from ephemeral_creds import (
    AsyncCredentialKeeper,
    AsyncRotatingConnectionPool,
    KeeperClosed,
    NotReady,
    RotatingConnectionPool,
    SystemClock,
)
from ephemeral_creds.testing import ScriptedProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HANG = 1.0
"""How long each call waits here for a provider that hangs; a turn of the loop is far from it."""


class Beats:
    """A thread beside the loop: if it stands still as well, the loop is not the cause."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        since = time.monotonic()
        while not self._over.wait(0.005):
            now = time.monotonic()
            self.longest, since = max(self.longest, now - since), now


@asynccontextmanager
async def turning() -> AsyncIterator[None]:
    """Fail where the loop stood still for half of `HANG`, while another thread did not."""
    longest = 0.0

    async def turn() -> None:
        nonlocal longest
        while True:
            since = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - since)

    with Beats() as beats:
        task = asyncio.create_task(turn())
        yield
        task.cancel()
    stood_still = longest - beats.longest
    assert stood_still < HANG / 2, f"the loop stood still for {stood_still:.2f} s"


def test_its_life() -> None:
    async def main() -> None:
        provider = ScriptedProvider(SystemClock())
        async with AsyncCredentialKeeper(provider, refresh=EAGER, observers=()) as keeper:
            assert (await keeper.wait()).generation == 1
            assert (await keeper.refresh()).generation == 2
            assert keeper.current().generation == keeper.status().generation == 2
        assert provider.closed
        assert not provider.live
        with pytest.raises(KeeperClosed):
            await keeper.wait()

    asyncio.run(main())


def test_a_provider_that_hangs_does_not_stall_the_loop() -> None:
    async def main() -> None:
        provider = ScriptedProvider(SystemClock())
        keeper = AsyncCredentialKeeper(provider, refresh=EAGER, observers=())
        await keeper.start()
        await keeper.wait()
        provider.gate.clear()
        async with turning():
            with pytest.raises(NotReady):
                await keeper.refresh(HANG)
            keeper.status()
            await keeper.close(HANG)
        provider.gate.set()

    asyncio.run(main())


def test_a_pool_whose_own_provider_hangs_does_not_stall_the_loop() -> None:
    async def main() -> None:
        provider = ScriptedProvider(SystemClock())
        provider.gate.clear()
        pool: AsyncRotatingConnectionPool[Any] = AsyncRotatingConnectionPool(
            provider, "host=127.0.0.1 port=1", observers=()
        )
        async with turning():
            await pool.open()
            await pool.close(HANG)
        provider.gate.set()

    asyncio.run(main())


@pytest.mark.parametrize("kind", [RotatingConnectionPool, AsyncRotatingConnectionPool])
def test_pools_take_it(kind: Any) -> None:
    keeper = AsyncCredentialKeeper(ScriptedProvider(SystemClock()), observers=())
    assert kind(keeper)._keeper is keeper.keeper
