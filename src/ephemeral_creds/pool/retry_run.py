"""Which failures of a transaction a rotation, or a lost connection, explains, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import psycopg

from ephemeral_creds.observers import logger
from ephemeral_creds.pool.psycopg_pool_quirks import uncount_request
from ephemeral_creds.pool.role import ROLE_MISSING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tenacity import AttemptManager, RetryCallState

    from ephemeral_creds.pool._async.pool import AsyncRotatingConnectionPool
    from ephemeral_creds.pool._sync.pool import RotatingConnectionPool

__all__ = ["PROBE_TIMEOUT", "Attempt", "Run", "kind_of", "wrapped_in"]

# admin_shutdown, crash_shutdown, cannot_connect_now and idle_session_timeout, see
# https://www.postgresql.org/docs/current/errcodes-appendix.html; and all of class 08.
_SESSION_ENDED = {"57P01", "57P02", "57P03", "57P05"}
_CONNECTION_EXCEPTION = "08"
_QUERY_CANCELED = "57014"

# How long to wait for a connection to test. A busy pool must not hold a plain error up.
PROBE_TIMEOUT = 1.0


# How many errors deep one of psycopg's may be wrapped.
_DEPTH = 8


def wrapped_in(error: BaseException | None) -> psycopg.Error | None:
    """Return the error of psycopg's that `error` is, or was raised from.

    SQLAlchemy and Django raise one of their own ``from`` it; SQLAlchemy's has it in ``orig``, too.
    """
    for _ in range(_DEPTH):
        if error is None or isinstance(error, psycopg.Error):
            return error
        original = getattr(error, "orig", None)
        error = original if isinstance(original, BaseException) else error.__cause__
    return None


def kind_of(error: BaseException | None) -> Literal["lost", "role", "cancelled"] | None:
    """Tell what may have caused `error`, as far as psycopg says; ``None``: nothing of ours.

    Without SQLSTATE, neither subclasses of `psycopg.OperationalError` count, such as those of a
    failed checkout, nor failed connects, which have a ``pgconn``.
    """
    cause = wrapped_in(error)
    if cause is None:
        return None
    state = cause.sqlstate
    if state is None:
        lost = type(cause) is psycopg.OperationalError and cause.pgconn is None
    else:
        lost = state in _SESSION_ENDED or state.startswith(_CONNECTION_EXCEPTION)
    if lost:
        return "lost"
    if state in ROLE_MISSING:
        return "role"
    return "cancelled" if state == _QUERY_CANCELED else None


class Attempt:
    """One attempt: ``with attempt:`` goes around everything that it consists of."""

    def __init__(self, manager: AttemptManager) -> None:
        self._manager = manager

    def __enter__(self) -> None:
        self._manager.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        # tenacity holds everything back until the loop comes round, even Ctrl-C. An error
        # that is raised in any case is raised here, where a ``break`` after the block cannot lose
        # it.
        if exc is not None and kind_of(exc) is None:
            return False
        return bool(self._manager.__exit__(exc_type, exc, traceback))


class Run:
    """One series of attempts: what explains their failures, and when it has to end.

    Args:
        pool: where the attempts get their connections from.
        attempts: how many there may be.
        timeout: no further one begins later than this, in seconds.
        clock: tells seconds.
    """

    def __init__(
        self,
        pool: RotatingConnectionPool[Any] | AsyncRotatingConnectionPool[Any],
        attempts: int,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._rotation = pool._rotation  # noqa: SLF001 - what it sees is not for users
        self._attempts = attempts
        self._clock = clock
        self._deadline = clock() + timeout
        self._disruptions = self._cut_off = 0

    def begin(self, manager: AttemptManager) -> Attempt:
        """Return the next attempt."""
        self._disruptions, self._cut_off = self._rotation.disruptions, self._rotation.cut_off
        return Attempt(manager)

    def explains(self, state: RetryCallState) -> bool | None:
        """Tell whether to try again; ``None``: if there is a `disruption` after a checkout.

        An error does not say which connection it is from. That a rotation took place, or that a
        role turned out to be gone, is near enough: what else failed then is tried again, too.
        """
        kind = kind_of(_error_of(state))
        if kind is None:
            return False
        if kind == "cancelled" and self._rotation.cut_off == self._cut_off:
            return False
        # What is true of one connection may be of others: have them tested before they are lent.
        self._pool.verify_connections()
        if kind != "role" or self.disruption:
            return True
        uncount_request(self._pool)
        return None

    @property
    def disruption(self) -> bool:
        """Whether a role was replaced, or found to be gone, since the attempt began."""
        return self._rotation.disruptions > self._disruptions

    def is_over(self, state: RetryCallState) -> bool:
        """Tell whether there is no further attempt."""
        too_late = self._clock() + state.upcoming_sleep >= self._deadline
        return too_late or state.attempt_number >= self._attempts

    def log(self, state: RetryCallState) -> None:
        """Say that there is one. The error's text may hold values of the query."""
        error = wrapped_in(_error_of(state))
        logger.info(
            "%s: attempt %d of %d failed with %s (SQLSTATE %s), the next follows in %.2f s",
            self._pool.name,
            state.attempt_number,
            self._attempts,
            type(error).__name__,
            error.sqlstate if error is not None else None,
            state.upcoming_sleep,
        )


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
