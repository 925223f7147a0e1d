"""What the lifecycle machine has its driver do: frozen values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant
    from ephemeral_creds.events import Event


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the provider for credentials; answer with `Granted` or `Failed`.

    `refused` are those that it is known to have, if PostgreSQL refuses them nevertheless.
    """

    refused: Grant | None = None


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
    """Have a consumer log in once; it answers with `LoginAccepted` or `LoginRejected`."""

    grant: Grant
    consumer: int


@dataclass(frozen=True, slots=True)
class Publish:
    """From now on every new connection logs in with this grant."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Retire:
    """Consumers move away from this grant and answer with `ConsumerReleased` when they have."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Extend:
    """The deadline of this grant, which consumers may have connections of, has moved."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Expire:
    """The deadline of this grant, the one in use, has come."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Reclaim:
    """This grant has been replaced, and its deadline is near or past: act on what is borrowed."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Suspect:
    """The server says that this grant is gone: its open sessions may be dead without knowing."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class AskEnd:
    """Consumers ask PostgreSQL how long this grant can log in, and answer with `EndLearned`."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the observers."""

    event: Event


@dataclass(frozen=True, slots=True)
class Stop:
    """Everything has been revoked; the machine will not ask for anything again."""


Operation = Fetch | Renew | Revoke
Action = (
    Operation
    | Prove
    | Publish
    | Extend
    | Retire
    | Expire
    | Reclaim
    | Suspect
    | AskEnd
    | Report
    | Stop
)
