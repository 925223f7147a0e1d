"""What happened, for logs, metrics and alerts.

A keeper and its pools call every observer with one of the records below. They are frozen, hold
plain values from a fixed list of fields, and never a secret. Durations are `float` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

__all__ = [
    "BorrowedAtDeadline",
    "CandidateDiscarded",
    "CredentialsEnding",
    "CredentialsIssued",
    "CredentialsLapsed",
    "CredentialsPublished",
    "Event",
    "FetchFailed",
    "KeeperFailed",
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
    """What all events have.

    Attributes:
        keeper: the name of the keeper that it happened in.
    """

    keeper: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Event):
    """An event that somebody should look at if it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsIssued(Event):
    """The provider delivered new credentials; they are not in use yet."""

    generation: int
    username: str
    duration: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsPublished(Event):
    """From now on, new connections log in with this generation.

    Attributes:
        generation: which one.
        username: its user name.
        previous: what they logged in with before; ``None`` for the first.
        proven: whether a pool has logged in with it, and every one that still uses the keeper
            has: not where there was nothing to fall back on, or no answer in time.
    """

    generation: int
    username: str
    previous: int | None
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordChanged(Event):
    """The role in use has another password; new connections log in with it, open ones stay."""

    generation: int
    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRenewed(Event):
    """A lease was extended; `shortened` where the server gave less than before."""

    generation: int
    duration: float
    shortened: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFailed(Problem):
    """A lease could not be extended; the next attempt is in `retry_in` seconds."""

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
    """PostgreSQL answered a login with an error.

    Attributes:
        generation: what it logged in with.
        current: whether that is in use, rather than waiting to be proven.
        reason: ``credentials`` where it refused user or password, ``pg_hba`` where it turned the
            login away before it asked for a password, ``server`` where it said no for a reason
            that other credentials do not change.
        sqlstate: the server's code, such as ``28P01``; ``None`` where it is not known.
    """

    generation: int
    current: bool
    reason: str = "credentials"
    sqlstate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateDiscarded(Problem):
    """A new generation was never used.

    Attributes:
        generation: which one.
        reason: ``logins refused`` until those in use were about to end; ``expired`` before it was
            proven; ``lease lost`` where its lease could not be renewed any more; ``superseded`` by
            a newer one, or because the source has gone back to what is in use.
    """

    generation: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsLapsed(Problem):
    """The current credentials passed their deadline, and nothing has replaced them yet."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsEnding(Problem):
    """Credentials without a lease are about to end, or have, and the source has no others yet.

    They stay in use: what is known of their end is a hint.

    Attributes:
        generation: which ones.
        ends_in: seconds until PostgreSQL refuses them or the source expects them to end; negative
            after it.
        source_error: why what the source has now is not used, as in `SourceUnusable`; empty where
            it can be used and holds nothing else.
    """

    generation: int
    ends_in: float
    source_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUnusable(Problem):
    """What the source has now cannot be used: a file is gone, half written, refused or garbage.

    Told once for each distinct problem that lasts for three seconds. The credentials that were
    read before stay in use until PostgreSQL refuses them.

    Attributes:
        error: the error's class and text, which say where and what to do.
    """

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecovered(Event):
    """What the source has can be used again, after a `SourceUnusable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRevoked(Event):
    """A lease was given back."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationFailed(Problem):
    """A lease could not be given back; `final` where it is now left to expire by itself."""

    generation: int
    error: str
    final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperFailed(Problem):
    """The keeper's thread met a defect; the last credentials keep working.

    It goes on, unless the text says that it has ended.
    """

    error: str


Outcome: TypeAlias = Literal["done", "refused", "failed", "unknown"]
"""How a request ended; ``unknown`` where it may have been done although no usable answer came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRequest(Event):
    """A provider asked its server for something: a line of an audit trail.

    No `Problem` even where it failed: what follows from that is an event of its own, such as
    `FetchFailed`.

    Attributes:
        operation: ``login``, ``unwrap``, ``lookup-token``, ``renew-token``, ``revoke-token``,
            ``mint``, ``read``, ``renew`` or ``revoke``.
        outcome: how it ended.
        address: the one node that it asked.
        mount: where the secrets engine or auth method is mounted; empty for ``unwrap``.
        role: the role that it was about, of the engine or of the auth method, or the user that
            logged in; empty for tokens, and for an AppRole, whose id is not shown.
        accessor: the accessor of the token that it went under, or that the login brought. Never
            the token.
        lease: the lease that it was about, with all but the beginning of its last part cut off.
        status: the HTTP status of the answer; ``None`` where there was none.
        duration: seconds from sending it to the end of the answer.
        error: what went wrong; empty where nothing did.
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
    """Connections are still borrowed although their credentials, long replaced, are about to end.

    Attributes:
        pool: the pool's name.
        generation: what they logged in with.
        connections: how many.
        age: seconds for which they have been borrowed, at least.
        where: where they were checked out, with ``RotationPolicy(trace_borrowers=True)``.
        cancelled: whether they are being cut off.
    """

    pool: str
    generation: int
    connections: int
    age: float
    where: tuple[str, ...] = ()
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidUntilPassed(Problem):
    """PostgreSQL refuses a role by its ``VALID UNTIL`` although its lease has time left.

    The ``renew_statements`` of the role in Vault forget it; `remedy` has what they need.

    Attributes:
        generation: which one.
        ends_in: seconds until ``VALID UNTIL``: negative, for it has passed.
        expires_in: seconds that the lease had left when the login was refused.
        remedy: what to do, with the statement to write.
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
        if name != "Observer":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib
        import warnings

        text = f"{__name__}.Observer is deprecated: import it from ephemeral_creds"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return importlib.import_module("ephemeral_creds.observers").Observer
