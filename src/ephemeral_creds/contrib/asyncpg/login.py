"""One login by asyncpg, with the credentials of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ephemeral_creds.contrib._login import (
    CURRENT_USER,
    VALID_FOR,
    asyncpg_credentials,
    asyncpg_failure,
    reject,
)
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ephemeral_creds.keeper.session import Session

__all__ = ["QUERY_TIMEOUT", "Login", "derive", "session_of"]

# Seconds for a query of ours: none may hold a caller, or a rotation, up for long.
QUERY_TIMEOUT = 10.0

# insufficient_privilege and invalid_parameter_value: what the startup option of a role leads to
# that was not granted, or does not exist.
_LACKS_RIGHT = "42501"
_NO_SUCH_ROLE = "22023"


def derive(base: type[Any]) -> type[Any]:
    """Derive the class of a pool's connections from the user's."""

    class Leased(base):  # type: ignore[misc]
        _lease: Session | None = None

        @property
        def generation(self) -> int:
            """The generation that it logged in with."""
            return 0 if self._lease is None else self._lease.generation

    Leased.__name__ = Leased.__qualname__ = f"Leased{base.__name__}"
    Leased.__doc__ = base.__doc__
    return Leased


def session_of(connection: object) -> Session | None:
    """Return the session of a connection; ``None`` for a stranger, or one that was returned."""
    session: Session | None = getattr(connection, "_lease", None)
    return session


@dataclass(frozen=True)
class Login:
    """Logs in.

    Attributes:
        connect: ``asyncpg.connect``, or what the user has in its place.
        session_role: the role that each session has to act as, if any.
        closed: called when a connection has ended.
    """

    connect: Callable[..., Awaitable[Any]]
    session_role: str | None
    closed: Callable[[], None]

    async def open(
        self, session: Session, args: tuple[object, ...], options: dict[str, object]
    ) -> Any:
        """Connect, and tell `session` what came of it.

        Returns:
            The connection, or a `ConnectFailure`: no frame with the password is raised.
        """
        connection = None
        try:
            credentials = asyncpg_credentials(args, options, session.credentials)
            connection = await self.connect(
                *args,
                **options,
                user=credentials.username,
                password=credentials.password.reveal(),
            )
            await self._query(connection, session)
        except BaseException as error:
            if connection is not None:
                connection.terminate()
            if not isinstance(error, Exception):
                # Interrupted in asyncpg, whose frames have the password.
                error.__traceback__ = None
                session.rejected(LoginFailure.UNREACHABLE)
                raise
            failure = self._explain(asyncpg_failure(error))
        else:
            connection._lease = session
            connection.add_termination_listener(lambda _: self._end(session))
            session.accepted()
            return connection
        reject(session, failure)
        return failure

    def _end(self, session: Session) -> None:
        session.closed()
        self.closed()

    async def _query(self, connection: Any, session: Session) -> None:
        if (wanted := self.session_role) is not None:
            role = await connection.fetchval(CURRENT_USER, timeout=QUERY_TIMEOUT)
            if role != wanted:
                raise ConfigurationError(
                    f"session_role={wanted!r}: the session acts as {role!r}. A proxy between here "
                    "and PostgreSQL seems to drop the startup parameter 'role': set the role at "
                    f"each login instead, by ALTER ROLE … SET role = {wanted!r}"
                )
        if session.wants_end:
            try:
                session.end_learned(await connection.fetchval(VALID_FOR, timeout=QUERY_TIMEOUT))
            except Exception:
                # No answer is no reason to do without the connection.
                if connection.is_closed():
                    raise

    def _explain(self, failure: ConnectFailure) -> ConnectFailure:
        """Say what a login may have failed for that also asked to act as a role."""
        role = self.session_role
        if role is None or failure.sqlstate not in (_LACKS_RIGHT, _NO_SUCH_ROLE):
            return failure
        lacks_right = failure.sqlstate == _LACKS_RIGHT
        failure.error.add_note(
            f"session_role={role!r}: if that is why, "
            + (
                f"GRANT {role} TO the roles that log in, for example in Vault's creation_statements"
                if lacks_right
                else f"check that there is a role {role}"
            )
        )
        # Of other credentials the role may be a member.
        reason = LoginFailure.CREDENTIALS if lacks_right else failure.reason
        return ConnectFailure(failure.error, reason, failure.sqlstate)
