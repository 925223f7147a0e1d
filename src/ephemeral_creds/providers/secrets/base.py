"""The common part of providers that read a secret from a cloud's secret manager."""

from __future__ import annotations

import contextlib
import math
import threading
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._fork import register
from ephemeral_creds._values import Lease, Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.base import CredentialProvider, value_of
from ephemeral_creds.providers.fields import FIELD_KEYS, TEXT_KEYS
from ephemeral_creds.providers.http.event_queue import EventQueue
from ephemeral_creds.providers.http.rest import RestClient
from ephemeral_creds.providers.url import FromURL, Key, Location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, ClassVar, NoReturn

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Credentials, Grant
    from ephemeral_creds.events import Event
    from ephemeral_creds.providers.fields import SecretFields
    from ephemeral_creds.providers.http.failures import Service
    from ephemeral_creds.providers.http.reply import Reply

__all__ = [
    "POLL_INTERVAL", "Request", "SecretProvider", "SecretVersion", "arguments_from", "error_in",
]  # fmt: skip

_T = TypeVar("_T")

# Seconds. Secrets are rotated once in hours or months, so that any pause is short; a minute is one
# that an operator who has changed a secret waits for, and costs cents a month.
POLL_INTERVAL = 60.0

# Seconds for all requests of one read: that of a service that is slow, and not of two more, which
# can be done without.
_LONGEST = 20.0


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version of a secret.

    Attributes:
        id: what the secret manager calls it.
        credentials: what it has.
    """

    id: str
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a secret manager.

    Attributes:
        operation: what messages and events call it.
        what: what is asked for, to follow "asked for".
        url: the URL.
        headers: its headers.
        method: the HTTP method.
        body: its body.
    """

    operation: str
    what: str
    url: str
    headers: Mapping[str, str | Secret]
    method: str = "GET"
    body: str | None = None


class SecretProvider(FromURL, CredentialProvider):
    """A provider that reads one secret, and changes nothing.

    May be used from several threads, one request at a time.

    Args:
        name: the name of the secret, for messages.
        service: the secret manager, for messages.
        fields: where the secret has user name and password.
        poll_interval: seconds between two reads.
        clock: where the time of a `fetch` comes from.
        verify: a file of CAs, in place of the environment's.

    Attributes:
        name: the name of the secret.
    """

    mints: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        service: Service,
        *,
        fields: SecretFields,
        poll_interval: float,
        clock: Clock | None,
        verify: str | None = None,
    ) -> None:
        if not (poll_interval > 0 and math.isfinite(poll_interval)):
            raise ConfigurationError(f"poll_interval has to be > 0 seconds, not {poll_interval!r}")
        self.name = name
        self._service = service
        self._fields = fields
        self._poll_interval = poll_interval
        self._verify = verify
        self._clock: Clock = SystemClock() if clock is None else clock
        self._events = EventQueue(self._clock, name)
        self._ends_at = math.inf
        self._after_fork()
        register(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: send its settings to the other process "
            "and let it read the secret itself"
        )

    @property
    def requests_sent(self) -> int:
        """How many requests this process has sent to the secret manager."""
        return self._client.requests_sent

    def fetch(self) -> Grant:
        """Read the secret.

        Raises:
            ProviderUnavailable: the secret manager does not answer, not in time, or throttles.
            AccessDenied: it refuses the identity or its rights.
            ConfigurationError: there is no such secret, it is deleted or disabled, or it has no
                user name and password.
            MalformedResponse: something else has answered.
        """
        with self._exclusive():
            outcome = self._attempt()
        return value_of(outcome)

    def observe(self, report: Callable[[Event], None]) -> None:
        """Call `report` with each request, from the thread that made it."""
        self._events.observe(report)

    def close(self) -> None:
        """Close the connections to the secret manager; a `fetch` opens them again."""
        with self._lock:
            self._client.close()

    @abstractmethod
    def _attempt(self) -> Grant | EphemeralCredsError:
        """Read the secret; return what `fetch` is to return or raise."""

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock; afterwards, report what there is to report."""
        try:
            with self._lock:
                self._ends_at = self._clock.now() + _LONGEST
                yield
        finally:
            self._events.flush()

    def _ask(
        self, request: Request, parse: Callable[[Reply, str], _T | EphemeralCredsError]
    ) -> _T | EphemeralCredsError:
        """Send a request, and return what `parse` makes of the reply; raises nothing.

        `parse` is given the reply, and the beginning of each message.
        """
        left = self._ends_at - self._clock.now()
        address = "/".join(request.url.split("/", 3)[:3])
        intro = f"{self._service.name} at {address}, asked for {request.what},"
        if left <= 0:
            return ProviderUnavailable(
                f"{self._service.name} at {address} took {_LONGEST:.0f} s for the requests before, "
                f"so that it was not asked for {request.what}"
            )
        return self._client.ask(
            self._events,
            request.operation,
            intro,
            request.method,
            request.url,
            lambda reply: parse(reply, intro),
            headers=request.headers,
            body=request.body,
            within=left,
        )

    def _lease(self, requested_at: float, ends_in: float = math.inf) -> Lease:
        """Return a lease without a deadline, that is expected to end after `ends_in` seconds."""
        return Lease(
            requested_at,
            # The password of the same user may change, at that instant or at any other.
            rotates_in=ends_in,
            ask_again_in=self._poll_interval,
            announced_duration=ends_in,
        )

    def _version(self, number: object, text: object) -> SecretVersion | EphemeralCredsError:
        """Return a version of the secret, of what the reply says of its id and its text."""
        if not isinstance(number, str) or not isinstance(text, str):
            return MalformedResponse(
                f"{self.description}: the reply has no version or no text: check the address and "
                "any proxy in between",
                status=200,
            )
        found = self._fields.find(text, self.description)
        return found if isinstance(found, EphemeralCredsError) else SecretVersion(number, found)

    def _after_fork(self) -> None:
        # The lock may have been held at the moment of the fork; the sockets are the parent's.
        self._lock = threading.Lock()
        self._client = RestClient(self._service, verify=self._verify)


def error_in(reply: Reply) -> Mapping[str, object] | None:
    """Return the ``error`` of a reply, as Google and Azure send it; ``None`` without one."""
    error = None if reply.body is None else reply.body.get("error")
    return error if isinstance(error, dict) else None


URL_KEYS = {"poll_interval": Key("poll_interval", Location.seconds), **TEXT_KEYS}
"""The keys of the URL of each of them."""


def arguments_from(location: Location, keys: Mapping[str, Key]) -> dict[str, Any]:
    """Return the arguments of the constructor for a URL with these keys and those of all.

    Raises:
        ConfigurationError: a part of it is wrong, missing or unknown.
    """
    location.expect((*keys, *URL_KEYS, *FIELD_KEYS))
    return {
        "name": f"{location.name}{location.path}",
        "fields": location.arguments(FIELD_KEYS),
        **location.arguments(URL_KEYS),
        **location.arguments(keys),
    }
