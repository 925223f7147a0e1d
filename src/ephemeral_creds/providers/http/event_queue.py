"""Events of a provider, kept while it holds a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.providers.http.failures import outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.events import Event

__all__ = ["EventQueue"]


class EventQueue:
    """Keeps a provider's events until they may be reported.

    Args:
        clock: gives the durations of requests.
        role: what requests are for: the role that logs in, or the name of a secret.
    """

    def __init__(self, clock: Clock, role: str) -> None:
        self.role = role
        self._clock = clock
        self._events: list[Event] = []
        self._report: Callable[[Event], None] | None = None

    def observe(self, report: Callable[[Event], None]) -> None:
        """Have `flush` call `report` with each event."""
        self._report = report

    def now(self) -> float:
        """Return the instant, to be given to `record` after the request."""
        return self._clock.now()

    def add(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def record(
        self, operation: str, address: str, result: object, *, status: int | None, sent_at: float
    ) -> None:
        """Add the event of a request.

        Args:
            operation: what the event calls it.
            address: scheme, host and port that it was sent to.
            result: the parsed reply, or the error.
            status: the HTTP status of the reply; ``None`` without one.
            sent_at: the instant at which it was sent.
        """
        failed = isinstance(result, EphemeralCredsError)
        self.add(
            ProviderRequest(
                operation=operation,
                outcome=outcome_of(result, status),
                address=address,
                role=self.role,
                status=status,
                duration=max(0.0, self._clock.now() - sent_at),
                error=f"{type(result).__name__}: {result}" if failed else "",
            )
        )

    def flush(self) -> None:
        """Report all events, in their order; to be called with no lock held."""
        events, self._events = self._events, []
        if self._report is not None:
            for event in events:
                self._report(event)
