"""Which connections psycopg_pool is opening at the moment, and which connects are its own."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds.pool.login import ConnectFailure

__all__ = ["Opening", "Openings"]


@dataclass(eq=False, slots=True)
class Opening:
    """One connection that psycopg_pool is opening.

    Attributes:
        since: when it began to.
        asked: whether the connect for it has been called.
        configuring_since: when ``configure=`` was called for it.
        generation: what it logs in with; 0 before that, and where it was opened ahead.
        failure: why that failed.
    """

    since: float
    asked: bool = False
    configuring_since: float | None = None
    generation: int = 0
    failure: ConnectFailure | None = None


# In the thread or task that psycopg_pool connects in.
_CURRENT: ContextVar[Opening | None] = ContextVar("ephemeral_creds_opening", default=None)


class Openings:
    """What one pool is opening.

    ``pool.connection_class.connect()`` is for anybody to call, psycopg_pool included, and only a
    connection of its own is the pool's business.
    """

    def __init__(self) -> None:
        self._opening: set[Opening] = set()

    @contextmanager
    def begin(self, now: float) -> Iterator[Opening]:
        """psycopg_pool opens a connection in the block."""
        opening = Opening(now)
        self._opening.add(opening)
        token = _CURRENT.set(opening)
        try:
            yield opening
        finally:
            _CURRENT.reset(token)
            self._opening.discard(opening)

    def asked(self) -> Opening | None:
        """Return the opening that this connect is for; ``None``: it is somebody else's.

        What psycopg_pool calls around it, such as ``configure=``, may connect for itself.
        """
        opening = _CURRENT.get()
        if opening is None or opening.asked or opening not in self._opening:
            return None
        opening.asked = True
        return opening

    def configuring(self, now: float) -> None:
        """The connection that is being opened here is about to be configured."""
        opening = _CURRENT.get()
        if opening is not None and opening in self._opening:
            opening.configuring_since = now

    def all(self) -> list[Opening]:
        """Return what is being opened at this moment."""
        return list(self._opening)
