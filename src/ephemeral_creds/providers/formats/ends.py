"""What a file says about the end of its credentials; pure, and never a reason to refuse it.

An agent can write only the first lease's duration, and renews that lease without writing again. So
this is a hint: it leads to a query and a warning, and to nothing else.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["END_KEYS", "UNKNOWN", "End", "duration", "end_of", "instant"]


@dataclass(frozen=True, slots=True)
class End:
    """The announced end of credentials.

    Attributes:
        at: the instant, in seconds since 1970; ``inf`` if the file has none.
        after: seconds from when the file was written; ``inf`` if it has none.
    """

    at: float = math.inf
    after: float = math.inf


UNKNOWN = End()

_INSTANTS = ("EXPIRES_AT", "EXPIRE_TIME", "VALID_UNTIL")
_DURATIONS = ("LEASE_DURATION", "TTL")
_ROTATION = ("LAST_VAULT_ROTATION", "ROTATION_PERIOD")
_PREFIXES = ("", "DB_")

END_KEYS = frozenset(
    prefix + name for name in (*_INSTANTS, *_DURATIONS, *_ROTATION) for prefix in _PREFIXES
)
"""All keys that `end_of` looks at, in upper case."""

_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
# How Go prints a duration: 1h0m0s.
_GO = re.compile(
    r"(?=[0-9])(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?"
)


def end_of(values: Mapping[str, str]) -> End:
    """Return the end in `values`, by upper-case key; unreadable ones are ignored."""
    at = min((instant(value) for value in _all(values, _INSTANTS)), default=math.inf)
    if at == math.inf:
        # A static role: its password ends when it is rotated.
        rotated, period = (values.get(name, "") for name in _ROTATION)
        at = instant(rotated) + duration(period)
    after = min((duration(value) for value in _all(values, _DURATIONS)), default=math.inf)
    return End(at, after)


def _all(values: Mapping[str, str], names: tuple[str, ...]) -> list[str]:
    keys = [prefix + name for name in names for prefix in _PREFIXES]
    return [values[key] for key in keys if key in values]


def instant(text: str) -> float:
    """Return the seconds since 1970 of a number or an RFC 3339 date; ``inf`` if it is neither."""
    if _NUMBER.fullmatch(text):
        return _positive(float(text))
    # RFC 3339 has a time of day; a date alone would be the begin of the day that it means.
    try:
        moment = datetime.fromisoformat(text.upper()) if ":" in text else None
    except ValueError:
        moment = None
    if moment is None:
        return math.inf
    # Without an offset it is UTC: neither Vault nor a database in a container has another zone.
    moment = moment.replace(microsecond=0, tzinfo=moment.tzinfo or UTC)
    return _positive(moment.timestamp())


def duration(text: str) -> float:
    """Return the seconds of a number or of one of Go's durations; ``inf`` if it is neither."""
    if _NUMBER.fullmatch(text):
        return _positive(float(text))
    if match := _GO.fullmatch(text):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return _positive(hours * 3600 + minutes * 60 + seconds)
    return math.inf


def _positive(value: float) -> float:
    """A source writes zero if it knows no end."""
    return value if value > 0 else math.inf
