"""How a pool moves to new credentials: every default with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ephemeral_creds._backoff import backoff
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.lifecycle.policy import check_numbers, number

__all__ = ["RotationPolicy"]

# Anything shorter than this is a busy loop.
_LEAST = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationPolicy:
    """How a pool moves to new credentials. All durations are `float` seconds.

    Raises:
        ConfigurationError: a value is out of its range; the message names it.
    """

    # Moving takes max_size / overshoot times a connect. Two is little for the server to bear, and
    # moves twenty connections in half a second at 50 ms each.
    overshoot: int = number(2, 1)
    """Connections that a rotation may open beyond the pool's own ``max_size``."""

    # Long enough for any busy pool to return something; short enough for no server or firewall to
    # have dropped a waiting connection.
    park: float = number(2.0, _LEAST)
    """How long an opened replacement waits for a connection to replace, before it is closed."""

    # psycopg_pool starts at a second and doubles without bound, blind to what happens meanwhile;
    # ours also ends as soon as new credentials arrive.
    retry_initial: float = number(0.25, _LEAST)
    """The first delay after a failed connect; it doubles with each further one."""
    retry_max: float = number(10.0, _LEAST)
    """The longest delay after a failed connect."""

    borrowed: Literal["leave", "cancel"] = "leave"
    """What becomes of a connection that is still borrowed ``RefreshPolicy.grace`` before the
    deadline of its credentials, which have been replaced: ``leave`` reports it and leaves it to
    its fate, ``cancel`` cancels its query and then cuts it off."""

    trace_borrowers: bool = False
    """Whether each checkout notes when and where it happened, for that report. It costs some
    microseconds per checkout."""

    # A proof and a replacement run in the background; nobody waits longer for them than this.
    connect_timeout: float = number(10.0, _LEAST)
    """For background connects, where neither ``conninfo`` nor ``kwargs`` set one."""

    def __post_init__(self) -> None:
        if self.borrowed not in ("leave", "cancel"):
            raise ConfigurationError(
                f"RotationPolicy(borrowed={self.borrowed!r}): must be 'leave' or 'cancel'"
            )
        check_numbers(self)

    def retry_after(self, failures: int) -> float:
        """Return the delay after the `failures`-th failed connect in a row: doubling, capped."""
        return backoff(failures, self.retry_initial, self.retry_max)
