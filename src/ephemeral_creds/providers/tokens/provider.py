"""Any source of tokens that PostgreSQL takes for a password: a function of the user's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.access import call_for_token
from ephemeral_creds.providers.tokens.base import DatabaseTokenProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Credentials
    from ephemeral_creds.providers.access import TokenAnswer

__all__ = ["TokenProvider"]

# Seconds that a token is taken to work for if nothing says so. Those of the clouds live 15 minutes
# or more; to ask too often costs little, a refused login costs a query its wait.
_LIFETIME = 300.0


class TokenProvider(DatabaseTokenProvider):
    """A role that stays, and logs in with a token in place of a password.

    The server checks the token at the login only: open connections outlive it, and none is moved
    for another one. The token is replaced after two thirds of its life, and at once if PostgreSQL
    refuses it, but not again and again for a server that refuses all. It has no deadline: if there
    is no other in time, logins continue with the last one until PostgreSQL refuses it.

    ::

        provider = TokenProvider("app_user", lambda: (sign_token(), time.time() + 900))

    Args:
        username: the PostgreSQL role to log in as.
        token: called for each token, from the keeper's thread, one call at a time. It has to
            return, or raise, within a bounded time. Returns the token alone or, as the credential
            objects of ``azure.identity`` do, with its end: seconds since 1970, a `datetime` with a
            time zone, or ``None`` if it is not known.
        source: what and where `token` asks, for messages.
        lifetime: seconds for which a token works whose end is not returned.
        requires_tls: whether to refuse logins with an ``sslmode`` below ``require``: the server
            asks for a token in clear, and what reads it can log in with it. Unix sockets are always
            allowed.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: an argument cannot be right.
    """

    def __init__(
        self,
        username: str,
        token: Callable[[], TokenAnswer],
        *,
        source: str = "a function",
        lifetime: float = _LIFETIME,
        requires_tls: bool = True,
        clock: Clock | None = None,
    ) -> None:
        if not username:
            raise ConfigurationError("TokenProvider(username=): must name a PostgreSQL role")
        if not callable(token):
            raise ConfigurationError(
                "TokenProvider(token=): must be a function that returns a token; a token itself "
                "works for some minutes only"
            )
        if not (lifetime > 0 and math.isfinite(lifetime)):
            raise ConfigurationError(
                f"TokenProvider(lifetime={lifetime!r}): must be a positive number of seconds"
            )
        super().__init__(username, source, requires_tls=requires_tls, clock=clock)
        self._token = token
        self._lifetime = lifetime

    def _obtain(self) -> tuple[Credentials, float] | EphemeralCredsError:
        found = call_for_token(self._token, self.description, lifetime=self._lifetime)
        return found if isinstance(found, EphemeralCredsError) else (self._with(found[0]), found[1])
