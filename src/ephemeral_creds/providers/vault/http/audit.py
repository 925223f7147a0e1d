"""An audit trail: one event for each request to Vault."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.providers.http.failures import outcome_of
from ephemeral_creds.providers.vault.http.errors import shorten
from ephemeral_creds.providers.vault.http.parse import RoleCredentials, TokenInfo

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.errors import Operation

__all__ = ["AuditTrail"]

# Tokens whose accessor is remembered: the current one and those of older grants are a handful. The
# bound keeps a fault that logs in again and again from filling the memory as well.
_TOKENS = 64
# Events that have not been taken; a provider takes them after each of its calls.
_PENDING = 256


class AuditTrail:
    """Makes a `ProviderRequest` of each request and keeps it until it is taken.

    Filled under a client's lock and emptied outside of all locks, so that an observer may be slow,
    and may call the provider.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: deque[ProviderRequest] = deque(maxlen=_PENDING)
        self._accessors: dict[Secret, str] = {}

    def now(self) -> float:
        """Return the instant, to be given to `record` after the request."""
        return self._clock.now()

    def record(
        self,
        operation: Operation,
        token: Secret,
        outcome: object,
        *,
        status: int | None,
        sent_at: float,
        in_doubt: bool,
    ) -> None:
        """Record one request: its `outcome` is the parsed reply or the error.

        It is in doubt if it may have been carried out although there is no valid reply.
        """
        lease_id = operation.lease_id
        if isinstance(outcome, RoleCredentials):
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
                outcome=outcome_of(outcome, status, in_doubt=in_doubt),
                address=operation.address,
                mount=operation.mount,
                role=operation.role,
                accessor=self._accessors.get(token, ""),
                lease=shorten(lease_id),
                status=status,
                duration=max(0.0, self._clock.now() - sent_at),
                error=f"{type(outcome).__name__}: {outcome}" if failed else "",
            )
        )

    def take(self) -> list[ProviderRequest]:
        """Return the events since the last call."""
        taken = []
        while self._pending:
            taken.append(self._pending.popleft())
        return taken
