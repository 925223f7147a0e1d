"""What the lifecycle machine has its driver do: frozen values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant
    from ephemeral_creds.events import Event

__all__ = [
    "Action",
    "AskEnd",
    "Expire",
    "Extend",
    "Fetch",
    "Operation",
    "Prove",
    "Publish",
    "Renew",
    "Report",
    "Retire",
    "Revoke",
    "Stop",
    "Suspect",
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
