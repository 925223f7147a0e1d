"""What happened, for logs, metrics and alerts.

A keeper and its pools call each observer with one of the records below. They are frozen, and
their fields are plain values, never a secret. Durations are `float` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

__all__ = [
    "BorrowedAtDeadline",
    "CandidateDiscarded",
    "CredentialsEnding",
    "CredentialsIssued",
    "CredentialsPublished",
    "Event",
    "FetchFailed",
    "FileWriteFailed",
    "KeeperFailed",
    "LeaseExpired",
    "LeaseRenewed",
    "LeaseRevoked",
    "LoginRejected",
    "Outcome",
    "PasswordChanged",
    "PoolRotated",
    "Problem",
    "ProviderRequest",
    "RenewalFailed",
    "RevocationFailed",
    "SourceRecovered",
    "SourceUnusable",
    "ValidUntilPassed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events.

    Attributes:
        keeper: the name of the keeper that reports it.
    """

    keeper: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Event):
    """The base of all events that an operator should look into if they repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsIssued(Event):
    """The provider delivered new credentials; they are not in use yet."""

    generation: int
    username: str
    duration: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsPublished(Event):
    """New connections log in with this generation from now on.

    Attributes:
        generation: the generation.
        username: its user name.
        previous: the generation before it; ``None`` for the first.
        proven: whether it was tested: at least one pool has logged in with it, and so have all
            that still use the keeper. False if there was nothing to fall back on, or if a
            pool's server did not answer in time.
    """

    generation: int
    username: str
    previous: int | None
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordChanged(Event):
    """The role in use has a new password: new connections log in with it, open ones stay."""

    generation: int
    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRenewed(Event):
    """A lease was renewed; `shortened` if the server granted less time than before."""

    generation: int
    duration: float
    shortened: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFailed(Problem):
    """A lease could not be renewed; the next attempt is in `retry_in` seconds."""

    generation: int
    error: str
    retry_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed(Problem):
    """The provider delivered no credentials; the next attempt is in `retry_in` seconds."""

    error: str
    failures: int
    retry_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRejected(Problem):
    """PostgreSQL refused a login, or libpq the server.

    Attributes:
        generation: the generation whose credentials were to log in.
        current: whether that generation is in use; false while it is being tested.
        reason: ``credentials`` if the server refused user or password, ``pg_hba`` if it
            rejected the login before it asked for a password, ``server`` if it refused for a
            reason that other credentials do not change, ``client`` if it lacks what ``sslmode``,
            ``channel_binding`` or ``require_auth`` of the client asks for.
        sqlstate: the server's code, such as ``28P01``; ``None`` if it is not known.
    """

    generation: int
    current: bool
    reason: str = "credentials"
    sqlstate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateDiscarded(Problem):
    """A new generation was discarded before it was used.

    Attributes:
        generation: the generation.
        reason: ``logins refused``: PostgreSQL refused it until the generation in use was about to
            expire; ``expired``: it expired before it was tested; ``lease lost``: its lease could
            not be renewed any more; ``superseded``: there is a newer one, or the source has gone
            back to the credentials in use.
    """

    generation: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseExpired(Problem):
    """The credentials in use have expired, and there are no others yet."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsEnding(Problem):
    """Credentials without a lease are near their expected end, and the source has no others yet.

    They stay in use, also after that: the expected end is a hint.

    Attributes:
        generation: the generation.
        ends_in: seconds until ``VALID UNTIL`` in PostgreSQL, or until the end that the source
            expects; negative afterwards.
        source_error: why the content of the source cannot be used, as in `SourceUnusable`; empty
            if it can, and holds the same credentials.
    """

    generation: int
    ends_in: float
    source_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUnusable(Problem):
    """The source cannot be used: its file is missing, half written, refused or malformed.

    Reported once for each problem that lasts for three seconds. The credentials that were read
    before stay in use until PostgreSQL refuses them.

    Attributes:
        error: class and text of the error, which say where and what to do.
    """

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecovered(Event):
    """The source can be used again, after a `SourceUnusable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRevoked(Event):
    """A lease was revoked."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationFailed(Problem):
    """A lease could not be revoked; `final` if it is now left to expire by itself."""

    generation: int
    error: str
    final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperFailed(Problem):
    """There is a defect in the keeper or in its provider; the credentials in use keep working.

    The keeper's thread continues, unless `error` says that it has crashed.
    """

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWriteFailed(Problem):
    """A `CredentialsFile` could not write its file; the next attempt is in `retry_in` seconds.

    Until then the file has the credentials from before, whose lease is held.
    """

    path: str
    error: str
    retry_in: float


