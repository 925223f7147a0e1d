"""Every error that the library raises.

::

    EphemeralCredsError
    ├── ConfigurationError          something set up wrong: retrying will not help
    ├── ProviderError
    │   ├── ProviderUnavailable     may pass: network, sealed, standby, rate limit
    │   ├── AccessDenied            refused, and a fresh login did not cure it
    │   ├── LeaseLost               this lease is gone or cannot be extended any more
    │   └── MalformedResponse       not what the protocol promises
    ├── NoCredentials
    │   ├── NotReady                none yet; carries the last cause
    │   ├── CredentialsExpired      the last ones passed their deadline
    │   └── KeeperClosed            closed, or inherited through a fork
    └── CheckoutFailed              a pool could not hand out a connection in time
        ├── DatabaseUnreachable     PostgreSQL does not answer
        ├── LoginRefused            PostgreSQL refuses the credentials
        └── ServerRefused           PostgreSQL says no, for another reason than the credentials

Where a pool raises `NoCredentials` or `CheckoutFailed`, the error is a
`psycopg_pool.PoolTimeout` as well, hence a `psycopg.OperationalError`: existing ``except``
clauses keep working.

Each message names what, where and what to do next. None holds a password, a token or any other
secret; errors of the libraries below are copied field by field and never chained, because they
carry request headers, response bodies and connection strings.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "CheckoutFailed",
    "ConfigurationError",
    "CredentialsExpired",
    "DatabaseUnreachable",
    "EphemeralCredsError",
    "KeeperClosed",
    "LeaseLost",
    "LoginRefused",
    "MalformedResponse",
    "NoCredentials",
    "NotReady",
    "ProviderError",
    "ProviderUnavailable",
    "ServerRefused",
]


class EphemeralCredsError(Exception):
    """Root of every error of this library."""


class ConfigurationError(EphemeralCredsError):
    """A role, path, mount, policy, file format or option is wrong; retrying does not help."""


class ProviderError(EphemeralCredsError):
    """The place that credentials come from did not deliver them.

    Attributes:
        status: the HTTP status where the provider speaks HTTP and got an answer, else ``None``.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ProviderUnavailable(ProviderError):
    """A failure that may pass by itself: network, sealed or standby server, rate limit.

    Attributes:
        retry_after: seconds that the server asked to wait, where it said so.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class AccessDenied(ProviderError):
    """Refused for lack of permission, and a fresh login did not cure it."""


class LeaseLost(ProviderError):
    """The lease is gone, or cannot be extended any more: only new credentials help."""


class MalformedResponse(ProviderError):
    """The answer is not what the protocol promises, for example a proxy's HTML page."""


class NoCredentials(EphemeralCredsError):
    """There are no credentials that a login could use."""


class NotReady(NoCredentials):
    """No credentials have arrived yet; the message holds the last failure."""


class CredentialsExpired(NoCredentials):
    """The last credentials passed their deadline and no new ones could be had."""


class KeeperClosed(NoCredentials):
    """The keeper was closed, or belongs to the parent process of a fork."""


class CheckoutFailed(EphemeralCredsError):
    """A pool could not hand out a connection in time; the message says why."""


class DatabaseUnreachable(CheckoutFailed):
    """PostgreSQL did not answer, or not in time."""


class LoginRefused(CheckoutFailed):
    """PostgreSQL refused the credentials."""


class ServerRefused(CheckoutFailed):
    """PostgreSQL, or a pooler before it, said no for a reason that is not the credentials.

    No slot is free, there is no such database, `pg_hba.conf` has no line for it: the message says
    which, and what to do. No new credentials are fetched because of it.
    """
