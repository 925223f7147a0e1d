"""How a pool moves to new credentials: every default with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ephemeral_creds._backoff import backoff
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.lifecycle.numbers import check_numbers, number

__all__ = ["RotationPolicy"]

# Anything shorter than this is a busy loop.
_LEAST = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationPolicy:
    """How a pool moves to new credentials. Durations are `float` seconds.

    Raises:
        ConfigurationError: a value is out of its range; the message names it.
    """

    # Moving takes max_size / overshoot times a connect. Two is little for the server to bear, and
    # moves twenty connections in half a second at 50 ms each.
    overshoot: int = number(2, 1)
    """Connections that a rotation may open beyond the pool's ``max_size``."""

    # Long enough for a busy pool to get a connection back; too short for a server or a firewall to
    # drop the one that waits.
    park: float = number(2.0, _LEAST)
    """How long a new connection waits for an old one to replace, before it is closed."""

    # psycopg_pool starts at a second and doubles without bound, blind to what happens meanwhile;
    # ours also ends as soon as new credentials arrive.
    retry_initial: float = number(0.25, _LEAST)
    """The first delay after a failed connect; it doubles with each further one."""
    retry_max: float = number(10.0, _LEAST)
    """The longest delay after a failed connect."""

    borrowed: Literal["leave", "cancel"] = "leave"
    """What to do with a connection that is still borrowed ``RefreshPolicy.grace`` before the
    deadline of its credentials, which have been replaced: ``leave`` reports it and no more,
    ``cancel`` also cancels its query and then closes it."""

    # Libraries that listen connect again after an error. A user's own loop may end with it; if the
    # revocation leaves sessions open, it would have continued without.
    listening: Literal["leave", "end"] = "leave"
    """What to do with a connection whose credentials have been replaced while it waits in
    ``notifies()``: ``leave`` it, or ``end`` the wait with a `psycopg.OperationalError` within a
    second, so that its user listens on a new connection and the old lease can be revoked."""

    trace_borrowers: bool = False
    """Whether to record when and where each connection is checked out, for that report. Costs
    some microseconds per checkout."""

    # Proofs and replacements are connected in the background; none of them may take longer.
    connect_timeout: float = number(10.0, _LEAST)
    """The limit for connects in the background, if neither ``conninfo`` nor ``kwargs`` sets
    ``connect_timeout``."""

    def __post_init__(self) -> None:
        for name, choices in (("borrowed", ("leave", "cancel")), ("listening", ("leave", "end"))):
            if (value := getattr(self, name)) not in choices:
                allowed = " or ".join(map(repr, choices))
                raise ConfigurationError(f"RotationPolicy({name}={value!r}): must be {allowed}")
        check_numbers(self)

    def retry_after(self, failures: int) -> float:
        """Return the delay after the `failures`-th failed connect in a row: doubling, capped."""
        return backoff(failures, self.retry_initial, self.retry_max)
