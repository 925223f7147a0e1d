"""When a schedule in the manner of cron is due, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Schedule"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ANY = ("*", "?")
_DAYS_AHEAD = 5 * 366  # a 29th of February comes within them


class Schedule:
    """Minute, hour, day of the month, month, and day of the week.

    Args:
        text: the five fields: numbers, names, lists, ranges and steps. A time zone before them,
            as in ``TZ=Europe/Berlin 0 3 * * *``, has to exist and changes nothing, as with Vault.

    Raises:
        ValueError: these are not five fields, or one cannot be read.
    """

    def __init__(self, text: str) -> None:
        text = _without_zone(text)
        if text.startswith("@"):
            raise ValueError(f"parser does not accept descriptors: {text}")
        fields = text.split()
        if len(fields) != 5:
            raise ValueError(f"expected exactly 5 fields, found {len(fields)}: [{text}]")
        minutes, hours, days, months, weekdays = fields
        self._minutes = _field(minutes, 0, 59)
        self._hours = _field(hours, 0, 23)
        self._days = _field(days, 1, 31)
        self._months = _field(months, 1, 12, _MONTHS)
        self._weekdays = _field(weekdays, 0, 6, _WEEKDAYS)
        # Where both are given, cron takes a day that fits either.
        self._either_day = days[0] not in _ANY and weekdays[0] not in _ANY

    def after(self, instant: float) -> float:
        """Return when it is due next after `instant`, both in Unix time.

        Raises:
            ValueError: never, as on a 30th of February.
        """
        begin = datetime.fromtimestamp(instant, UTC).replace(second=0, microsecond=0)
        begin += timedelta(minutes=1)
        for ahead in range(_DAYS_AHEAD):
            midnight = begin.replace(hour=0, minute=0) + timedelta(days=ahead)
            if not self._has_day(midnight):
                continue
            for hour in sorted(self._hours):
                for minute in sorted(self._minutes):
                    due = midnight.replace(hour=hour, minute=minute)
                    if due >= begin:
                        return due.timestamp()
        raise ValueError("is never due")

    def _has_day(self, day: datetime) -> bool:
        in_month = day.day in self._days
        in_week = day.isoweekday() % 7 in self._weekdays
        fits = in_month or in_week if self._either_day else in_month and in_week
        return fits and day.month in self._months


def _without_zone(text: str) -> str:
    if not text.startswith(("TZ=", "CRON_TZ=")):
        return text
    zone, _, rest = text.partition(" ")
    name = zone.partition("=")[2]
    try:
        ZoneInfo(name)
    except (ValueError, ZoneInfoNotFoundError):
        raise ValueError(f"provided bad location {name}: unknown time zone {name}") from None
    return rest.strip()


def _field(text: str, lowest: int, highest: int, names: Sequence[str] = ()) -> set[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, stepped, step = part.partition("/")
        first, ranged, last = span.partition("-")
        if first in _ANY:
            begin, end = lowest, highest
        else:
            begin = _number(first, lowest, names)
            end = _number(last, lowest, names) if ranged else highest if stepped else begin
        every = int(step) if stepped else 1
        if not (lowest <= begin <= end <= highest and every > 0):
            raise ValueError(f"{part} is not within {lowest} and {highest}")
        values.update(range(begin, end + 1, every))
    return values


def _number(text: str, lowest: int, names: Sequence[str]) -> int:
    name = text.lower()
    return names.index(name) + lowest if name in names else int(text)
