"""Every error that the library raises.

::

    EphemeralCredsError
    ├── ConfigurationError          a wrong setting: retrying does not help
    ├── ProviderError
    │   ├── ProviderUnavailable     temporary: network, sealed, standby, rate limit
    │   ├── AccessDenied            refused, also after a new login
    │   ├── LeaseLost               this lease is gone or cannot be renewed any more
    │   └── MalformedResponse       a reply that breaks the protocol
    ├── NoCredentials
    │   ├── NotReady                none yet; carries the last cause
    │   ├── CredentialsExpired      the last ones passed their deadline
    │   └── KeeperClosed            closed, or inherited by a fork
    └── CheckoutFailed              a pool could not hand out a connection in time
        ├── DatabaseUnreachable     PostgreSQL does not answer
        ├── LoginRefused            PostgreSQL refuses the credentials
        └── ServerRefused           PostgreSQL refuses for another reason

`CheckoutFailed` and what is below it are a `psycopg_pool.PoolTimeout` as well, hence a
`psycopg.OperationalError`: existing ``except`` clauses keep working. They are in `pool.errors`, and
so are those that pools raise in place of `NotReady`, `CredentialsExpired`, `KeeperClosed`,
`AccessDenied` and `ConfigurationError`: of the same name, derived from them and from
`CheckoutFailed`.

Each message says what failed, where, and what to do next. None holds a password, a token or any
other secret; errors of hvac, requests and psycopg are copied field by field and never chained,
because they carry request headers, response bodies and connection strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

__all__ = [
    "AccessDenied",
    "ConfigurationError",
    "CredentialsExpired",
    "EphemeralCredsError",
    "KeeperClosed",
    "LeaseLost",
    "MalformedResponse",
    "NoCredentials",
    "NotReady",
    "ProviderError",
    "ProviderUnavailable",
]


E = TypeVar("E", bound="EphemeralCredsError")


class EphemeralCredsError(Exception):
    """Root of every error of this library.

    All of them survive pickling and copying, with their attributes and their cause.
    """

    def __reduce__(self) -> tuple[object, ...]:
        # Exception.__reduce__ drops the cause.
        state = {**vars(self), "__cause__": self.__cause__}
        return _new, (type(self), self.args), {name: _picklable(state[name]) for name in state}

    def __copy__(self) -> Self:
        # With __reduce__, copy.copy() would pickle the cause.
        copied = _new(type(self), self.args)
        vars(copied).update(vars(self))
        copied.__cause__ = self.__cause__
        return copied


class ConfigurationError(EphemeralCredsError):
    """A role, path, mount, policy, file format or option is wrong: retrying does not help."""


class ProviderError(EphemeralCredsError):
    """A provider did not deliver credentials, or could not renew or revoke them.

    Attributes:
        status: the HTTP status of the reply; ``None`` without one, or without HTTP.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ProviderUnavailable(ProviderError):
    """A temporary failure: network, sealed or standby server, rate limit.

    Attributes:
        retry_after: seconds that the server asked to wait; ``None`` if it did not.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class AccessDenied(ProviderError):
    """The source denied permission, also after a new login."""


class LeaseLost(ProviderError):
    """The lease is gone, or cannot be renewed any more: only new credentials help."""


class MalformedResponse(ProviderError):
    """The reply breaks the protocol, for example a proxy's HTML page."""


class NoCredentials(EphemeralCredsError):
    """There are no credentials that a login could use."""


class NotReady(NoCredentials):
    """No credentials have arrived yet; the message holds the last failure."""


class CredentialsExpired(NoCredentials):
    """The last credentials have expired and could not be replaced."""


class KeeperClosed(NoCredentials):
    """The keeper was closed, or belongs to the parent process of a fork."""


def _new(kind: type[E], args: tuple[object, ...]) -> E:
    # Without the constructor: that of a provider's own error may take what others do not.
    return kind.__new__(kind, *args)


def _picklable(value: object) -> object:
    """Return `value`; for an error that does not survive pickling, one of ours with its text."""
    if isinstance(value, BaseException):
        import pickle

        try:
            pickle.loads(pickle.dumps(value))  # noqa: S301 - what was made here
        except Exception:  # noqa: BLE001 - any error of any library
            return EphemeralCredsError(f"{type(value).__name__}: {value}")
    return value


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in {"CheckoutFailed", "DatabaseUnreachable", "LoginRefused", "ServerRefused"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib
        import warnings

        text = f"{__name__}.{name} is deprecated: import it from ephemeral_creds"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module("ephemeral_creds.pool.errors"), name)
