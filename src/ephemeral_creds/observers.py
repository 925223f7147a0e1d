"""Observers: what is called with events, to log them or to write them as JSON.

The events themselves are imported with the first one: pools need nothing but `Observer`, for the
types of their arguments, and `events` takes longer to import than all that they import of ours.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ephemeral_creds._fork import register

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from ephemeral_creds.events import Event

__all__ = [
    "FIELDS",
    "JSONLogObserver",
    "Observer",
    "fields_of",
    "level_of",
    "log_event",
    "logger",
    "notify",
    "where_raised",
]

logger = logging.getLogger("ephemeral_creds")


class Observer(Protocol):
    """Anything that can be called with an `Event`.

    Called outside every lock, from the keeper's thread, from those of its pools, and in the event
    loop for an `AsyncRotatingConnectionPool`: it must return soon, without waiting for anything,
    and allow calls by several threads at the same time. What it raises is logged and stops
    nothing.
    """

    def __call__(self, event: Event, /) -> None:
        """Handle `event`."""
        ...


def notify(observers: Sequence[Observer], event: Event) -> None:
    """Call each observer with `event`; one that fails is logged, and stops nothing."""
    for observer in observers:
        try:
            observer(event)
        except BaseException as error:
            on_main = threading.current_thread() is threading.main_thread()
            if on_main and not isinstance(error, Exception):
                # Ctrl-C is raised wherever the main thread is: it is not the observer's.
                raise
            logger.error(  # noqa: TRY400 - its text may hold a secret
                "%s: observer %r failed: %s", event.keeper, observer, where_raised(error)
            )


def where_raised(error: BaseException) -> str:
    """Return the kind of an error and the line that raised it; its text may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def log_event(event: Event) -> None:
    """Log `event`: a `Problem` as a warning, everything else as information.

    A `ProviderRequest` is logged for debugging only: its consequence is an event of its own.
    """
    from ephemeral_creds.events import Problem, ProviderRequest

    level = logging.WARNING if isinstance(event, Problem) else logging.INFO
    if isinstance(event, ProviderRequest):
        level = logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    values = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    keeper = values.pop("keeper")
    text = " ".join(
        f"{name}={value:.1f}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )
    logger.log(level, "%s: %s %s", keeper, type(event).__name__, text, extra={"event": event})


FIELDS = frozenset(
    {
        "accessor", "address", "age", "cancelled", "connections", "current", "duration", "ends_in",
        "error", "expires_in", "failures", "final", "generation", "keeper", "lease", "mount",
        "operation", "outcome", "path", "pool", "previous", "proven", "reason", "remedy",
        "retry_in", "role", "shortened", "source_error", "sqlstate", "status", "username", "where",
    }
)  # fmt: skip
"""The fields that are written; others, of an event class that is not ours, are left out."""


def level_of(event: Event) -> Literal["warning", "info"]:
    """Return the level of `event` in a structured log: ``warning`` for a `Problem`."""
    from ephemeral_creds.events import Problem

    return "warning" if isinstance(event, Problem) else "info"


def fields_of(event: Event) -> dict[str, object]:
    """Return what a structured log has of `event`: values of JSON, by the names in `FIELDS`."""
    names = [field.name for field in dataclasses.fields(event) if field.name in FIELDS]
    return {name: _plain(getattr(event, name)) for name in names}


class JSONLogObserver:
    """Writes each event as one line: a JSON object with ``time``, ``level``, ``event`` and fields.

    ``time`` is UTC in ISO 8601, ``level`` is ``warning`` for a `Problem` and ``info`` for others,
    ``event`` is the name of the class. An infinite duration is ``null``. Only the fields that are
    listed in the reference are written.

    Several keepers and threads may share one: lines are never mixed.

    Args:
        stream: where to write; ``None`` means `sys.stderr` at the time of the event.
        now: returns the time to write.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._stream = stream
        self._now = now
        self._lock = threading.Lock()
        register(self)

    def __call__(self, event: Event, /) -> None:
        """Write `event` and flush, so that a crash loses nothing."""
        line = {
            "time": self._now().isoformat(timespec="milliseconds"),
            "level": level_of(event),
            "event": type(event).__name__,
            **fields_of(event),
        }
        text = json.dumps(line, allow_nan=False) + "\n"
        stream = self._stream or sys.stderr
        with self._lock:
            stream.write(text)
            stream.flush()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value)
