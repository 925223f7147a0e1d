"""When to renew, retry and mint: pure arithmetic, every default with its reason."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ephemeral_creds._backoff import backoff
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.lifecycle.numbers import check_numbers, number

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RETRY_AFTER_MAX", "RefreshPolicy", "Tuning"]

# The longest delay that a server may ask for (``Retry-After``). A rate limit's interval is of
# seconds to minutes; a longer wish is a proxy's mistake, and must not be what lets credentials end.
RETRY_AFTER_MAX = 300.0

# How long after the announced change of a password it is read, and up to twice that. Vault counts
# in whole seconds, so that at zero up to one is left; looking later than needed costs nothing but
# the refused logins of that time, each of which makes us look at once.
_ROTATION_LAG = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Constants of several rules that tests which must not wait set to other values.

    They do so by ``RefreshPolicy(_tuning=Tuning(...))``, and in no other way. Not public: a value
    here may become a constant, or go, in any version.
    """

    # A wrong policy or role is fixed by people, who take minutes; but no restart is needed then.
    config_retry: float = number(30.0, 0.0)
    """The shortest delay after a failure that only a change of configuration fixes."""

    # A script that redirects into the file empties it before it asks for the credentials, and a
    # sidecar that is restarted may take its file away first.
    source_patience: float = number(3.0, 0.0)
    """How long what the source has may be unusable before an event reports it."""

    # A replica's lag is usually milliseconds. A sidecar hands over a second before the old
    # credentials end: a second attempt that came after that would be too late.
    proof_retry: float = number(0.1, 0.001)
    """The first delay after a refused login with a new generation. It doubles with each further
    one, up to `RefreshPolicy.retry_max` and a tenth of what is left of the old credentials."""
    # Six seconds at least: a lag of milliseconds is no reason to give a role back.
    proof_attempts: int = number(7, 1)
    """How many refused logins of one pool, at least, before a new generation is given up for
    another: shortly before the old one ends, or, whatever they failed of, when
    `CredentialKeeper.refresh` is called."""

    # Vault itself retries a failed revocation six times; ours only has to ride out a hiccup.
    revoke_attempts: int = number(5, 1)
    """Attempts to revoke a lease before it is left to expire."""

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """When a keeper renews, retries and mints. Durations are `float` seconds.

    The defaults suit leases of a minute to a day and rarely need a change.

    Raises:
        ConfigurationError: a value is out of its range; the message names it.
    """

    # Two thirds leave room for several retries before the end, and are where Vault's own
    # LifetimeWatcher aims (https://developer.hashicorp.com/vault/docs/concepts/lease).
    renew_at: float = number(2 / 3, 0.05, 0.95)
    """The fraction of a lease after which it is renewed."""

    # Processes that were deployed together must not renew together.
    jitter: float = number(0.1, 0.0, 0.5)
    """How much earlier, at most and as a fraction, a renewal, retry or poll may be."""

    # Half a minute is what minting, proving and moving a large pool take on a bad day.
    margin: float = number(30.0, 0.0)
    """Renew at least this long before the deadline, if the lease is at least twice as long."""

    # Vault answers most failures within a second; a minute keeps a fleet from hammering it.
    retry_initial: float = number(1.0, 0.001)
    """The first delay after a failure; it doubles with each further one."""
    retry_max: float = number(60.0, 0.001)
    """The longest delay after a failure that may pass by itself; at least `retry_initial`."""

    # Each mint is a role in PostgreSQL and a lease in Vault for an hour. One in ten seconds keeps
    # the worst fault at 360 roles an hour; real rotations are far rarer.
    mint_interval: float = number(10.0, 0.0)
    """Seconds between two mints, whatever asks for them, when `mint_burst` is used up."""
    mint_burst: int = number(2, 1)
    """Mints that are allowed back to back after an idle period."""

    # A replica lags by seconds, an authentication proxy's cache lives somewhat longer.
    proof_timeout: float = number(30.0, 0.0)
    """How long a new generation that one pool has logged in with waits for other pools whose
    server does not answer; also how long one that is used because there is no other may be refused
    before the next is minted. Without a successful login nothing is proven, however long it
    takes."""

    # Enough for a cancelled query to roll back; a tenth of a short lease, or it would be all of it.
    grace: float = number(5.0, 0.0)
    """How long before the deadline of a replaced generation `RotationPolicy.borrowed` is applied
    to its connections that are still borrowed; a tenth of the lease at most."""

    _tuning: Tuning = field(default=Tuning(), repr=False)

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.retry_max < self.retry_initial:
            raise ConfigurationError(
                f"RefreshPolicy(retry_max={self.retry_max!r}): must be at least retry_initial, "
                f"which is {self.retry_initial:g}"
            )

    @property
    def tuning(self) -> Tuning:
        """The constants that only tests change."""
        return self._tuning

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
        return backoff(failures, self.retry_initial, self.retry_max, jitter=self.jitter * draw)

    def asked_delay(self, asked: float, remaining: float) -> float:
        """Return how much of the delay that a server asked for it is given.

        Args:
            asked: what it asked for.
            remaining: what is left of the lease; 0 or less if it has ended.
        """
        granted = min(asked, RETRY_AFTER_MAX)
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
        initial = self._tuning.proof_retry if refused else self.retry_initial
        delay = backoff(failures, initial, self.retry_max, jitter=self.jitter * draw)
        return min(delay, max(initial, remaining / 10))

    def proof_reserve(self, remaining: float) -> float:
        """Return how long before the old credentials end a refused generation is given up.

        Args:
            remaining: what was left of the old ones when it came. With less than two margins, or
                no end at all, nothing is gained by another one: 0.
        """
        worthwhile = 2 * self.margin <= remaining < math.inf
        return max(self.margin, remaining / 10) if worthwhile else 0.0

    def read_again_after(self, rotates_in: float, draw: float) -> float:
        """Return how long after it was read a password is read again.

        Args:
            rotates_in: how long after it was read the server is going to change it.
            draw: a random number from 0 to 1; a higher one reads later, so that a fleet does not
                ask at the same instant.
        """
        return rotates_in + _ROTATION_LAG * (1 + draw)

    def grace_of(self, duration: float) -> float:
        """Return `grace` for a lease of `duration` seconds: a tenth of it at most."""
        return min(self.grace, duration / 10)

    def is_shorter(self, answered: float, asked: float) -> bool:
        """Tell whether a renewal's answer says that the maximum is near.

        Servers round to whole seconds and a token's remaining time is a fraction, so the
        twentieth part does not count.
        """
        return answered < asked * 0.95


# What 0.1 could set as well. The other five of that version are fields of `Tuning`.
_FORMER_SETTINGS = frozenset(
    (
        *("retry_after_max", "escalate_at", "change_interval", "change_burst"),
        *("rotation_lag", "rotation_attempts"),
    )
)


def _accept_former_settings(init: Callable[..., None]) -> Callable[..., None]:
    tuned = {each.name for each in fields(Tuning)}

    @functools.wraps(init)
    def __init__(self: RefreshPolicy, *args: Any, **settings: Any) -> None:  # noqa: N807
        former = [name for name in settings if name in _FORMER_SETTINGS or name in tuned]
        if former:
            names = ", ".join(f"{name}=" for name in former)
            text = f"RefreshPolicy({names}): a constant now; leave it out"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            values = {name: settings.pop(name) for name in former}
            kept = {name: value for name, value in values.items() if name in tuned}
            settings["_tuning"] = replace(settings.get("_tuning", Tuning()), **kept)
        init(self, *args, **settings)

    return __init__


RefreshPolicy.__init__ = _accept_former_settings(  # type: ignore[method-assign]
    RefreshPolicy.__init__
)
