"""What two connections receive, put together without a loss and without a duplicate.

PostgreSQL gives all who LISTEN the notifications in one order, that of the commits
(https://www.postgresql.org/docs/current/sql-notify.html). So a notification of our own, on a
channel of our own, is at the same place in what the old connection receives and the new one. Up to
that mark it is the old one's that count, and from there on the new one's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import Notify

__all__ = ["Overlap"]


class Overlap:
    """What an old and a new connection receive while both LISTEN. Pure: it reads nothing.

    Args:
        channel: the channel of the mark.
        mark: the payload that stands for it.
    """

    def __init__(self, channel: str, mark: str) -> None:
        self._channel = channel
        self._mark = mark
        self._before: list[Notify] = []
        self._after: list[Notify] = []
        self._old_passed = self._new_passed = False

    @property
    def is_complete(self) -> bool:
        """Whether both have received the mark: the old connection is not needed any more."""
        return self._old_passed and self._new_passed

    def old(self, received: Iterable[Notify]) -> list[Notify]:
        """Return what is to be passed on of what the old connection received."""
        passed: list[Notify] = []
        for notify in received:
            self._old_passed = self._old_passed or self._is_mark(notify)
            if not self._old_passed:
                passed.append(notify)
        return passed

    def new(self, received: Iterable[Notify]) -> None:
        """Keep what the new connection received."""
        for notify in received:
            if self._is_mark(notify):
                self._new_passed = True
            else:
                (self._after if self._new_passed else self._before).append(notify)

    def rest(self) -> list[Notify]:
        """Return what is to be passed on of what the new connection received.

        If the old connection broke before the mark, this is all of it: the old one may have
        received some of that, too, and may have missed some that came before.
        """
        return self._after if self._old_passed else self._before + self._after

    def _is_mark(self, notify: Notify) -> bool:
        return (notify.channel, notify.payload) == (self._channel, self._mark)
