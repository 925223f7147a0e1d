"""The tokens of one provider: the current one, and those under which older grants were made.

In Vault a lease ends with the token that it was made under, however long its own duration is, and
renewing it under another token does not change that. So a token is kept while one of its grants is
in use, and new credentials are minted under a token that outlives them.
"""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from ephemeral_creds._fork import register
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.auth.base import AuthMethod, Token
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["TokenSession", "Tokens"]

logger = logging.getLogger("ephemeral_creds")

# Vault answers in whole seconds, and some pass between two requests: a duration counts as shortened
# only if more than a twentieth is missing.
_ENOUGH = 0.95
# Below this share of its TTL, a token is renewed before anything is made under it, so that a long
# token does not expire in the middle of a short lease.
_LOW = 1 / 3
# How Vault says that a token cannot be renewed: 400 not renewable, 403 dead or forbidden, 500 past
# its maximum, or its role is gone.
_NOT_RENEWED = frozenset({400, 403, 500})


class TokenSession:
    """One token and the grants that were made under it.

    Attributes:
        token: the token with its latest TTL.
        login_ttl: seconds that a login gives, or its period.
        grants: lease ids of its grants that are in use.
        at_maximum: whether Vault no longer renews it in full.
        dead: whether Vault no longer knows it: it is expired or revoked.
    """

    __slots__ = ("at_maximum", "dead", "grants", "login_ttl", "token")

    def __init__(self, token: Token) -> None:
        self.grants: set[str] = set()
        self.reset(token)

    def reset(self, token: Token) -> None:
        """Start from the token as a login returned it."""
        self.token = token
        self.login_ttl = token.period or token.ttl
        self.at_maximum = not token.renewable
        self.dead = False

    def is_expired(self, now: float) -> bool:
        """Whether it has ended, as far as we know; its leases have ended with it."""
        return self.dead or self.token.expires_at <= now

    def covers(self, seconds: float, now: float) -> bool:
        """Whether the token lives about as long as a lease of `seconds` from now."""
        return not self.dead and self.token.expires_at - now >= seconds * _ENOUGH

    def limits(self, seconds: float, now: float) -> bool:
        """Whether a lease of `seconds` cannot be renewed because the token is at its maximum.

        Not an exact comparison: Vault cuts a batch token's leases to its end, in whole seconds.
        """
        return self.at_maximum and (self.token.expires_at - now) * _ENOUGH <= seconds

    def renewal_due_in(self, now: float) -> float:
        """Return the seconds until it must be renewed, if nothing else does it; or ``inf``.

        That is when it is low, and only if it can be renewed: a login is not urgent.
        """
        if self.at_maximum or self.dead or self.token.ttl == math.inf:
            return math.inf
        low_at = self.token.expires_at - self.token.ttl * _LOW
        return max(low_at - now, 0.0) + 1.0

    def is_login_ttl(self, seconds: float) -> bool:
        """Whether a login gives about `seconds`."""
        return self.login_ttl * _ENOUGH <= seconds <= self.login_ttl / _ENOUGH


