"""What a pool has to do in the background: frozen values, decided by `Rotation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant
    from ephemeral_creds.events import Event
    from ephemeral_creds.lifecycle.signals import Signal
    from ephemeral_creds.pool.ledger import Opening

__all__ = [
    "AskEnd",
    "CloseUnwanted",
    "CutOff",
    "Job",
    "Preconnect",
    "Prove",
    "ReplaceIdle",
    "Report",
    "Retry",
    "Tell",
    "TellOutage",
]


@dataclass(frozen=True, slots=True)
class Prove:
    """Open a connection with `grant`, to find out whether it works."""

    grant: Grant
    opening: Opening[Any]


@dataclass(frozen=True, slots=True)
class Preconnect:
    """Open a connection with `grant`, to replace an old one by."""

    grant: Grant
    opening: Opening[Any]


@dataclass(frozen=True, slots=True)
class AskEnd:
    """Open a connection with `grant`, whose login asks how long it can log in."""

    grant: Grant
    opening: Opening[Any]


@dataclass(frozen=True, slots=True)
class ReplaceIdle:
    """Put spare connections in the places of old ones that are idle.

    Outcome: whether old ones are idle that no spare one was left for.
    """


@dataclass(frozen=True, slots=True)
class CloseUnwanted:
    """Close connections that were opened ahead and are no longer needed."""

    connections: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CutOff:
    """Cancel what borrowed connections run, and end their sessions."""

    connections: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Have psycopg_pool connect again."""

    tasks: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class TellOutage:
    """Call ``reconnect_failed``."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Pass `signal` on to the keeper."""

    signal: Signal


@dataclass(frozen=True, slots=True)
class Report:
    """Pass `event` on to the keeper's observers."""

    event: Event


Job = (
    Prove
    | Preconnect
    | AskEnd
    | ReplaceIdle
    | CloseUnwanted
    | CutOff
    | Retry
    | TellOutage
    | Tell
    | Report
)
