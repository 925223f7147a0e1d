"""What one process has of Infisical: an access token, and the sockets that it is sent over."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Self, TypeVar

from ephemeral_creds._fork import register
from ephemeral_creds.exceptions import AccessDenied, ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.base import value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.events import Event
    from ephemeral_creds.providers.infisical.client import InfisicalClient
    from ephemeral_creds.providers.infisical.replies import AccessToken

__all__ = ["Session"]

_T = TypeVar("_T")

logger = logging.getLogger("ephemeral_creds")

# A token with less left than this share of its TTL is replaced before a request under it.
_LOW = 1 / 10
# Seconds that `close` waits for a request in flight.
_CLOSE_WAIT = 10.0


class Session:
    """Logs in on demand, for one request at a time: its user enters it as a context.

    Args:
        client: sends the requests.
        log_in: logs in.
        clock: where to read time from.
        what: whose it is, for messages.

    Attributes:
        client: the same.
        closed: whether it was closed, perhaps while a request is in flight.
        inherited: whether it is of a parent process; the child of a fork needs its own.
        report: is called with each request's event, with no lock held.
    """

    def __init__(
        self,
        client: InfisicalClient,
        log_in: Callable[[InfisicalClient], AccessToken | EphemeralCredsError],
        clock: Clock,
        what: str,
    ) -> None:
        self.client = client
        self.closed = self.inherited = False
        self.report: Callable[[Event], None] = _ignore
        self._log_in, self._clock, self._what = log_in, clock, what
        self._lock = threading.Lock()
        self._token: Secret | None = None
        self._low_at = self._expires_at = -math.inf
        register(self)

    def _after_fork(self) -> None:
        self.inherited = True

    def __enter__(self) -> Self:
        self._lock.acquire()
        if self.closed:
            self._lock.release()
            raise self.closed_error()
        return self

    def __exit__(self, *_: object) -> None:
        if self.closed:
            self._end()  # `close` did not wait any longer
        events = self.client.take_events()
        self._lock.release()
        for event in events:
            self.report(event)

    def run(self, call: Callable[[Secret], _T | EphemeralCredsError]) -> tuple[float, _T]:
        """Make a request under a token, and once more after a login if the token is refused.

        Returns the instant of the request, and its value.
        """
        token, is_fresh = self._obtain()
        requested_at = self._clock.now()
        outcome = call(token)
        if isinstance(outcome, AccessDenied) and not is_fresh:
            # The token is expired or revoked, or the identity's rights have changed since.
            token = value_of(self._renewed_token())
            requested_at = self._clock.now()
            outcome = call(token)
        return requested_at, value_of(outcome)

    def close(self) -> None:
        """Revoke the token and close the sockets, or leave that to the request in flight."""
        if self.closed:
            return
        self.closed = True
        if not self._lock.acquire(timeout=_CLOSE_WAIT):
            logger.warning("%s: closed while a request hangs", self._what)
            return
        try:
            self._end()
            events = self.client.take_events()
        finally:
            self._lock.release()
        for event in events:
            self.report(event)

    def closed_error(self) -> ConfigurationError:
        """Return the error of a request after `close`."""
        return ConfigurationError(f"{self._what}: the provider is closed; make a new one")

    def _obtain(self) -> tuple[Secret, bool]:
        """Return a token, and whether it is fresh from a login."""
        now, token = self._clock.now(), self._token
        if token is not None and now < self._low_at:
            return token, False
        made = self._renewed_token()
        if isinstance(made, EphemeralCredsError) and token is not None and now < self._expires_at:
            return token, False  # it still works, and the next request logs in
        return value_of(made), True

    def _renewed_token(self) -> Secret | EphemeralCredsError:
        sent_at = self._clock.now()
        made = self._log_in(self.client)
        if isinstance(made, EphemeralCredsError):
            return made
        self._token = made.value
        self._expires_at = sent_at + made.ttl
        self._low_at = sent_at + made.ttl * (1 - _LOW)
        return made.value

    def _end(self) -> None:
        token, self._token = self._token, None
        if token is not None and self._clock.now() < self._expires_at:
            failed = self.client.revoke_token(token)
            if failed is not None:
                logger.warning("an access token was not revoked; it will expire: %s", failed)
        self.client.close()


def _ignore(_: Event) -> None:
    """Do nothing."""
