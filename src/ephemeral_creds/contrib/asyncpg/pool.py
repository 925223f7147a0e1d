"""asyncpg's pool, as a consumer of a keeper."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from ephemeral_creds.contrib._login import CURRENT_USER, ROLE_MISSING, may_lack_its_role
from ephemeral_creds.contrib.asyncpg import quirks
from ephemeral_creds.contrib.asyncpg.login import QUERY_TIMEOUT, Login, derive, session_of
from ephemeral_creds.contrib.asyncpg.replacements import Replacements, is_stale
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.keeper.loop import in_thread, require_asyncio
from ephemeral_creds.keeper.sessions import Sessions
from ephemeral_creds.pool.keeper_for import keeper_for
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
    from ephemeral_creds.keeper.session import Session
    from ephemeral_creds.lifecycle.policy import RefreshPolicy
    from ephemeral_creds.observers import Observer
    from ephemeral_creds.providers.base import CredentialProvider

__all__ = ["RotatingPool", "create_pool"]

# Seconds that asyncpg itself gives a connect.
_TIMEOUT = 60.0
# Seconds for a login that proves new credentials. Those in use stay in use meanwhile.
_PROOF_TIMEOUT = 30.0


def create_pool(
    credentials: CredentialProvider | Keeper | AsyncCredentialKeeper,
    dsn: str | None = None,
    *,
    session_role: str | None = None,
    refresh: RefreshPolicy | None = None,
    observers: Sequence[Observer] | None = None,
    **options: object,
) -> RotatingPool:
    """Make a pool of asyncpg's whose credentials rotate; use it with ``async with``, or await it.

    Args:
        credentials: a provider, for which the pool makes a keeper of its own; or a keeper that
            was started, which pools may share and its owner closes.
        dsn: the server and the database, as a URI without user and password.
        session_role: the role that each session acts as, if it is not the one that logs in. The
            minted roles must be members of it.
        refresh: when to renew, retry and mint; only with a provider.
        observers: called with each event; only with a provider. By default events are logged.
        options: the keyword arguments of ``asyncpg.create_pool``, without user and password. The
            ``timeout`` of a connect, 60 seconds by default, is also the longest that it waits for
            credentials.

    Raises:
        ConfigurationError: arguments contradict each other, or hold a user or a password.
    """
    return RotatingPool(
        credentials,
        dsn,
        session_role=session_role,
        refresh=refresh,
        observers=observers,
        **options,
    )


class RotatingPool(asyncpg.Pool):  # type: ignore[misc]
    """An ``asyncpg.Pool`` that takes credentials from a keeper and rotates; see `create_pool`.

    It has all methods of asyncpg's own pool, with these differences:

    - A connect waits for the first credentials. If PostgreSQL refuses the credentials, it is
      repeated with others, provided that they come in time.
    - When the credentials change, idle connections are replaced one after the other, each new one
      before the old one is closed, and borrowed ones when they are returned. There are never more
      than ``max_size + 1``. The old lease is revoked when its last connection is closed.
    - A connection whose role may be gone is tested before it is lent.
    - Connections are of a subclass of ``connection_class`` and have a ``generation``.

    Raises:
        ConfigurationError: arguments contradict each other, or hold a user or a password.
    """

    def __init__(
        self,
        credentials: CredentialProvider | Keeper | AsyncCredentialKeeper,
        dsn: str | None = None,
        *,
        session_role: str | None = None,
        refresh: RefreshPolicy | None = None,
        observers: Sequence[Observer] | None = None,
        **options: object,
    ) -> None:
        self._session_role = session_role
        given = _defaults() | self._validate(dsn, options)
        self._keeper, self._own_keeper = keeper_for(credentials, refresh, observers)
        self._sessions: Sessions | None = None
        self._replacements = Replacements(self, self._connect_once)
        self._login = Login(
            given["connect"] or asyncpg.connect, session_role, self._replacements.wake
        )
        given["connect"] = self._connect_for_holder
        given["connection_class"] = derive(given["connection_class"])
        self._replacing: asyncio.Task[None] | None = None
        self._proofs: set[asyncio.Task[Any]] = set()
        super().__init__(dsn, **given)

    def _validate(self, dsn: str | None, options: dict[str, object]) -> dict[str, Any]:
        """Return `options`, with the session role; refuse a user or a password."""
        _refuse_credentials(dsn, options)
        if self._session_role is None:
            return options
        # Unlike that of SET ROLE, it is the role that RESET ROLE goes back to.
        settings = cast("dict[str, str]", options.get("server_settings") or {})
        return {**options, "server_settings": {**settings, "role": self._session_role}}

    @property
    def keeper(self) -> Keeper:
        """The keeper that its credentials come from: its own, or a shared one."""
        return self._keeper

    def is_stale(self, connection: object) -> bool:
        """Tell whether newer credentials than those of `connection` are in use.

        Return it soon: the old lease is revoked when its last connection is closed.
        """
        return is_stale(connection)

    def verify_connections(self) -> None:
        """Have each connection tested before it is lent: the role may have been dropped.

        The pool itself calls this when a login is refused, when a lease is lost, and when the
        block that has a connection ends with an error 42501 or 42704, as without a role.
        """
        if self._sessions is not None:
            self._sessions.verify()

    async def refresh(self, timeout: float = 30.0) -> Grant:
        """Ask for new credentials and wait, up to `timeout` seconds, until they are in use.

        Raises what `CredentialKeeper.refresh` raises.
        """
        return await in_thread(self._keeper.refresh, timeout)

    # -- asyncpg's own methods -------------------------------------------------------------

    def set_connect_args(self, dsn: str | None = None, **connect_kwargs: object) -> None:
        """Set what new connections are made with. See asyncpg.

        Raises:
            ConfigurationError: a user or a password is given.
        """
        super().set_connect_args(dsn, **self._validate(dsn, connect_kwargs))

    async def _async__init__(self) -> RotatingPool:
        if self._sessions is None:
            self._join()
        try:
            await super()._async__init__()
        except BaseException:
            self._leave()
            raise
        if self._replacing is None:
            replacing = self._replacements.run(self._our_sessions, self._keeper.name)
            self._replacing = asyncio.create_task(replacing, name=f"{self._keeper.name}-pool")
        return self

    def _join(self) -> None:
        require_asyncio("a pool of asyncpg")
        loop = self._running_in = asyncio.get_running_loop()

        def wake() -> None:
            # Nothing waits in a closed loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._replacements.wake)

        if self._own_keeper is not None:
            self._own_keeper.start()
        self._sessions = Sessions(self._keeper, self._prove_in_loop, on_change=wake)

    async def _acquire(self, timeout: float | None) -> Any:
        connection = await super()._acquire(timeout)
        if _is_fit(connection):
            return connection
        async with asyncio.timeout(timeout):
            while not await self._passes(connection):
                connection = await super()._acquire(timeout)
        return connection

    async def _passes(self, connection: Any) -> bool:
        """Test a connection that was just acquired, if it needs that; end it if it fails."""
        session = session_of(connection)
        if session is None or _is_fit(connection):
            return True
        try:
            if not session.is_overdue:
                await connection.fetchval(CURRENT_USER, timeout=QUERY_TIMEOUT)
                session.tested(alive=True)
                return True
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if getattr(error, "sqlstate", None) in ROLE_MISSING:
                session.tested(alive=False)
        except BaseException:
            connection.terminate()
            raise
        # Its holder connects when it is acquired next.
        connection.terminate()
        return False

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        """Return a connection. See asyncpg."""
        session = session_of(connection)
        # Called while the error that ended the block is being handled.
        if session is not None and may_lack_its_role(sys.exception()):
            self.verify_connections()
        if is_stale(connection):
            self._end_or_keep(connection)
        await super().release(connection, timeout=timeout)
        if session is not None and session.is_stale:
            self._replacements.wake()

    def _end_or_keep(self, connection: Any) -> None:
        """End a stale connection if another is ready; keep it otherwise, while it works."""
        session = session_of(connection)
        if self._replacements.make_room() or (session is not None and session.is_overdue):
            connection.terminate()

    async def close(self) -> None:
        """Wait until all connections are returned, close them, and leave the keeper. See asyncpg.

        The lease is revoked then; a keeper of the pool's own is closed.
        """
        tasks = self._cancel_tasks()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            self._replacements.close()
            await super().close()
        finally:
            # Also if it was interrupted: asyncpg has ended the connections.
            self._leave()
        if self._own_keeper is not None:
            await in_thread(self._own_keeper.close)

    def terminate(self) -> None:
        """End all connections at once, and leave the keeper. See asyncpg."""
        try:
            super().terminate()
        finally:
            self._leave()

    def _cancel_tasks(self) -> list[asyncio.Task[Any]]:
        tasks = [*self._proofs, *([self._replacing] if self._replacing is not None else [])]
        for task in tasks:
            task.cancel()
        return tasks

    def _leave(self) -> None:
        self._cancel_tasks()
        self._replacements.close()
        if self._sessions is not None:
            self._sessions.close()
        if self._own_keeper is not None:
            self._own_keeper.close_later()

    # -- connects --------------------------------------------------------------------------

    @property
    def _our_sessions(self) -> Sessions:
        # asyncpg connects after _async__init__() only.
        return cast("Sessions", self._sessions)

    async def _connect_for_holder(self, *args: object, **options: object) -> Any:
        """Connect with the credentials in use: what asyncpg calls as ``connect=``."""
        if (connection := self._replacements.take()) is not None:
            return connection
        loop, timeout = asyncio.get_running_loop(), options.get("timeout")
        deadline = loop.time() + (timeout if isinstance(timeout, int | float) else _TIMEOUT)
        while True:
            session = await self._our_sessions.begin_async(max(deadline - loop.time(), 0.0))
            outcome = await self._login.open(session, args, options)
            if not isinstance(outcome, ConnectFailure):
                return outcome
            if not (outcome.refused and await self._has_other(session.generation, deadline)):
                raise outcome.error

    async def _has_other(self, generation: int, deadline: float) -> bool:
        """Wait for another generation than `generation`; tell whether it came in time."""
        return await self._replacements.until(
            lambda: self._keeper.generation != generation, deadline
        )

    async def _connect_once(self) -> Any:
        session = await self._our_sessions.begin_async(0.0)
        outcome = await self._login.open(session, *quirks.connect_parameters(self))
        if isinstance(outcome, ConnectFailure):
            raise outcome.error
        return outcome

    def _prove_in_loop(self, session: Session) -> None:
        """Log in with new credentials, in the pool's loop; called in a thread of its own."""
        proof = asyncio.run_coroutine_threadsafe(self._prove(session), self._running_in)
        try:
            proof.result(_PROOF_TIMEOUT)
        finally:
            proof.cancel()

    async def _prove(self, session: Session) -> None:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._proofs.add(task)
        try:
            outcome = await self._login.open(session, *quirks.connect_parameters(self))
            if not isinstance(outcome, ConnectFailure):
                await outcome.close()
        finally:
            self._proofs.discard(task)


def _is_fit(connection: object) -> bool:
    """Tell whether a connection may be lent without a test."""
    session = session_of(connection)
    return session is None or not (session.is_overdue or session.needs_test)


def _refuse_credentials(dsn: str | None, options: Mapping[str, object]) -> None:
    """Refuse a user or a password.

    Raises:
        ConfigurationError: one is given.
    """
    parts = urlsplit(dsn or "")
    names = {*options, *(name for name, _ in parse_qsl(parts.query))}
    given = names & {"user", "password", "passfile"}
    given |= {"user"} if parts.username else set()
    given |= {"password"} if parts.password else set()
    if given:
        raise ConfigurationError(
            f"the pool's dsn or options set {', '.join(sorted(given))}: remove it, the credential "
            "provider brings user and password"
        )


def _defaults() -> dict[str, Any]:
    """Return what ``asyncpg.create_pool`` gives a pool, in the version that is installed."""
    parameters = inspect.signature(asyncpg.create_pool).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
