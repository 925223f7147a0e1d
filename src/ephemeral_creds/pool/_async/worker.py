"""What a pool does in the background to move to new credentials."""

from __future__ import annotations

import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic

import psycopg
from psycopg_pool.abc import ACT
from psycopg_pool.pool_async import MaintenanceTask

from ephemeral_creds.exceptions import NoCredentials
from ephemeral_creds.observers import logger
from ephemeral_creds.pool._compat import AsyncTasks, cancel_query_async, sleep_async
from ephemeral_creds.pool.errors import LEFT_BORROWED
from ephemeral_creds.pool.login import ConnectFailure
from ephemeral_creds.pool.psycopg_pool_quirks import (
    count_connect,
    has_idle,
    replace_idle_async,
    set_expiry,
)
from ephemeral_creds.pool.time_limit import hang_up

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.pool._async.connector import AsyncConnector
    from ephemeral_creds.pool._compat import AsyncWakeup
    from ephemeral_creds.pool.policy import RotationPolicy
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["AsyncWorker"]

# After a defect, or with nothing to open a connection with, look again this soon.
_SOON = 0.5
# A cancel request is a connect of its own; without an answer the session is ended anyway.
_CANCEL_TIMEOUT = 1.0
# An idle connection that came back by a way that tells nobody is looked for this often.
_LOOK_AT_IDLE = 0.5


class _Outage(MaintenanceTask):
    """Tells the user, as psycopg_pool does, in one of its workers."""

    async def _run(self, pool: AsyncConnectionPool[Any]) -> None:
        seconds = pool.reconnect_timeout
        logger.warning("%s: each reconnection attempt of %.1f s has failed", pool.name, seconds)
        await pool.reconnect_failed()


