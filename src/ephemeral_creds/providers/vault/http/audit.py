"""What was asked of Vault, request by request, for an audit trail."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    LeaseLost,
)
from ephemeral_creds.providers.vault.http.errors import shortened
from ephemeral_creds.providers.vault.http.parse import MintedCredentials, TokenInfo

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.events import Outcome
    from ephemeral_creds.providers.vault.http.errors import Operation

__all__ = ["Journal"]

# Tokens whose accessor is remembered: the current one and those that older grants live by are a
# handful. The bound keeps a fault that logs in for ever from growing the memory as well.
_TOKENS = 64
# Requests that nobody has taken yet; a provider takes them after each of its calls.
_PENDING = 256


class Journal:
    """Makes a `ProviderRequest` of each request, until somebody takes them.

    Filled under a client's lock and emptied outside of all locks, so that an observer may take
    its time, and ask the provider something.

    Args:
        clock: where to read time from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: deque[ProviderRequest] = deque(maxlen=_PENDING)
        self._accessors: dict[Secret, str] = {}

    def now(self) -> float:
        """Return the instant, to be given to `note` after the request."""
        return self._clock.now()

    def note(
        self,
        operation: Operation,
        token: Secret,
        outcome: object,
        *,
        status: int | None,
        begun: float,
        lost: bool,
    ) -> None:
        """Write one request down.

        Args:
            operation: what it was.
            token: what it went under; empty for a login.
            outcome: what the answer was parsed to, or the error.
            status: the HTTP status of the answer; ``None`` where there was none.
            begun: the instant at which it was sent.
            lost: whether it may have been done although there is no answer.
        """
        lease_id = operation.lease_id
        if isinstance(outcome, MintedCredentials):
            lease_id = outcome.lease_id
        if isinstance(outcome, TokenInfo) and outcome.accessor:
            token = outcome.value or token
            self._accessors[token] = outcome.accessor
            if len(self._accessors) > _TOKENS:
                del self._accessors[next(iter(self._accessors))]
        failed = isinstance(outcome, EphemeralCredsError)
        self._pending.append(
            ProviderRequest(
                operation=operation.name or operation.kind.name.lower(),
                outcome=_outcome(outcome, status, lost=lost),
                address=operation.address,
                mount=operation.mount,
                role=operation.role,
                accessor=self._accessors.get(token, ""),
                lease=shortened(lease_id),
                status=status,
                duration=max(0.0, self._clock.now() - begun),
                error=f"{type(outcome).__name__}: {outcome}" if failed else "",
            )
        )

    def take(self) -> list[ProviderRequest]:
        """Return what has come together since the last time."""
        taken = []
        while self._pending:
            taken.append(self._pending.popleft())
        return taken


def _outcome(outcome: object, status: int | None, *, lost: bool) -> Outcome:
    if not isinstance(outcome, EphemeralCredsError):
        return "done"
    if lost:
        return "unknown"
    if status is not None and isinstance(outcome, AccessDenied | ConfigurationError | LeaseLost):
        return "refused"
    return "failed"
