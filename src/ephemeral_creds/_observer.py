"""What is called with events; apart from them, so that naming it costs next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ephemeral_creds.events import Event

__all__ = ["Observer"]


class Observer(Protocol):
    """Anything that can be called with an `Event`.

    Called outside every lock, from the keeper's thread, from those of its pools, and in the event
    loop for an `AsyncRotatingConnectionPool`: it must return soon, without waiting for anything,
    and bear being called by several threads at the same time. What it raises is logged and stops
    nothing.
    """

    def __call__(self, event: Event, /) -> None:
        """Take note of `event`."""
        ...