Outcome: TypeAlias = Literal["done", "refused", "failed", "unknown"]
"""How a request ended; ``unknown`` if the server may have done it, but no usable answer came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRequest(Event):
    """A provider has sent a request to its server: a line of an audit trail.

    Not a `Problem` even if it failed: the consequence is an event of its own, such as
    `FetchFailed`.

    Attributes:
        operation: ``login``, ``unwrap``, ``lookup-token``, ``renew-token``, ``revoke-token``,
            ``mint``, ``read``, ``describe``, ``renew`` or ``revoke``.
        outcome: how the request ended.
        address: the address of the node that it was sent to.
        mount: where the secrets engine or auth method is mounted; empty for ``unwrap``. At
            Infisical: project, environment and folder.
        role: the role of the engine or of the auth method, the path of a key-value secret, the
            name of a dynamic secret or of a secret manager's secret, or the user that logs in,
            with a token for example; empty for Vault's tokens, and for an AppRole, whose id is not
            shown.
        accessor: the accessor of the token that was sent, or that the login returned. Never the
            token.
        lease: the lease, its last part shortened.
        status: the HTTP status of the answer; ``None`` without an answer.
        duration: seconds from sending the request to the end of the answer.
        error: what went wrong; empty on success.
    """

    operation: str
    outcome: Outcome
    address: str
    mount: str = ""
    role: str = ""
    accessor: str = ""
    lease: str = ""
    status: int | None = None
    duration: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRotated(Event):
    """A pool closed its last connection of the generations before `generation`."""

    pool: str
    generation: int
    connections: int
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BorrowedAtDeadline(Problem):
    """Connections are still borrowed although their credentials were replaced and now expire.

    Attributes:
        pool: the pool's name.
        generation: the generation that they logged in with.
        connections: how many they are.
        age: seconds for which the first of them has been borrowed; without
            ``RotationPolicy(trace_borrowers=True)``, seconds since they were replaced.
        where: where they were checked out, with ``RotationPolicy(trace_borrowers=True)``.
        cancelled: whether the pool cancels their queries and closes them.
    """

    pool: str
    generation: int
    connections: int
    age: float
    where: tuple[str, ...] = ()
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidUntilPassed(Problem):
    """PostgreSQL refuses a role because of its ``VALID UNTIL`` although its lease has time left.

    The ``renew_statements`` of the role in Vault do not move it; `remedy` has the statement.

    Attributes:
        generation: the generation.
        ends_in: seconds until ``VALID UNTIL``; negative, since it has passed.
        expires_in: seconds that the lease had left when the login was refused.
        remedy: what to do, with the statement to add.
    """

    generation: int
    ends_in: float
    expires_in: float
    remedy: str = (
        "write into the role's renew_statements: "
        "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';"
    )


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in ("CredentialsLapsed", "Observer"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib
        import warnings

        if name == "CredentialsLapsed":
            new, value = "LeaseExpired", LeaseExpired
        else:
            new = "ephemeral_creds.Observer"
            value = importlib.import_module("ephemeral_creds.observers").Observer
        warnings.warn(f"{__name__}.{name} is now {new}", DeprecationWarning, stacklevel=2)
        return value
