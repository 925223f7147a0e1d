"""The live view on a terminal; the only importer of rich."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ephemeral_creds.cli._view import PlainView, left

if TYPE_CHECKING:
    from typing import Self

    from rich.console import RenderableType

    from ephemeral_creds.cli._report import Report
    from ephemeral_creds.cli._view import Snapshot

__all__ = ["LiveView"]

_EVENTS = 10
_BAR = 24


class LiveView(PlainView):
    """Panels that fill the terminal's alternate screen, as those of ``top`` do.

    Whatever gets into them, an echoed ``^C`` or the window's new size, is gone with that screen.
    Output to stderr is held back meanwhile and follows at the end.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        super().__init__(self._console.file)
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._snapshot: Snapshot | None = None
        # Redrawn when there is something new: no thread of rich's own.
        self._live = Live(
            console=self._console, auto_refresh=False, screen=True, redirect_stderr=False
        )
        self._held = io.StringIO()
        self._redirection = contextlib.redirect_stderr(self._held)

    def __enter__(self) -> Self:
        self._redirection.__enter__()
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._redirection.__exit__(None, None, None)
        sys.stderr.write(self._held.getvalue())

    def say(self, text: str) -> None:
        """Add a line to the events."""
        # The time, which lines leave a column for, is in a panel of its own.
        self._events.append(text.strip())
        self._draw()

    def show(self, snapshot: Snapshot) -> None:
        """Redraw."""
        self._snapshot = snapshot
        self._draw()

    def finish(self, report: Report) -> None:
        """Replace it all by the table."""
        self._live.stop()
        PlainView(self._console.file).finish(report)

    def _draw(self) -> None:
        parts: list[RenderableType] = []
        if self._snapshot is not None:
            parts.append(Panel(_state(self._snapshot), title="pool", title_align="left"))
        lines = Text("\n".join(self._events), no_wrap=True, overflow="ellipsis")
        parts.append(Panel(lines, title="events", title_align="left"))
        self._live.update(Group(*parts), refresh=True)


def _state(snapshot: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("time", f"{snapshot.elapsed:.0f} of {snapshot.seconds:.0f} s")
    # Cut where it does not fit: a row that wraps would move those below it.
    user = f"{snapshot.generation} ({snapshot.username})"
    table.add_row("generation", Text(user, no_wrap=True, overflow="ellipsis"))
    table.add_row("lease left", left(snapshot.expires_in))
    for generation, count in snapshot.connections.items():
        bar = "█" * min(count, _BAR)
        name = "connections" if generation == min(snapshot.connections) else ""
        table.add_row(name, f"generation {generation}: {bar} {count}")
    table.add_row("queries", f"{snapshot.queries}, {snapshot.rate:.0f} per second")
    style = "bold red" if snapshot.failed else "green"
    table.add_row("failed", Text(f"{snapshot.failed}", style=style))
    table.add_row("rotations", f"{snapshot.rotations}")
    return table