class Tokens:
    """Logs in, and renews and revokes tokens, on demand. Its user holds `lock`.

    Attributes:
        inherited: whether they are of a parent process; the child of a fork needs its own.
    """

    def __init__(self, client: VaultClient, auth: AuthMethod, clock: Clock) -> None:
        self.client = client
        self.lock = threading.Lock()
        self.inherited = False
        self.closed = False
        self.current: TokenSession | None = None
        self._auth = auth
        self._clock = clock
        self._superseded: list[TokenSession] = []
        register(self)

    def _after_fork(self) -> None:
        self.inherited = True

    def obtain(self, need: float | None) -> tuple[TokenSession, bool]:
        """Return a token for a new lease, and whether it is fresh from a login.

        Args:
            need: seconds that the lease is expected to live; ``None`` if unknown.
        """
        session = self.current
        if session is None or session.dead:
            return self.login(), True
        now = self._clock.now()
        low = session.token.expires_at - now < session.token.ttl * _LOW
        if session.covers(need or 0.0, now) and not low:
            return session, False
        if self.renew(session, need or 0.0):
            return session, False
        try:
            return self.login(), True
        except EphemeralCredsError:
            # The token is low but covers this lease: a failing login (a secret id that is used
            # up) must not stop a mint that is still possible.
            if need is None or not session.covers(need, now):
                raise
        return session, False

    def login(self) -> TokenSession:
        """Log in again. The previous token is kept until its last grant is revoked."""
        token = self._auth.login(self.client, self._clock)
        address = self.client.config.address
        if token.uses:
            self._revoke(token)
            raise ConfigurationError(
                f"the token for Vault at {address} is good for {token.uses} more requests, and its "
                "leases end with the last one: set token_num_uses to 0"
            )
        if self.closed:
            # close() gave up waiting for this very login, and could not know its token.
            self._revoke(token)
            raise ConfigurationError(f"the provider for Vault at {address} is closed")
        old = self.current
        if old is not None and old.token.value == token.value:
            # A token that was given to us, looked up again: still the same session.
            old.reset(token)
            return old
        if old is not None:
            self._superseded.append(old)
        self.current = TokenSession(token)
        self.revoke_superseded()
        return self.current

    def renew(self, session: TokenSession, need: float) -> bool:
        """Ask for `need` seconds for a token; return whether a login would give no more.

        Never for less than a login gives, so that a long token does not become a short one. A
        duration shorter than asked for shows a token near its maximum, unless it is just what a
        login gives: a periodic token gets that each time, without a maximum.
        """
        if session.at_maximum or session.dead:
            return False
        increment = max(need, session.login_ttl)
        requested_at = self._clock.now()
        try:
            renewal = self.client.renew_self(session.token.value, increment)
        except (AccessDenied, ProviderUnavailable) as error:
            if error.status not in _NOT_RENEWED:
                raise
            status = error.status
        else:
            given = renewal.duration
            session.token = replace(
                session.token, requested_at=requested_at, ttl=given, renewable=renewal.renewable
            )
            in_full = given >= increment * _ENOUGH or session.is_login_ttl(given)
            session.at_maximum = not (in_full and renewal.renewable)
            return in_full or given > session.login_ttl
        # A 500 may pass; the others are final.
        session.at_maximum = status != 500
        if status == 403:
            self.is_alive(session)
        return False

    def is_alive(self, session: TokenSession) -> bool:
        """Tell the two reasons for a 403 apart: Vault knows the token, or it is dead.

        Raises:
            ProviderUnavailable: Vault does not answer.
        """
        if not session.dead:
            try:
                self.client.lookup_self(session.token.value)
            except AccessDenied:
                session.dead = True
        return not session.dead

    def revoke_superseded(self) -> None:
        """Revoke superseded tokens without a grant in use, with any leases that remain."""
        now = self._clock.now()
        # The grants of an expired token are not revoked one by one.
        done = [s for s in self._superseded if s.is_expired(now) or not s.grants]
        self._superseded = [s for s in self._superseded if s not in done]
        for session in done:
            if session.token.revocable and not session.is_expired(now):
                session.dead = self._revoke(session.token) is None

    def close(self) -> None:
        """Revoke every token that we logged in for; stop at the first that gets no reply."""
        now = self._clock.now()
        known = [s for s in (self.current, *self._superseded) if s is not None]
        sessions = [s for s in known if not s.is_expired(now)]
        self.current, self._superseded = None, []
        for session in sessions:
            if isinstance(self._revoke(session.token), ProviderUnavailable):
                break

    def _revoke(self, token: Token) -> EphemeralCredsError | None:
        """Revoke a token if it is ours; return the error, if any."""
        if token.revocable:
            try:
                self.client.revoke_self(token.value)
            except AccessDenied as error:
                return error  # usually invalid already
            except EphemeralCredsError as error:
                logger.warning("a Vault token was not revoked; it will expire: %s", error)
                return error
        return None
