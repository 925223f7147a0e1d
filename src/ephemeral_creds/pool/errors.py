"""What a pool raises when there is no connection in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import Error
from psycopg_pool import PoolTimeout

from ephemeral_creds import exceptions
from ephemeral_creds.lifecycle.refusals import LoginFailure, advice

if TYPE_CHECKING:
    from ephemeral_creds.keeper.consumer import KeeperStatus
    from ephemeral_creds.pool.login import ConnectFailure
    from ephemeral_creds.pool.shortage import Shortage

__all__ = [
    "LEFT_BORROWED",
    "ROLE_MISSING",
    "CheckoutTimeout",
    "UnfitConnection",
    "explain",
    "may_lack_its_role",
    "with_pool_timeout",
]

LEFT_BORROWED = (
    "%s: connections still borrowed, or being opened, at its close: %d. Their lease is given back "
    "all the same: return them first, or give close() more time"
)

# insufficient_privilege and undefined_object, see
# https://www.postgresql.org/docs/current/errcodes-appendix.html: what a session gets whose role
# was dropped, and who lacks a GRANT.
ROLE_MISSING = {"42501", "42704"}

# Among how many errors to look for the one that began it.
_LOOKED_AT = 32


def may_lack_its_role(error: BaseException | None) -> bool:
    """Tell whether `error`, one in it, or one that it came from, is of a session without role."""
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found and len(seen) < _LOOKED_AT:
        error = found.pop()
        if error is None or id(error) in seen:
            continue
        if isinstance(error, Error) and error.sqlstate in ROLE_MISSING:
            return True
        seen.add(id(error))
        found += (error.__context__, error.__cause__)
        if isinstance(error, BaseExceptionGroup):
            found += error.exceptions[:_LOOKED_AT]
    return False


class UnfitConnection(BaseException):
    """A check has closed a connection: another one is to be taken, at once.

    Not an `Exception`, which psycopg_pool takes for a reason to sleep before it tries the next.
    """


class CheckoutTimeout(exceptions.CheckoutFailed, PoolTimeout):
    """No connection became free in time.

    Attributes:
        last_error: the pool's last failed connect, if no later one succeeded.
        keeper_status: the keeper's status at that time.
    """

    last_error: Exception | None = None
    keeper_status: KeeperStatus | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # By the name that it has, pickle would find the public class.
        return _restored, (getattr(exceptions, type(self).__name__), self.args, vars(self))


class _NoneFree(CheckoutTimeout):
    pass


class _Unreachable(exceptions.DatabaseUnreachable, CheckoutTimeout):
    pass


class _Refused(exceptions.LoginRefused, CheckoutTimeout):
    pass


class _ServerRefused(exceptions.ServerRefused, CheckoutTimeout):
    pass


class _NotReady(exceptions.NotReady, CheckoutTimeout):
    pass


class _Expired(exceptions.CredentialsExpired, CheckoutTimeout):
    pass


class _Closed(exceptions.KeeperClosed, CheckoutTimeout):
    pass


class _Denied(exceptions.AccessDenied, CheckoutTimeout):
    pass


class _Misconfigured(exceptions.ConfigurationError, CheckoutTimeout):
    pass


_AS_TIMEOUT: dict[type[Exception], type[CheckoutTimeout]] = {
    exceptions.CheckoutFailed: _NoneFree,
    exceptions.DatabaseUnreachable: _Unreachable,
    exceptions.LoginRefused: _Refused,
    exceptions.ServerRefused: _ServerRefused,
    exceptions.NotReady: _NotReady,
    exceptions.CredentialsExpired: _Expired,
    exceptions.KeeperClosed: _Closed,
    exceptions.AccessDenied: _Denied,
    exceptions.ConfigurationError: _Misconfigured,
}
for _public, _hybrid in _AS_TIMEOUT.items():
    # A user sees, and catches, the public name.
    _hybrid.__name__ = _hybrid.__qualname__ = _public.__name__
    _hybrid.__module__ = _public.__module__
    _hybrid.__doc__ = _public.__doc__


def _restored(
    public: type[Exception], arguments: tuple[str, ...], attributes: dict[str, object]
) -> CheckoutTimeout:
    error = _AS_TIMEOUT[public](*arguments)
    vars(error).update(attributes)
    return error


def with_pool_timeout(error: Exception, status: KeeperStatus) -> CheckoutTimeout:
    """Return `error` as one that is a `psycopg_pool.PoolTimeout` too."""
    kind = _AS_TIMEOUT.get(type(error), _NotReady)
    timeout = kind(str(error))
    timeout.__cause__ = error.__cause__
    timeout.last_error = error
    timeout.keeper_status = status
    if isinstance(timeout, exceptions.ProviderError) and isinstance(
        error, exceptions.ProviderError
    ):
        timeout.status = error.status
    return timeout


def explain(
    pool: str,
    timeout: PoolTimeout,
    failure: ConnectFailure | None,
    status: KeeperStatus,
    shortage: Shortage,
) -> CheckoutTimeout:
    """Say why there was no connection in time.

    Args:
        pool: the pool's name.
        timeout: what psycopg_pool says.
        failure: the last failed connect, if no later one succeeded.
        status: the keeper's status.
        shortage: where the pool's connections were.
    """
    left = status.expires_in
    remaining = f"{left:.0f} s left" if left is not None else "no deadline"
    lease = f"generation {status.generation}, {remaining}"
    error: CheckoutTimeout
    if failure is None:
        kind = _Unreachable if shortage.unanswered else _NoneFree
        error = kind(f"pool {pool!r}: {timeout}: {shortage} (credentials: {lease})")
    elif isinstance(failure.error, exceptions.ConfigurationError):
        error = _Misconfigured(f"pool {pool!r}: {failure.error}")
    else:
        hint = advice(failure.reason, failure.sqlstate) if failure.reason else ""
        who = f"{status.username!r} from {status.provider} ({lease})"
        match failure.reason:
            case LoginFailure.CREDENTIALS:
                error = _Refused(
                    f"pool {pool!r}: {timeout}: PostgreSQL refuses the login of {who}: {hint}; "
                    f"the server said: {failure.error}"
                )
            case LoginFailure.PG_HBA | LoginFailure.SERVER:
                error = _ServerRefused(
                    f"pool {pool!r}: {timeout}: PostgreSQL turns away {who}, and "
                    f"other credentials would not change that ({failure.sqlstate or 'no code'}): "
                    f"{hint}; the server said: {failure.error}"
                )
            case LoginFailure.UNREACHABLE:
                error = _Unreachable(
                    f"pool {pool!r}: {timeout}: PostgreSQL cannot be reached: {hint}; last "
                    f"attempt: {failure.error} (credentials: {lease})"
                )
            case None:
                error = _NoneFree(
                    f"pool {pool!r}: {timeout}: what comes before or after the login fails: check "
                    "configure=, connection_class=, and conninfo= or kwargs= if they are "
                    f"functions; last attempt: {failure.error} (credentials: {lease})"
                )
    error.last_error = failure.error if failure is not None else None
    error.keeper_status = status
    return error
