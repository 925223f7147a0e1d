"""Signals to the lifecycle machine: frozen values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant, Lease
    from ephemeral_creds.lifecycle.actions import Operation
    from ephemeral_creds.lifecycle.refusals import LoginFailure


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
    """The provider revoked a grant."""

    generation: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A request to the provider failed."""

    operation: Operation
    error: Exception


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """The provider noticed that a fetch may now bring other credentials."""


@dataclass(frozen=True, slots=True)
class SourceSeen:
    """The provider looked at its source; `error` says why it cannot be used, or is empty."""

    error: str


@dataclass(frozen=True, slots=True)
class RefreshRequested:
    """A caller asked for new credentials."""


@dataclass(frozen=True, slots=True)
class ConsumerLeft:
    """A consumer closed all its connections and stopped using the keeper."""

    consumer: int


@dataclass(frozen=True, slots=True)
class LoginAccepted:
    """PostgreSQL accepted a login with this generation."""

    consumer: int
    generation: int


@dataclass(frozen=True, slots=True)
class LoginRejected:
    """A login with this generation failed."""

    consumer: int
    generation: int
    reason: LoginFailure
    sqlstate: str | None = None
    """What the server said, where it is known."""


@dataclass(frozen=True, slots=True)
class EndLearned:
    """PostgreSQL accepts this generation for `remaining` seconds more; ``inf`` for no limit."""

    generation: int
    remaining: float


@dataclass(frozen=True, slots=True)
class ConsumerReleased:
    """A consumer closed its last connection of this generation and opens no more."""

    consumer: int
    generation: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The machine's `deadline` has come."""


@dataclass(frozen=True, slots=True)
class Close:
    """Revoke everything and stop."""


Signal = (
    Start
    | Granted
    | Renewed
    | Revoked
    | Failed
    | SourceChanged
    | SourceSeen
    | RefreshRequested
    | ConsumerLeft
    | LoginAccepted
    | LoginRejected
    | EndLearned
    | ConsumerReleased
    | Tick
    | Close
)
