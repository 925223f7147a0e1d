"""What a pool's connections were doing when none of them could be lent in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.pool.connections import Overview

__all__ = ["Shortage", "shortage"]

_NO_ANSWER = (
    "without an answer from PostgreSQL (check host, port and firewall; with connect_timeout in "
    "conninfo it fails sooner)"
)
_NEVER_RETURNED = (
    "closed and never returned (call putconn(), or make the pool with close_returns=True)"
)


@dataclass(frozen=True, slots=True)
class Shortage:
    """Where the connections of a pool were, without a failed connect to explain it.

    Attributes:
        size: how many the pool counts, whatever has become of them.
        max_size: how many it may have.
        idle: those that were not borrowed.
        borrowed: those that were in use.
        connecting: for how many seconds each of those has waited for PostgreSQL.
        configuring: for how many seconds each of those has been in ``configure=``.
        waiting: those that are to be opened when it is time, or when a worker is free.
        check_error: what ``check=`` said last, if that was no success.
        hurried: whether the caller would not wait at all.
    """

    size: int
    max_size: int
    idle: int = 0
    borrowed: int = 0
    connecting: tuple[float, ...] = ()
    configuring: tuple[float, ...] = ()
    waiting: int = 0
    check_error: str | None = None
    hurried: bool = False

    @property
    def never_returned(self) -> int:
        """How many were closed by who had borrowed them, and not returned."""
        opening = len(self.connecting) + len(self.configuring) + self.waiting
        return max(self.size - self.idle - self.borrowed - opening, 0)

    @property
    def unanswered(self) -> bool:
        """Whether PostgreSQL is asked for a connection, and no other shows that it answers."""
        return bool(self.connecting) and not (self.borrowed or self.idle or self.configuring)

    def __str__(self) -> str:
        if self.hurried:
            return "it was given no time: a checkout needs a timeout above 0, also if one is idle"
        if 0 < self.max_size <= self.borrowed:
            return (
                "all connections are in use; raise max_size or hold connections for a shorter time"
            )
        idle = f"idle, and check= fails: {self.check_error}" if self.check_error else "idle"
        connecting, configuring = max(self.connecting, default=0), max(self.configuring, default=0)
        found = [
            (self.borrowed, "in use"),
            (self.idle, idle),
            (len(self.connecting), f"connecting for {connecting:.1f} s {_NO_ANSWER}"),
            (len(self.configuring), f"in configure= for {configuring:.1f} s"),
            (self.waiting, "waiting to be opened"),
            (self.never_returned, _NEVER_RETURNED),
        ]
        parts = ", ".join(f"{count} {what}" for count, what in found if count)
        return f"of {self.size} connections (max_size is {self.max_size}): {parts or 'none open'}"


def shortage(
    overview: Overview, stats: Mapping[str, int], lent: int, workers: int, now: float
) -> Shortage:
    """Look where the connections of a pool are.

    Args:
        overview: what the rotation knows of them.
        stats: psycopg_pool's counters.
        lent: how many of those that are open are not idle.
        workers: how many connections psycopg_pool opens at a time.
        now: the instant of this look.
    """
    opening = overview.openings
    configuring = [o.configuring_since for o in opening if o.configuring_since is not None]
    connecting = [o.since for o in opening if o.configuring_since is None]
    size, idle = stats["pool_size"], stats["pool_available"]
    borrowed = lent - len(configuring)
    waiting = overview.held
    if len(opening) >= workers:
        # What is not begun waits for one of them.
        waiting = size - idle - borrowed - len(opening)
    return Shortage(
        size=size,
        max_size=stats["pool_max"],
        idle=idle,
        borrowed=borrowed,
        connecting=tuple(now - since for since in connecting),
        configuring=tuple(now - since for since in configuring),
        waiting=max(waiting, 0),
    )
