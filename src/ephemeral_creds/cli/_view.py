"""What is shown meanwhile: plain lines, for logs and pipes."""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from ephemeral_creds.cli._report import verdict
from ephemeral_creds.events import RevocationFailed

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ephemeral_creds import Event
    from ephemeral_creds.cli._report import Report

__all__ = ["EventLog", "PlainView", "Snapshot", "View", "conclusion", "describe", "make_view"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of the demo at one moment.

    Attributes:
        elapsed: seconds since the load began.
        seconds: how long it is going to last.
        generation: which one new connections use.
        username: its user name.
        expires_in: seconds that its lease has left; ``None`` where nobody knows, as with a file.
        connections: how many there are, by generation.
        rate: queries per second, of late.
        queries: how many there were.
        failed: how many of them failed.
        rotations: changes of the generation.
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


class View(Protocol):
    """Something that people look at."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def say(self, text: str) -> None:
        """Show a line."""

    def show(self, snapshot: Snapshot) -> None:
        """Show how things are."""

    def finish(self, report: Report) -> None:
        """Show how it went; the last call."""


class EventLog:
    """An observer that keeps events until the view takes them. Bounded; safe between threads."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=500)
        self._unrevoked: deque[str] = deque(maxlen=20)

    def __call__(self, event: Event, /) -> None:
        """Keep `event`."""
        line = describe(event)
        self._lines.append(line)
        if isinstance(event, RevocationFailed):
            self._unrevoked.append(line)

    @property
    def unrevoked(self) -> tuple[str, ...]:
        """The latest of the lines that say how giving a lease back failed."""
        return tuple(self._unrevoked)

    def take(self) -> list[str]:
        """Return what has come since the last call."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return lines


class PlainView:
    """One line for each event and each second."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        self._out.flush()

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._out, flush=True)

    def show(self, snapshot: Snapshot) -> None:
        """Print a line, once a second."""
        if snapshot.elapsed < self._next:
            return
        self._next = int(snapshot.elapsed) + 1.0
        by_generation = " ".join(f"{n}×gen{g}" for g, n in snapshot.connections.items())
        self.say(
            f"{snapshot.elapsed:5.0f} s  generation {snapshot.generation}  "
            f"lease {left(snapshot.expires_in)}  connections {by_generation or 'none'}  "
            f"{snapshot.rate:.0f} queries/s  {snapshot.failed} failed"
        )

    def finish(self, report: Report) -> None:
        """Print the table."""
        self.say("")
        for name, value in report.rows():
            self.say(f"  {name:<18}{value}")
        for line in conclusion(report):
            self.say(line)


def make_view(*, json: bool) -> View:
    """Return the live view where there is a terminal for it, else the plain one.

    Args:
        json: whether stdout has to be kept free.
    """
    if json:
        return PlainView(sys.stderr)
    if not sys.stdout.isatty():
        return PlainView(sys.stdout)
    from ephemeral_creds.cli._live import LiveView

    return LiveView()


def describe(event: Event) -> str:
    """Return `event` as a line for people: its name, and what it carries."""
    values = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    values.pop("keeper")
    return " ".join(
        [
            type(event).__name__,
            *(
                f"{name}={value:.1f}" if isinstance(value, float) else f"{name}={value}"
                for name, value in values.items()
            ),
        ]
    )


def left(expires_in: float | None) -> str:
    """Return the time that a lease has left, for people."""
    return "unknown" if expires_in is None else f"{expires_in:.1f} s"


def conclusion(report: Report) -> list[str]:
    """Return the last lines: what failed, and the verdict."""
    lines = [f"  {count} × {text}" for text, count in report.failures.items()]
    lines += [f"  {line}" for line in report.unrevoked]
    if report.interrupted is not None:
        rest = "" if report.trouble else "; everything has been put away"
        return [*lines, f"Stopped by {report.interrupted}{rest}.", *report.trouble]
    problems = verdict(report)
    if not problems and not report.rotations:
        return [*lines, "Kept: no query failed. It was too short for the user name to change."]
    if not problems:
        return [*lines, "Kept: the user name changed, and no query noticed."]
    return [*lines, *(f"NOT KEPT: {problem}" for problem in problems)]
