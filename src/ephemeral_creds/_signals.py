"""What goes into the lifecycle machine and what comes out: frozen values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds._refusals import LoginFailure
    from ephemeral_creds._values import Grant, Lease
    from ephemeral_creds.events import Event

__all__ = [
    "Accepted",
    "Action",
    "AskEnd",
    "Close",
    "EndLearned",
    "Expire",
    "Extend",
    "Failed",
    "Fetch",
    "Granted",
    "Left",
    "Operation",
    "Prove",
    "Publish",
    "RefreshRequested",
    "Rejected",
    "Released",
    "Renew",
    "Renewed",
    "Report",
    "Retire",
    "Revoke",
    "Revoked",
    "Signal",
    "SourceChanged",
    "SourceSeen",
    "Start",
    "Stop",
    "Suspect",
    "Tick",
]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the provider for credentials; answer with `Granted` or `Failed`."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask the provider to extend a lease; answer with `Renewed` or `Failed`."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Revoke:
    """Give a grant back to the provider; answer with `Revoked` or `Failed`."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Prove:
    """Have a member log in once with a grant; it answers with `Accepted` or `Rejected`."""

    grant: Grant
    member: int


@dataclass(frozen=True, slots=True)
class Publish:
    """From now on every new connection logs in with this grant."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Retire:
    """Members move away from this grant and answer with `Released` when they have."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Extend:
    """The deadline of this grant, which pools may have connections of, has moved."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Expire:
    """This grant's deadline has come, or is about to where it has been replaced.

    Said once more where it is replaced after its deadline only.
    """

    grant: Grant


@dataclass(frozen=True, slots=True)
class Suspect:
    """The server says that this grant is gone: its open sessions may be dead without knowing."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class AskEnd:
    """Members ask PostgreSQL how long this grant can log in, and answer with `EndLearned`."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the observers."""

    event: Event


@dataclass(frozen=True, slots=True)
class Stop:
    """Everything has been given back; the machine will not ask for anything again."""


Operation = Fetch | Renew | Revoke
Action = Operation | Prove | Publish | Extend | Retire | Expire | Suspect | AskEnd | Report | Stop


@dataclass(frozen=True, slots=True)
class Start:
    """Begin."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The provider delivered credentials; the grant's generation is still 0."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Renewed:
    """The provider extended a lease."""

    generation: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class Revoked:
    """The provider took a grant back."""

    generation: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider could not do what was asked."""

    operation: Operation
    error: Exception


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """The provider noticed that a fetch may now bring something else."""


@dataclass(frozen=True, slots=True)
class SourceSeen:
    """The provider looked at its source; `error` says why it cannot be used; empty where it can."""

    error: str


@dataclass(frozen=True, slots=True)
class RefreshRequested:
    """Somebody asked for new credentials."""


@dataclass(frozen=True, slots=True)
class Left:
    """A pool closed all its connections and stopped using the keeper."""

    member: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """PostgreSQL accepted a login with this generation."""

    member: int
    generation: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A login with this generation failed."""

    member: int
    generation: int
    reason: LoginFailure
    sqlstate: str | None = None
    """What the server said, where it is known."""


@dataclass(frozen=True, slots=True)
class EndLearned:
    """PostgreSQL lets this generation log in for `remaining` seconds more; ``inf`` for no limit."""

    generation: int
    remaining: float


@dataclass(frozen=True, slots=True)
class Released:
    """A pool closed its last connection of this generation and opens no more."""

    member: int
    generation: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline came."""


@dataclass(frozen=True, slots=True)
class Close:
    """Give everything back and stop."""


Signal = (
    Start
    | Granted
    | Renewed
    | Revoked
    | Failed
    | SourceChanged
    | SourceSeen
    | RefreshRequested
    | Left
    | Accepted
    | Rejected
    | EndLearned
    | Released
    | Tick
    | Close
)
