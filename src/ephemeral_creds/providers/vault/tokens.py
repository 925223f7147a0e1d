"""The tokens of one provider: the current one, and those that older grants still live by.

In Vault a lease dies with the token that it was made under, however long its own time is, and
renewing it under another token does not change that. So a token is kept for as long as a grant of
its own is in use, and new credentials are made under a token that outlives them.
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

# Vault answers in whole seconds, and some pass between two requests: an answer is only short if
# more than a twentieth is missing.
_ENOUGH = 0.95
# Below this share of its time to live, a token is extended before anything is made under it, so
# that a long token is not found dead in the middle of a short lease.
_LOW = 1 / 3
# How Vault says that a token gets no more time: 400 not renewable, 403 dead or forbidden, 500
# past its maximum, or the role that it came from is gone.
_NO_MORE_TIME = frozenset({400, 403, 500})


class TokenSession:
    """One token and the grants that live by it.

    Attributes:
        token: the token with its latest time to live.
        login_ttl: seconds that a login gives, or its period.
        grants: lease ids of the grants in use that were made under it.
        at_its_end: whether Vault has stopped extending it in full.
        dead: whether Vault no longer knows it.
    """

    __slots__ = ("at_its_end", "dead", "grants", "login_ttl", "token")

    def __init__(self, token: Token) -> None:
        self.grants: set[str] = set()
        self.reset(token)

    def reset(self, token: Token) -> None:
        """Start from what a login says about the token."""
        self.token = token
        self.login_ttl = token.period or token.ttl
        self.at_its_end = not token.renewable
        self.dead = False

    def is_over(self, now: float) -> bool:
        """Whether it has ended, as far as we know; its leases have ended with it."""
        return self.dead or self.token.expires_at <= now

    def covers(self, seconds: float, now: float) -> bool:
        """Whether the token lives about as long as a lease of so many seconds from now on."""
        return not self.dead and self.token.expires_at - now >= seconds * _ENOUGH

    def limits(self, seconds: float, now: float) -> bool:
        """Whether the token, at its end, is why a lease of so many seconds gets no more.

        No plain comparison: Vault cuts a batch token's leases to its end, in whole seconds.
        """
        return self.at_its_end and (self.token.expires_at - now) * _ENOUGH <= seconds

    def needs_care_in(self, now: float) -> float:
        """Return in how many seconds it has to be extended, if nothing else does it; or ``inf``.

        That is when it is low, and only where it can be extended: a login needs no hurry.
        """
        if self.at_its_end or self.dead or self.token.ttl == math.inf:
            return math.inf
        low_at = self.token.expires_at - self.token.ttl * _LOW
        return max(low_at - now, 0.0) + 1.0

    def is_like_a_login(self, seconds: float) -> bool:
        """Whether so many seconds are what a login gives."""
        return self.login_ttl * _ENOUGH <= seconds <= self.login_ttl / _ENOUGH


class Tokens:
    """Logs in, extends and gives back tokens, when asked to. Its user holds `lock`.

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
            need: seconds that the lease is expected to live; ``None`` if nobody knows yet.
        """
        session = self.current
        if session is None or session.dead:
            return self.login(), True
        now = self._clock.now()
        low = session.token.expires_at - now < session.token.ttl * _LOW
        if session.covers(need or 0.0, now) and not low:
            return session, False
        if self.extend(session, need or 0.0):
            return session, False
        try:
            return self.login(), True
        except EphemeralCredsError:
            # Only low, and long enough for this lease all the same: a failing login (a secret id
            # that is used up) must not stop a mint that can still be done.
            if need is None or not session.covers(need, now):
                raise
        return session, False

    def login(self) -> TokenSession:
        """Log in anew. The token so far lives on until its last grant is given back."""
        token = self._auth.login(self.client, self._clock)
        if token.uses:
            self._revoke(token)
            raise ConfigurationError(
                f"the token for Vault at {self.client.config.address} is good for {token.uses} "
                "more requests, and its leases end with the last one: set token_num_uses to 0"
            )
        if self.closed:
            # close() gave up waiting for this very login, and could not know its token.
            self._revoke(token)
            raise ConfigurationError(
                f"the provider for Vault at {self.client.config.address} is closed"
            )
        old = self.current
        if old is not None and old.token.value == token.value:
            # A token that we were given, looked up again: still the same session.
            old.reset(token)
            return old
        if old is not None:
            self._superseded.append(old)
        self.current = TokenSession(token)
        self.settle()
        return self.current

    def extend(self, session: TokenSession, need: float) -> bool:
        """Ask for `need` seconds for a token; return whether a login would give no more.

        Never for less than a login gives, so that a long token does not become a short one. An
        answer that is short of what was asked for shows a token near its maximum, unless it is
        just what a login gives: so much a periodic token gets each time, for ever.
        """
        if session.at_its_end or session.dead:
            return False
        asked = max(need, session.login_ttl)
        requested_at = self._clock.now()
        try:
            extension = self.client.renew_self(session.token.value, asked)
        except (AccessDenied, ProviderUnavailable) as error:
            if error.status not in _NO_MORE_TIME:
                raise
            status = error.status
        else:
            session.token = replace(
                session.token,
                requested_at=requested_at,
                ttl=extension.duration,
                renewable=extension.renewable,
            )
            given = extension.duration
            in_full = given >= asked * _ENOUGH or session.is_like_a_login(given)
            session.at_its_end = not (in_full and extension.renewable)
            return in_full or given > session.login_ttl
        # A 500 may be a passing one; the others are Vault's last word.
        session.at_its_end = status != 500
        if status == 403:
            self.is_alive(session)
        return False

    def is_alive(self, session: TokenSession) -> bool:
        """Tell apart the two reasons for a 403: Vault knows the token, or it is dead.

        Raises:
            ProviderUnavailable: Vault does not answer.
        """
        if not session.dead:
            try:
                self.client.lookup_self(session.token.value)
            except AccessDenied:
                session.dead = True
        return not session.dead

    def settle(self) -> None:
        """Give back superseded tokens whose last grant is gone, with whatever leases remain."""
        now = self._clock.now()
        # Of what ends by itself nobody gives the grants back.
        done = [s for s in self._superseded if s.is_over(now) or not s.grants]
        self._superseded = [s for s in self._superseded if s not in done]
        for session in done:
            if session.token.revocable and not session.is_over(now):
                session.dead = self._revoke(session.token) is None

    def close(self) -> None:
        """Give back every token that we logged in for; stop at the first that gets no answer."""
        now = self._clock.now()
        known = [s for s in (self.current, *self._superseded) if s is not None]
        sessions = [s for s in known if not s.is_over(now)]
        self.current, self._superseded = None, []
        for session in sessions:
            if isinstance(self._revoke(session.token), ProviderUnavailable):
                break

    def _revoke(self, token: Token) -> EphemeralCredsError | None:
        """Revoke a token if it is ours; return what went wrong, if anything did."""
        if token.revocable:
            try:
                self.client.revoke_self(token.value)
            except AccessDenied as error:
                return error  # dead already, as a rule
            except EphemeralCredsError as error:
                logger.warning("a Vault token was not given back; it will expire: %s", error)
                return error
        return None
