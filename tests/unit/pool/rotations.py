"""What the tests of a pool's machine have in common: grants, sessions and a way to drive it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from ephemeral_creds import Credentials, Grant, Lease, RotationPolicy, Secret
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.jobs import AskEnd, Job, Preconnect, Prove, ReplaceIdle, Tell
from ephemeral_creds.pool.ledger import LeaseInfo
from ephemeral_creds.pool.reconnects import ConnectFailure
from ephemeral_creds.pool.rotation import Rotation

if TYPE_CHECKING:
    from ephemeral_creds.lifecycle.signals import Signal

J = TypeVar("J")

REFUSED = ConnectFailure(psycopg.OperationalError("refused"), LoginFailure.CREDENTIALS)
AWAY = ConnectFailure(psycopg.OperationalError("away"))


class Session:
    """What is looked at of a connection."""

    def __init__(self, generation: int) -> None:
        self._lease = LeaseInfo(generation)
        self.closed = False


# A rotation holds its connections weakly.
_held: list[Session] = []


def grant(
    generation: int, requested_at: float = 0.0, duration: float = 3600.0, **credentials: str
) -> Grant:
    lease = Lease(requested_at, duration=duration, renewable=True, lease_id="lease")
    return Grant(Credentials(f"user-{generation}", Secret("password-of-it")), lease, generation)


def rotation_of(
    generation: int, checks: bool = False, keeps: bool = True, **policy: Any
) -> Rotation[Any]:
    """Return one that serves `generation`; nothing comes of its wake-ups."""
    rotation: Rotation[Any] = Rotation(
        RotationPolicy(**policy), nullcontext, lambda: None, checks=checks, keeps=keeps
    )
    rotation.join(7, grant(generation) if generation else None)
    return rotation


def opened(rotation: Rotation[Any], generation: int) -> Session:
    """Have psycopg_pool open a connection."""
    opening = rotation.begin(0.0)
    rotation._ledger.log_in(opening, generation)
    session = Session(generation)
    _held.append(session)
    rotation.logged_in(opening, session)
    rotation.succeeded(opening)
    return session


def failed(rotation: Rotation[Any], failure: ConnectFailure, now: float) -> None:
    """Have psycopg_pool fail to open a connection with the credentials in use."""
    opening = rotation.begin(now)
    assert rotation.log_in(opening, rotation.serving)
    opening.failure = failure
    rotation.failed_to_open(opening, failure, now)


def jobs(rotation: Rotation[Any], now: float) -> list[Job]:
    """Take all that is to be done now; what opens a connection, or looks, has not been done."""
    found: list[Job] = []
    while more := rotation.jobs(now):
        found += more
        for job in more:
            if not isinstance(job, Prove | Preconnect | AskEnd | ReplaceIdle):
                rotation.done(job, None, now)
    return found


def only(found: list[Job], kind: type[J]) -> list[J]:
    return [job for job in found if isinstance(job, kind)]


def told(found: list[Job]) -> list[Signal]:
    """Return what the keeper is told."""
    return [job.signal for job in only(found, Tell)]


def succeed(rotation: Rotation[Any], job: Prove | Preconnect | AskEnd, now: float) -> Session:
    """Have a job's login succeed."""
    session = Session(job.grant.generation)
    _held.append(session)
    rotation.logged_in(job.opening, session)
    rotation.done(job, session, now)
    return session
