"""What a pool raises when there is no connection in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg_pool import PoolTimeout

from ephemeral_creds import exceptions
from ephemeral_creds.exceptions import EphemeralCredsError, ProviderError
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.remedies import advice

if TYPE_CHECKING:
    from ephemeral_creds.keeper.status import KeeperStatus
    from ephemeral_creds.pool.reconnects import ConnectFailure
    from ephemeral_creds.pool.shortage import Shortage

__all__ = [
    "LEFT_BORROWED",
    "AccessDenied",
    "CheckoutFailed",
    "ConfigurationError",
    "ConnectFailed",
    "CredentialsExpired",
    "DatabaseUnreachable",
    "KeeperClosed",
    "LoginRefused",
    "NotReady",
    "ServerRefused",
    "UnfitConnection",
    "as_checkout_failed",
    "explain",
]

LEFT_BORROWED = (
    "%s: closed with connections still borrowed or being opened: %d. Their lease is revoked "
    "anyway: return them first, or pass close() a longer timeout"
)


class UnfitConnection(BaseException):
    """A check has closed a connection: another one is to be taken, at once.

    Not an `Exception`, which psycopg_pool takes for a reason to sleep before it tries the next.
    """


class ConnectFailed(Exception):
    """A client has failed to open a connection for itself; never raised to users."""

    def __init__(self, failure: ConnectFailure) -> None:
        super().__init__()
        self.failure = failure


class CheckoutFailed(EphemeralCredsError, PoolTimeout):
    """A pool could not hand out a connection in time; the message says why.

    Attributes:
        last_error: the pool's last failed connect, if no later one succeeded, or why there are no
            credentials.
        keeper_status: the keeper's status at that time.
    """

    last_error: Exception | None = None
    keeper_status: KeeperStatus | None = None


class DatabaseUnreachable(CheckoutFailed):
    """PostgreSQL did not answer, or not in time."""


class LoginRefused(CheckoutFailed):
    """PostgreSQL refused the credentials."""


class ServerRefused(CheckoutFailed):
    """PostgreSQL, or a pooler before it, refused for another reason than the credentials.

    No slot is free, there is no such database, `pg_hba.conf` has no line for it: the message says
    which, and what to do. New credentials are not fetched, since they would not help.
    """


class NotReady(exceptions.NotReady, CheckoutFailed):
    """A `NotReady` of a pool."""


class CredentialsExpired(exceptions.CredentialsExpired, CheckoutFailed):
    """A `CredentialsExpired` of a pool."""


class KeeperClosed(exceptions.KeeperClosed, CheckoutFailed):
    """A `KeeperClosed` of a pool."""


class AccessDenied(exceptions.AccessDenied, CheckoutFailed):
    """An `AccessDenied` of a pool."""


class ConfigurationError(exceptions.ConfigurationError, CheckoutFailed):
    """A `ConfigurationError` of a pool."""


_OF_POOLS: dict[type[Exception], type[CheckoutFailed]] = {
    exceptions.NotReady: NotReady,
    exceptions.CredentialsExpired: CredentialsExpired,
    exceptions.KeeperClosed: KeeperClosed,
    exceptions.AccessDenied: AccessDenied,
    exceptions.ConfigurationError: ConfigurationError,
}


def as_checkout_failed(error: Exception, status: KeeperStatus) -> CheckoutFailed:
    """Return what a pool raises where its keeper raises `error`; a `NotReady` in doubt."""
    failed = _OF_POOLS.get(type(error), NotReady)(str(error))
    failed.__cause__ = error.__cause__
    failed.last_error = error
    failed.keeper_status = status
    if isinstance(failed, ProviderError) and isinstance(error, ProviderError):
        failed.status = error.status
    return failed


def explain(
    pool: str,
    timeout: PoolTimeout,
    failure: ConnectFailure | None,
    status: KeeperStatus,
    shortage: Shortage,
) -> CheckoutFailed:
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
    error: CheckoutFailed
    if failure is None:
        kind = DatabaseUnreachable if shortage.unanswered else CheckoutFailed
        error = kind(f"pool {pool!r}: {timeout}: {shortage} (credentials: {lease})")
    elif isinstance(failure.error, exceptions.ConfigurationError):
        error = ConfigurationError(f"pool {pool!r}: {failure.error}")
    else:
        hint = ""
        if failure.reason is not None:
            hint = advice(failure.reason, failure.sqlstate, failure.parameter)
        who = f"{status.username!r} from {status.provider} ({lease})"
        match failure.reason:
            case LoginFailure.CREDENTIALS:
                error = LoginRefused(
                    f"pool {pool!r}: {timeout}: PostgreSQL refuses the login of {who}: {hint}; "
                    f"the server said: {failure.error}"
                )
            case LoginFailure.PG_HBA | LoginFailure.SERVER:
                error = ServerRefused(
                    f"pool {pool!r}: {timeout}: PostgreSQL refuses {who}, and other "
                    f"credentials would not help ({failure.sqlstate or 'no code'}): "
                    f"{hint}; the server said: {failure.error}"
                )
            case LoginFailure.CLIENT:
                error = ConfigurationError(
                    f"pool {pool!r}: {timeout}: libpq refuses the server: {hint}; it said: "
                    f"{failure.error} (credentials: {lease})"
                )
            case LoginFailure.UNREACHABLE:
                error = DatabaseUnreachable(
                    f"pool {pool!r}: {timeout}: PostgreSQL cannot be reached: {hint}; last "
                    f"attempt: {failure.error} (credentials: {lease})"
                )
            case None:
                error = CheckoutFailed(
                    f"pool {pool!r}: {timeout}: a connect failed before or after the login: check "
                    "configure=, connection_class=, and conninfo= or kwargs= if they are "
                    f"functions; last attempt: {failure.error} (credentials: {lease})"
                )
    error.last_error = failure.error if failure is not None else None
    error.keeper_status = status
    return error
