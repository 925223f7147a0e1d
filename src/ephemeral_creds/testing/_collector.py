"""An observer for tests: it keeps what it is told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from ephemeral_creds.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EventCollector"]

_E = TypeVar("_E", bound=Event)


class EventCollector:
    """Collects the events of a keeper and its pools: give it to them among ``observers``.

    Iterate over it for all events so far, in their order.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._waited_for = 0
        self._changed = threading.Condition()

    def __call__(self, event: Event, /) -> None:
        """Take note of `event`."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Event]:
        return iter(list(self._events))

    def of(self, kind: type[_E]) -> list[_E]:
        """Return all events of that kind so far."""
        return [event for event in self if isinstance(event, kind)]

    def wait_for(self, kind: type[_E], timeout: float = 10.0) -> _E:
        """Return the first event of that kind after what the last call returned.

        Args:
            kind: which.
            timeout: seconds to wait for it.

        Raises:
            AssertionError: none came in time.
        """

        def find() -> _E | None:
            for number, event in enumerate(self._events[self._waited_for :], self._waited_for):
                if isinstance(event, kind):
                    self._waited_for = number + 1
                    return event
            return None

        with self._changed:
            if found := self._changed.wait_for(find, timeout):
                return found
            others = ", ".join(type(e).__name__ for e in self._events[self._waited_for :])
        raise AssertionError(f"no {kind.__name__} in {timeout:g} s, only: {others or 'nothing'}")
