"""Testing connections before they are lent."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Generic

import psycopg
from psycopg_pool.abc import ACT

from ephemeral_creds.pool._async.session import current_user, valid_for
from ephemeral_creds.pool.errors import ROLE_MISSING, UnfitConnection, may_lack_its_role
from ephemeral_creds.pool.ledger import generation_of
from ephemeral_creds.pool.login import said_by
from ephemeral_creds.pool.psycopg_pool_quirks import close_for_good_async, discard_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from psycopg_pool import AsyncConnectionPool
    from psycopg_pool.abc import AsyncConnectionCB

    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["AsyncVetting"]

# A server that is well answers within this, whatever is left of a checkout.
_LEAST_PATIENCE = 0.2


class AsyncVetting(Generic[ACT]):
    """Tests connections whose role may be gone, with the user's ``check=`` and without.

    Args:
        keeper: whose clock the deadlines of its leases are instants of.
        rotation: the pool's state.
        check: the user's function for connections that are about to be lent, if any.
        timeout: how long to wait for an answer at most, in seconds.

    Attributes:
        error: what `check` failed with, if it failed last.
    """

    def __init__(
        self,
        keeper: Keeper,
        rotation: Rotation[ACT],
        check: AsyncConnectionCB[ACT] | None,
        timeout: float,
    ) -> None:
        self.error: str | None = None
        self._keeper = keeper
        self._rotation = rotation
        self._user_check = check
        self._timeout = timeout

    @property
    def check(self) -> Callable[[ACT], Awaitable[None]] | None:
        """What psycopg_pool is to call before it lends a connection."""
        check = self._user_check
        return functools.partial(self._check, check) if check is not None else None

    async def vet(self, pool: AsyncConnectionPool[ACT], connection: ACT, timeout: float) -> bool:
        """Test a connection if it is suspect; one that fails is replaced.

        Args:
            pool: which has just lent it.
            connection: it is idle.
            timeout: how long to wait for the answer, in seconds.

        Returns:
            Whether it may be used.
        """
        rotation, generation = self._rotation, generation_of(connection)
        rotation.suspect_expired(self._keeper.clock.now())
        if not rotation.is_suspect(generation):
            return True
        alive = False
        try:
            # An error says nothing about the role.
            with suppress(psycopg.Error):
                alive = await self._is_alive(connection, timeout)
                rotation.tested(generation, alive=alive)
        finally:
            # Where it was interrupted, it may be in the middle of the query.
            if not alive:
                await discard_async(pool, connection)
        return alive

    async def _check(self, check: AsyncConnectionCB[ACT], connection: ACT) -> None:
        try:
            await check(connection)
        except Exception as error:
            self.error = said_by(error)
            if await self._may_stay(connection, error):
                raise
            await close_for_good_async(connection)
            raise UnfitConnection from error
        self.error = None

    async def _may_stay(self, connection: ACT, error: Exception) -> bool:
        """Tell whether a check failed for another reason than the generation of `connection`."""
        rotation, generation = self._rotation, generation_of(connection)
        if generation < rotation.serving:
            return False
        if may_lack_its_role(error):
            rotation.suspect_generation(generation)
        if not rotation.is_suspect(generation):
            return True
        try:
            await connection.rollback()
            alive = await self._is_alive(connection, self._timeout)
        except psycopg.Error:
            return False
        rotation.tested(generation, alive=alive)
        return alive

    async def _is_alive(self, connection: ACT, timeout: float) -> bool:
        """Tell whether the role that `connection` logged in as still exists.

        An empty query, which psycopg_pool's own check sends, would not: a session outlives its
        role, and only what looks the role up fails.

        Args:
            connection: it is idle.
            timeout: how long to wait for the answer at most, in seconds.

        Raises:
            psycopg.Error: there is no answer, or it says nothing about the role.
        """
        seconds = min(max(timeout, _LEAST_PATIENCE), self._timeout)
        try:
            await current_user(connection, seconds)
        except psycopg.Error as error:
            if error.sqlstate in ROLE_MISSING:
                return False
            raise
        generation = generation_of(connection)
        if self._rotation.wants_valid_until(generation):
            await self._ask_valid_until(connection, generation, seconds)
        return True

    async def _ask_valid_until(self, connection: ACT, generation: int, seconds: float) -> None:
        """Ask whether its role may log in no more, although it exists."""
        try:
            remaining = await valid_for(connection, seconds)
        except psycopg.Error:
            if connection.closed:
                raise
            remaining = None
        now = self._keeper.clock.now()
        self._rotation.valid_until_learned(generation, remaining, now)