class AsyncWorker(Generic[ACT]):
    """Proves candidates, replaces old connections, and restores what psycopg_pool gave up.

    One housekeeper runs for as long as the pool is open; during a rotation there are
    ``overshoot`` movers. They hold the pool weakly, so that one that is forgotten can be collected.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        keeper: Keeper,
        connector: AsyncConnector[ACT],
        rotation: Rotation[ACT],
        policy: RotationPolicy,
        wakeup: AsyncWakeup,
    ) -> None:
        self._pool = weakref.ref(pool)
        self._name = pool.name
        self._keeper = keeper
        self._connector = connector
        self._rotation = rotation
        self._policy = policy
        self._wakeup = wakeup
        self._tasks = AsyncTasks()

    def start(self) -> None:
        """Start the housekeeper."""
        self._tasks.spawn(self._housekeep, f"{self._name}-housekeeper")

    async def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for their end; `Rotation.stop` has been called."""
        await self._tasks.join(timeout)

    async def wait_until_returned(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is borrowed; `Rotation.stop` has been called."""
        deadline = monotonic() + timeout
        while True:
            seen = self._wakeup.count
            borrowed = self._rotation.ledger.size
            remaining = deadline - monotonic()
            if not borrowed or remaining <= 0:
                break
            await self._wakeup.wait(seen, min(remaining, _SOON))
        if borrowed:
            logger.warning(LEFT_BORROWED, self._name, borrowed)

    # -- housekeeping ----------------------------------------------------------------------

    async def _housekeep(self) -> None:
        try:
            await self._look_after_it()
        finally:
            # A proof that took longer than close() did.
            for connection in self._rotation.take_unwanted(monotonic()):
                await connection.close()

    async def _look_after_it(self) -> None:
        timeout: float | None = 0.0
        seen = 0
        while not self._rotation.stopped:
            seen = await self._wakeup.wait(seen, timeout)
            if (pool := self._pool()) is None or self._rotation.stopped:
                return
            try:
                await self._do_what_is_due(pool)
                timeout = self._rotation.next_look(monotonic(), pool.reconnect_timeout)
            except Exception as error:  # noqa: BLE001 - the pool needs its housekeeper
                logger.error("%s: housekeeping failed: %s", self._name, type(error).__name__)
                timeout = _SOON
            del pool

    async def _do_what_is_due(self, pool: AsyncConnectionPool[Any]) -> None:
        rotation = self._rotation
        for connection in rotation.take_unwanted(monotonic()):
            await connection.close()
        while (grant := rotation.next_candidate()) is not None:
            with rotation.replacements.reserved():
                outcome = await self._open_ahead(pool, grant)
            rotation.note_proof(grant.generation, outcome, monotonic())
        while (grant := rotation.next_question()) is not None:
            with rotation.replacements.reserved():
                outcome = await self._open_ahead(pool, grant)
                if not isinstance(outcome, ConnectFailure):
                    await outcome.close()
            rotation.note_answer(grant.generation, outcome)
        for retry in rotation.reconnects.release(monotonic()):
            pool.run_task(retry)
        if rotation.reconnects.take_outage(monotonic(), pool.reconnect_timeout):
            pool.run_task(_Outage(pool))
        if stale := rotation.stale:
            rotation.begin_move(monotonic())
            # All but one of them, the housekeeper, are moving already.
            for _ in range(min(stale, self._policy.overshoot) - self._tasks.count() + 1):
                self._tasks.spawn(self._move, f"{self._name}-mover")
        if (ended := rotation.end_move(self._name, monotonic())) is not None:
            self._keeper.report(ended)
        while (overdue := rotation.next_overdue(self._name, monotonic())) is not None:
            connections, event = overdue
            self._keeper.report(event)
            if self._policy.borrowed == "cancel":
                for connection in connections:
                    await self._cut_off(connection)

    async def _cut_off(self, connection: ACT) -> None:
        """Cancel what a borrowed connection is doing, then end its session.

        Its user gets an error from the query, or else from the next one.
        """
        self._rotation.note_cut_off()
        try:
            await cancel_query_async(connection, _CANCEL_TIMEOUT)
            hang_up(connection)
        except (psycopg.Error, OSError) as error:
            # It was returned or broke meanwhile.
            logger.info("%s: not cut off: %s", self._name, type(error).__name__)

    # -- moving ----------------------------------------------------------------------------

    async def _move(self) -> None:
        while not self._rotation.stopped and self._rotation.has_stale:
            if (pool := self._pool()) is None:
                return
            try:
                await self._replace_one(pool)
            except Exception as error:  # noqa: BLE001 - old connections need their mover
                logger.error("%s: replacing failed: %s", self._name, type(error).__name__)
                # Whatever wakes it meanwhile: the defect is still there.
                await sleep_async(_SOON)
            del pool

    async def _replace_one(self, pool: AsyncConnectionPool[Any]) -> None:
        """Open a connection, have it take the place of an old one, or close it again."""
        rotation = self._rotation
        seen = self._wakeup.count
        # A proof may have left one; then the first old connection need not wait for a connect.
        await self._look_at_idle(pool)
        try:
            grant = self._keeper.current()
        except NoCredentials:
            await self._wakeup.wait(seen, _SOON)
            return
        if pause := rotation.reconnects.barred_for(grant.generation, monotonic()):
            await self._wakeup.wait(seen, pause)
            return
        if not rotation.reserve(grant.generation):
            await self._wakeup.wait(seen, _SOON)
            return
        with rotation.replacements.reserved():
            outcome = await self._open_ahead(pool, grant)
        if isinstance(outcome, ConnectFailure):
            rotation.replacements.cancel()
            rotation.note_failure(outcome, monotonic(), grant.generation)
            return
        rotation.note_success(grant.generation)
        rotation.replacements.add(outcome)
        try:
            await self._park(outcome, pool)
        finally:
            unused = rotation.replacements.withdraw(outcome)
            if unused:
                await outcome.close()
        if unused:
            await self._wait_for_idle(pool)

    async def _park(self, replacement: ACT, pool: AsyncConnectionPool[Any]) -> None:
        """Wait until an old connection has been replaced, or it takes too long."""
        rotation = self._rotation
        deadline = monotonic() + self._policy.park
        while True:
            seen = self._wakeup.count
            await self._look_at_idle(pool)
            remaining = deadline - monotonic()
            waiting = rotation.replacements.has(replacement) and rotation.has_stale
            if not waiting or rotation.stopped or remaining <= 0:
                return
            await self._wakeup.wait(seen, remaining)

    async def _wait_for_idle(self, pool: AsyncConnectionPool[Any]) -> None:
        """All that is old is borrowed: wait until something comes back."""
        rotation = self._rotation
        hint = rotation.idle_hint
        deadline = monotonic() + _LOOK_AT_IDLE
        seen = self._wakeup.count
        while rotation.idle_hint == hint and rotation.has_stale and not rotation.stopped:
            remaining = deadline - monotonic()
            if remaining <= 0:
                if has_idle(pool, rotation.is_stale):
                    return
                deadline = monotonic() + _LOOK_AT_IDLE
                continue
            seen = await self._wakeup.wait(seen, remaining)

    async def _look_at_idle(self, pool: AsyncConnectionPool[Any]) -> None:
        """Have what is ready take the places of old connections that are idle."""
        rotation = self._rotation
        while True:
            old = await replace_idle_async(pool, rotation.is_stale, rotation.take_ready)
            if old is None:
                return
            try:
                await old.close()
            finally:
                rotation.note_replaced()

    async def _open_ahead(
        self, pool: AsyncConnectionPool[Any], grant: Grant
    ) -> ACT | ConnectFailure:
        began = monotonic()
        outcome = await self._connector.preconnect(grant)
        failed = isinstance(outcome, ConnectFailure)
        if not failed:
            set_expiry(pool, outcome)
        count_connect(pool, monotonic() - began, failed=failed)
        return outcome
