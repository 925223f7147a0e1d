"""The plain view, in lines for logs and pipes."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import deque
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from ephemeral_creds.cli._messages import print_result
from ephemeral_creds.cli._report import verdict
from ephemeral_creds.events import (
    CredentialsPublished,
    LeaseRevoked,
    PoolRotated,
    Problem,
    RevocationFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ephemeral_creds import Event
    from ephemeral_creds.cli._report import Report

__all__ = ["EventLog", "PlainView", "Snapshot", "conclusion", "left", "make_view"]

# Seconds between two lines: for people who wait, and for those who look for something.
_CALM, _EACH_SECOND = 5.0, 1.0
_TIME = 9  # columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of the demo at one moment: `elapsed` of `seconds` of load, the generation in use.

    `expires_in` is in seconds, and ``None`` if not known, as with a file; `connections` are
    by generation; `rate` is in queries per second, of late.
    """

    elapsed: float
    seconds: float
    generation: int
    username: str
    expires_in: float | None
    connections: dict[int, int]
    rate: float
    queries: int
    failed: int
    rotations: int


class EventLog:
    """An observer that keeps events until the view takes them. Bounded; safe between threads.

    Args:
        verbose: whether to keep all events, with all that they carry: else rotations and problems.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._lines: deque[str] = deque(maxlen=500)
        self._unrevoked: deque[str] = deque(maxlen=20)

    def __call__(self, event: Event, /) -> None:
        """Keep `event`."""
        line = _line(event) if self._verbose else _sentence(event)
        if line:
            self._lines.append(line)
        if isinstance(event, RevocationFailed):
            self._unrevoked.append(_line(event))

    @property
    def unrevoked(self) -> tuple[str, ...]:
        """The latest of the lines about failed revocations."""
        return tuple(self._unrevoked)

    def take(self) -> list[str]:
        """Return what has come since the last call."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return lines


class PlainView:
    """Lines without escape codes; also what any other view has to do.

    Args:
        out: where to print.
        result: prints the table at the end; ``None`` prints it where all else is.
        interval: seconds between two lines that say how things are.
    """

    def __init__(
        self,
        out: IO[str],
        *,
        result: Callable[[str], None] | None = None,
        interval: float = _CALM,
    ) -> None:
        self._out = out
        self._result = result or self.say
        self._interval = interval
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.flush()

    def say(self, text: str) -> None:
        """Show a line."""
        print(text, file=self._out, flush=True)

    def show(self, snapshot: Snapshot) -> None:
        """Show how things are: print a line, once in an interval."""
        if snapshot.elapsed < self._next:
            return
        self._next += self._interval
        by_generation = " ".join(f"{n}×gen{g}" for g, n in snapshot.connections.items())
        self.say(
            f"{snapshot.elapsed:5.0f} s  generation {snapshot.generation}  "
            f"lease {left(snapshot.expires_in)}  connections {by_generation or 'none'}  "
            f"{snapshot.rate:.0f} queries/s  {snapshot.failed} failed"
        )

    def finish(self, report: Report) -> None:
        """Show how it went, at the end: print the table."""
        self.say("")
        rows = [f"  {name:<18}{value}" for name, value in report.rows()]
        self._result("\n".join([*rows, *conclusion(report)]))


def make_view(*, json: bool, verbose: bool) -> PlainView:
    """Return the live view if there is a terminal for it, else the plain one.

    Args:
        json: whether stdout has to be kept free.
        verbose: whether to print a line each second.
    """
    interval = _EACH_SECOND if verbose else _CALM
    if json:
        return PlainView(sys.stderr, interval=interval)
    dumb = os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
    if dumb or sys.stdout is None or not sys.stdout.isatty():
        return PlainView(sys.stderr, result=print_result, interval=interval)
    from ephemeral_creds.cli._live import LiveView

    return LiveView()


def _line(event: Event) -> str:
    """Return `event` as a line for people: its name, and what it carries."""
    values = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    values.pop("keeper")
    texts = [f"{k}={v:.1f}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()]
    return " ".join([type(event).__name__, *texts])


def _sentence(event: Event) -> str:
    """Return what a rotation or a problem is, for people; empty for other events."""
    match event:
        case CredentialsPublished():
            text = f"generation {event.generation}: user {event.username}"
        case PoolRotated():
            text = (
                f"generation {event.generation}: {event.connections} connections rotated in "
                f"{event.duration:.2f} s"
            )
        case LeaseRevoked():
            text = f"generation {event.generation}: last connection closed, lease revoked"
        case Problem():
            text = _line(event)
        case _:
            return ""
    return " " * _TIME + text


def left(expires_in: float | None) -> str:
    """Return the time that a lease has left, for people."""
    return "unknown" if expires_in is None else f"{expires_in:.1f} s"


def conclusion(report: Report) -> list[str]:
    """Return the last lines: what failed, and the verdict."""
    lines = [f"  {count} × {text}" for text, count in report.failures.items()]
    lines += [f"  {line}" for line in report.unrevoked]
    if report.interrupted is not None:
        rest = "" if report.trouble else "; everything has been cleaned up"
        return [*lines, f"Stopped by {report.interrupted}{rest}.", *report.trouble]
    problems = verdict(report)
    if not problems and not report.rotations:
        return [*lines, "Kept: no query failed. It was too short for the user name to change."]
    if not problems:
        return [*lines, "Kept: the user name changed, and no query noticed."]
    return [*lines, *(f"NOT KEPT: {problem}" for problem in problems)]
