"""The connections of a pool: being opened, open, and spare."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.pool.reconnects import ConnectFailure

__all__ = ["Borrowed", "LeaseInfo", "Ledger", "Opening", "generation_of"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Borrowed:
    """When and where a connection was checked out."""

    at: float
    where: str


@dataclass(eq=False, slots=True)
class LeaseInfo:
    """All that the pool notes on a user's connection: its attribute ``_lease``.

    Attributes:
        generation: what it logged in with.
        borrowed: when and where it was checked out last, if that is traced.
    """

    generation: int
    borrowed: Borrowed | None = None


def generation_of(connection: object) -> int:
    """Return the generation that `connection` logged in with; 0 for a stranger."""
    lease: LeaseInfo | None = getattr(connection, "_lease", None)
    return lease.generation if lease is not None else 0


@dataclass(eq=False, slots=True)
class Opening(Generic[T]):
    """A connection that is being opened, by psycopg_pool or ahead of it.

    Attributes:
        since: when it began.
        ahead: whether it is beyond what psycopg_pool opens.
        generation: what it logs in with; 0 until that is known.
        ended: whether it is open, or has failed, or was given up.
        connection: what the login has brought.
        configuring_since: when ``configure=`` was called for it.
        failure: why the login has failed.
    """

    since: float
    ahead: bool = False
    generation: int = 0
    ended: bool = False
    connection: T | None = None
    configuring_since: float | None = None
    failure: ConnectFailure | None = None
    _claimed: bool = False

    def claim(self) -> bool:
        """Tell whether a connect is the one for it: the first while it is under way.

        What psycopg_pool calls around that, such as ``configure=``, may connect for itself.
        """
        if self._claimed or self.ended:
            return False
        self._claimed = True
        return True


class Ledger(Generic[T]):
    """Counts connections by generation; those that are logging in count as open.

    The generation is written down when the credentials are resolved, *before* connecting: what
    counts is the credentials that a connection has, not when it was ready.

    Spare ones were opened ahead and wait for an old one to replace. New comes before old, and never
    more than `overshoot` of it: a spare one counts until the old one is closed.

    Args:
        overshoot: how many connections there may be beyond what psycopg_pool has.
    """

    def __init__(self, overshoot: int) -> None:
        self.peak = 0
        self._overshoot = overshoot
        self._openings: set[Opening[T]] = set()
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        # Until when each may wait.
        self._spare: dict[T, float] = {}
        # Those that are being put in the place of an old one, or closed.
        self._taken: dict[T, float] = {}

    # -- opening ---------------------------------------------------------------------------

    def begin(self, now: float, generation: int = 0, *, ahead: bool = False) -> Opening[T]:
        """A connection is about to be opened; `end` follows."""
        opening: Opening[T] = Opening(now, ahead)
        self._openings.add(opening)
        if generation:
            self.log_in(opening, generation)
        return opening

    def log_in(self, opening: Opening[T], generation: int) -> None:
        """Its login is about to start."""
        opening.generation = generation
        self.peak = max(self.peak, self.size)

    def logged_in(self, opening: Opening[T], connection: T) -> None:
        """Its login has succeeded."""
        opening.connection = connection
        self._open.add(connection)

    def end(self, opening: Opening[T]) -> None:
        """It is open, or has failed, or was given up."""
        opening.ended = True
        self._openings.discard(opening)

    @property
    def openings(self) -> list[Opening[T]]:
        """What psycopg_pool is opening."""
        return [opening for opening in self._openings if not opening.ahead]

    # -- counting --------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many connections there are."""
        return sum(self.by_generation().values())

    def by_generation(self) -> dict[int, int]:
        """Return how many connections there are of each generation."""
        counts = Counter(self.open_by_generation())
        counts.update(o.generation for o in self._logging_in())
        return dict(sorted(counts.items()))

    def open_by_generation(self) -> dict[int, int]:
        """Return how many there are without those that are logging in."""
        counts = Counter(generation_of(c) for c in self.connections())
        return dict(sorted(counts.items()))

    def has_before(self, generation: int) -> bool:
        """Tell whether any connection is of a generation before this one; mostly a short look."""
        return any(o.generation < generation for o in self._logging_in()) or any(
            generation_of(c) < generation and not c.closed for c in self._open
        )

    def owns(self, connection: object) -> bool:
        """Tell whether `connection` is one of those counted here."""
        return connection in self._open

    def connections(self, generation: int | None = None) -> list[Any]:
        """Return the open connections, or those of one generation."""
        return [c for c in self._open if generation in (None, generation_of(c)) and not c.closed]

    def _logging_in(self) -> list[Opening[T]]:
        return [o for o in self._openings if o.generation and o.connection is None]

    # -- spare ones ------------------------------------------------------------------------

    def room(self, wanted: float = math.inf) -> int:
        """Return how many more may be opened ahead, where there should be `wanted` in all."""
        ahead = sum(opening.ahead for opening in self._openings)
        total = ahead + len(self._spare) + len(self._taken)
        return int(max(min(self._overshoot, wanted) - total, 0))

    def spare(self, connection: T, until: float) -> None:
        """Keep what was opened ahead until the instant `until`."""
        self._spare[connection] = until

    def take(self, generation: int) -> T | None:
        """Take a spare one of `generation`, if there is any; `put_back` or `release` follows."""
        found = next((c for c in self._spare if generation_of(c) == generation), None)
        if found is not None:
            self._taken[found] = self._spare.pop(found)
        return found

    def take_unwanted(self, unwanted: Callable[[int], bool], now: float) -> tuple[T, ...]:
        """Take all whose generation is `unwanted`, or whose time has passed; `release` follows."""
        found = [
            c for c, until in self._spare.items() if until <= now or unwanted(generation_of(c))
        ]
        return self._take_all(found)

    def make_room(self) -> tuple[T, ...]:
        """Take a spare one, if there is no room without; `release` follows."""
        return self._take_all([] if self.room() else list(self._spare)[:1])

    def _take_all(self, connections: list[T]) -> tuple[T, ...]:
        for connection in connections:
            self._taken[connection] = self._spare.pop(connection)
        return tuple(connections)

    def put_back(self, connection: T) -> None:
        """What was taken is still spare."""
        self._spare[connection] = self._taken.pop(connection)

    def release(self, connection: T) -> None:
        """What was taken has its place, or is closed."""
        self._taken.pop(connection, None)

    def has_spare(self, generation: int) -> bool:
        """Tell whether a spare one of `generation` waits."""
        return any(generation_of(c) == generation for c in self._spare)

    @property
    def spare_until(self) -> float:
        """The instant at which the next spare one is to be closed."""
        return min(self._spare.values(), default=math.inf)
