"""The step that holds ``VALID UNTIL`` against the lease, and PostgreSQL's clock against ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds.check.units import CLOCK_TOLERANCE, ahead_of

if TYPE_CHECKING:
    from ephemeral_creds.check.findings import Findings

__all__ = ["Validity", "check_expiry"]

_TIME_SERVICE = "run a time service (NTP) on PostgreSQL's and Vault's machines"


@dataclass(frozen=True, slots=True)
class Validity:
    """When a role's login ends; instants are Unix time.

    Attributes:
        until: the instant, by PostgreSQL's clock; ``inf`` for never.
        database: what PostgreSQL's clock said.
        here: what this machine's said at that moment.
        lease: seconds that the lease had left then; ``inf`` where there is none.
        mints: whether Vault wrote `until`, for a role that it made.
    """

    until: float
    database: float
    here: float
    lease: float
    mints: bool


def check_expiry(validity: Validity, findings: Findings) -> None:
    """Say how long logins go on, and whether a clock gets in the way of that."""
    ahead = validity.database - validity.here
    clock = f"PostgreSQL's clock is {ahead_of(ahead)} this machine's"
    if abs(ahead) > CLOCK_TOLERANCE:
        findings.add("expiry", "warn", clock, _TIME_SERVICE)
    if validity.until == math.inf:
        findings.add(
            "expiry",
            "warn" if validity.mints else "ok",
            "the role has no VALID UNTIL: its login works until somebody drops it",
            "write VALID UNTIL '{{expiration}}' into the creation_statements"
            if validity.mints
            else "",
        )
        return
    left = validity.until - validity.database
    text = f"logins work for another {left:.0f} s by PostgreSQL's clock"
    if left <= 0:
        findings.add(
            "expiry",
            "fail",
            f"VALID UNTIL has passed, {-left:.0f} s ago; {clock}",
            _TIME_SERVICE if validity.mints else "nobody renews these credentials",
        )
    elif validity.lease != math.inf and left < validity.lease - 1.0:
        findings.add(
            "expiry", "warn", f"{text}, which is less than the lease; {clock}", _TIME_SERVICE
        )
    else:
        findings.add("expiry", "ok", f"{text}; {clock}")
