"""When to renew, retry and mint: pure arithmetic, every default with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ephemeral_creds.exceptions import ConfigurationError

__all__ = ["Limiter", "RefreshPolicy", "check_number"]


def check_number(policy: object, name: str, low: float, high: float) -> None:
    """Raise a `ConfigurationError` unless a field is a number in its range."""
    value = getattr(policy, name)
    whole = type(policy).__annotations__[name] == "int"
    wanted, kind = ("a whole number", int) if whole else ("a number", (int, float))
    right = isinstance(value, kind) and not isinstance(value, bool)
    if not right or not low <= value <= high or value == math.inf:
        until = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}, finite"
        raise ConfigurationError(
            f"{type(policy).__name__}({name}={value!r}): must be {wanted}, {until}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """How a keeper treats leases. All durations are `float` seconds.

    The defaults suit leases of a minute to a day and hardly ever need a change.

    Raises:
        ConfigurationError: a value is out of its range; the message names it.
    """

    # Two thirds leave room for several retries before the end, and are where Vault's own
    # LifetimeWatcher aims (https://developer.hashicorp.com/vault/docs/concepts/lease).
    renew_at: float = 2 / 3
    """The fraction of a lease after which it is renewed."""

    # A fleet deployed together must not come back together.
    jitter: float = 0.1
    """How much earlier, at most and as a fraction, a renewal or retry may be."""

    # Half a minute is what minting, proving and moving a large pool take on a bad day.
    margin: float = 30.0
    """Renew at least this long before the deadline, where the lease is at least twice as long."""

    # Vault answers most failures within a second; a minute keeps a fleet from hammering it.
    retry_initial: float = 1.0
    """The first delay after a failure; it doubles with each further one."""
    retry_max: float = 60.0
    """The longest delay after a failure that may pass by itself."""

    # A rate limit's interval is of seconds to minutes; a longer wish is a proxy's mistake, and must
    # not be what lets credentials end.
    retry_after_max: float = 300.0
    """The longest delay that a server may ask for (``Retry-After``); never more than half of what
    is left of the credentials in use."""

    # A wrong policy or role is mended by people, who take minutes; but no restart is needed then.
    config_retry: float = 30.0
    """The shortest delay after a failure that only a change of configuration mends."""

    # Half of what is left is for renewing, the other half for minting and moving.
    escalate_at: float = 0.5
    """When renewals fail: the fraction of the remaining time after which to mint instead."""

    # Each mint is a role in PostgreSQL and a lease in Vault for an hour. One in ten seconds keeps
    # the worst fault at 360 roles an hour; real rotations are far rarer.
    mint_interval: float = 10.0
    """One mint is allowed per this many seconds, for all reasons together."""
    mint_burst: int = 2
    """So many may follow each other at once after a quiet time."""

    # A file that somebody writes in a loop is followed at this pace; each new version may be a
    # rotation. No honest writer comes near it.
    change_interval: float = 0.2
    """One fetch is made per this many seconds because the source changed."""
    change_burst: int = 20
    """So many may follow each other at once after a quiet time."""

    # A script that redirects into the file empties it before it asks for the credentials, and a
    # sidecar that is restarted may take its file away first.
    source_patience: float = 3.0
    """How long what the source has may be unusable before that is told."""

    # A replica lags by seconds, an authentication proxy's cache lives somewhat longer.
    proof_timeout: float = 30.0
    """How long a new generation that one pool has logged in with waits for other pools whose
    server does not answer; and how long one that is used because there is no other may be refused
    before the next is minted. No login that succeeds, no proof, however long it takes."""
    # As a rule the lag is of milliseconds. A sidecar hands over a second before the old
    # credentials end: a second attempt that came after that would be too late.
    proof_retry: float = 0.1
    """The first delay after a refused login with a new generation. It doubles with each further
    one, up to `retry_max` and a tenth of what is left of the old credentials."""
    # Six seconds at least: a lag of milliseconds is no reason to give a role back.
    proof_attempts: int = 7
    """How many refused logins of one pool, at least, before a new generation is given up for
    another: shortly before the old one ends, or, whatever they failed of, when
    `CredentialKeeper.refresh` is called."""

    # Vault counts in whole seconds, so that at zero up to one is left; looking later than needed
    # costs nothing but the refused logins of that time, each of which makes us look at once.
    rotation_lag: float = 1.0
    """How long after the announced change of a password it is read, and up to twice that."""

    # With growing pauses these take some seconds, and Vault's own clock for rotations ticks every
    # five.
    rotation_attempts: int = 4
    """So many looks at a password that should have changed, before the announcement is believed."""

    # Enough for a cancelled query to roll back; a tenth of a short lease, or it would be all of it.
    grace: float = 5.0
    """How long before its deadline a replaced generation's borrowed connections are seen to."""

    # Vault itself retries a failed revocation six times; ours only has to ride out a hiccup.
    revoke_attempts: int = 5
    """So many attempts to revoke a lease before it is left to expire."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("renew_at", 0.05, 0.95),
            ("jitter", 0.0, 0.5),
            ("margin", 0.0, math.inf),
            ("retry_initial", 0.001, math.inf),
            ("retry_max", self.retry_initial, math.inf),
            ("retry_after_max", 0.0, math.inf),
            ("config_retry", 0.0, math.inf),
            ("escalate_at", 0.0, 1.0),
            ("mint_interval", 0.0, math.inf),
            ("mint_burst", 1, math.inf),
            ("change_interval", 0.0, math.inf),
            ("change_burst", 1, math.inf),
            ("source_patience", 0.0, math.inf),
            ("proof_timeout", 0.0, math.inf),
            ("proof_retry", 0.001, math.inf),
            ("proof_attempts", 1, math.inf),
            ("revoke_attempts", 1, math.inf),
            ("grace", 0.0, math.inf),
            ("rotation_lag", 0.001, math.inf),
            ("rotation_attempts", 1, math.inf),
        ):
            check_number(self, name, low, high)

    def renew_after(self, duration: float, draw: float) -> float:
        """Return how long after its start a lease of `duration` seconds is renewed.

        Args:
            duration: the length of the lease.
            draw: a random number from 0 to 1; a higher one renews earlier, by up to `jitter`.
        """
        if duration == math.inf:
            return math.inf
        latest = duration - max(self.margin, duration / 10)
        # With less than two margins the margin would eat the lease; half of it is early enough.
        planned = (
            min(duration * self.renew_at, latest) if duration >= 2 * self.margin else duration / 2
        )
        return planned * (1 - self.jitter * draw)

    def retry_after(self, failures: int, draw: float) -> float:
        """Return the delay after the `failures`-th failure in a row: doubling, capped, jittered."""
        return self._doubled(self.retry_initial, failures, draw)

    def asked_delay(self, asked: float, remaining: float) -> float:
        """Return how much of the delay that a server asked for it is given.

        Args:
            asked: what it asked for.
            remaining: what is left of the lease; 0 or less where it has ended.
        """
        granted = min(asked, self.retry_after_max)
        return min(granted, remaining / 2) if remaining > 0 else granted

    def proof_retry_after(
        self, failures: int, remaining: float, draw: float, *, refused: bool
    ) -> float:
        """Return the delay after the `failures`-th failed login with a new generation.

        Args:
            failures: how many of this kind one pool had.
            remaining: what is left of the old one: long before that ends, the end of a replica's
                lag is to be noticed.
            draw: a random number from 0 to 1.
            refused: whether the new credentials were refused, rather than not looked at.
        """
        initial = self.proof_retry if refused else self.retry_initial
        return min(self._doubled(initial, failures, draw), max(initial, remaining / 10))

    def proof_reserve(self, remaining: float) -> float:
        """Return how long before the old credentials end a refused generation is given up.

        Args:
            remaining: what was left of the old ones when it came. With less than two margins, or
                no end at all, nothing is gained by another one: 0.
        """
        worthwhile = 2 * self.margin <= remaining < math.inf
        return max(self.margin, remaining / 10) if worthwhile else 0.0

    def _doubled(self, initial: float, failures: int, draw: float) -> float:
        delay = initial * 2.0 ** min(failures - 1, 60)
        return min(delay, self.retry_max) * (1 - self.jitter * draw)

    def read_again_after(self, rotates_in: float, draw: float) -> float:
        """Return how long after it was read a password is read again.

        Args:
            rotates_in: how long after it was read the server is going to change it.
            draw: a random number from 0 to 1; a higher one reads later, so that a fleet does not
                ask at the same instant.
        """
        return rotates_in + self.rotation_lag * (1 + draw)

    def grace_of(self, duration: float) -> float:
        """Return `grace` for a lease of `duration` seconds: a tenth of it at most."""
        return min(self.grace, duration / 10)

    def is_shorter(self, answered: float, asked: float) -> bool:
        """Tell whether a renewal's answer says that the maximum is near.

        Servers round to whole seconds and a token's remaining time is a fraction, so the
        twentieth part does not count.
        """
        return answered < asked * 0.95


class Limiter:
    """A token bucket: `burst` operations at once, then one per `interval` seconds."""

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = burst
        # The instant at which the bucket was, or will be, empty of debts: the "virtual
        # scheduling" form of the algorithm, which needs no timer to refill.
        self._full_at = -math.inf

    def available_at(self, now: float) -> float:
        """Return the earliest instant, from `now` on, at which one more is allowed."""
        return max(now, self._full_at - (self._burst - 1) * self._interval)

    def take(self, now: float) -> None:
        """Count one."""
        self._full_at = max(now, self._full_at) + self._interval
