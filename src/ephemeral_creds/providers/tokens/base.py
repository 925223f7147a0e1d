"""A role that stays, and logs in with a token in place of a password."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._values import Credentials, Grant, Lease
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)
from ephemeral_creds.providers.base import CredentialProvider, value_of
from ephemeral_creds.providers.http.event_queue import EventQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.events import Event
    from ephemeral_creds.providers.url import Key, Location

__all__ = ["DatabaseTokenProvider", "role_and_arguments"]


class DatabaseTokenProvider(CredentialProvider):
    """What providers of tokens have in common; `TokenProvider` says what becomes of a token.

    Args:
        username: the PostgreSQL role to log in as; empty if the token says it.
        source: what and where tokens come from, for messages.
        requires_tls: whether to refuse logins that are not encrypted.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: `username` cannot be the name of a role.
    """

    mints: ClassVar[bool] = False

    _refusal_hint: ClassVar[str] = (
        "check that the server takes tokens for this role, that the token is for this server, and "
        "this machine's clock"
    )

    def __init__(
        self, username: str, source: str, *, requires_tls: bool = True, clock: Clock | None = None
    ) -> None:
        if "\0" in username:
            raise ConfigurationError(f"{username!r} cannot be the name of a PostgreSQL role")
        self._username = username
        self._source = source
        self._requires_tls = requires_tls
        self._clock: Clock = SystemClock() if clock is None else clock
        self._events = EventQueue(self._clock, username)

    @property
    def description(self) -> str:
        """The role, and where its tokens come from."""
        role = f" for {self._username!r}" if self._username else ""
        return f"tokens{role} from {self._source}"

    @property
    def refusal_hint(self) -> str:
        """What to check if PostgreSQL refuses a token."""
        return self._refusal_hint

    def fetch(self) -> Grant:
        """Get a token.

        Raises:
            ProviderUnavailable: there is no token now, or it has expired.
            AccessDenied, ConfigurationError: a setting or a right has to change first.
            MalformedResponse: the source returned something else.
        """
        requested_at = self._clock.now()
        try:
            credentials, remaining = value_of(self._obtain())
        finally:
            self._events.flush()
        if remaining <= 0:
            raise ProviderUnavailable(
                f"{self.description}: the token had expired when it arrived, {-remaining:.0f} s "
                "ago: check this machine's clock, and that the source does not keep old tokens"
            )
        # However long it lives, the server changes nothing by itself.
        lease = Lease(
            requested_at, rotates_in=math.inf, announced_duration=remaining, is_token=True
        )
        return Grant(credentials, lease)

    def observe(self, report: Callable[[Event], None]) -> None:
        """Call `report` with a `ProviderRequest` for each request that this sends itself.

        A token that is signed on this machine needs none. Those of a function of yours, or of a
        library's credentials object, are not known here.
        """
        self._events.observe(report)

    @abstractmethod
    def _obtain(self) -> tuple[Credentials, float] | EphemeralCredsError:
        """Return credentials, and for how many seconds they work; or an error to raise."""

    def _with(self, token: Secret) -> Credentials:
        """Return the credentials that log in with a token."""
        return Credentials(self._username, token, requires_tls=self._requires_tls)


def role_and_arguments(
    location: Location, keys: Mapping[str, Key], *, needs_role: bool = True
) -> dict[str, Any]:
    """Return the arguments of a provider that ``SCHEME://ROLE?…`` describes.

    Raises:
        ConfigurationError: the role is missing, or a key is wrong, missing or unknown.
    """
    if location.path.strip("/") or (needs_role and not location.name):
        raise location.error(
            "the role", f"is missing or a path: {location.scheme}://ROLE?KEY=…, %2F for a slash"
        )
    location.expect(keys)
    return {"username": location.name, **location.arguments(keys)}
