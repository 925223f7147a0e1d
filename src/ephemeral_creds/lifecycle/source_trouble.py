"""What is wrong with what the source has now, while older credentials serve."""

from __future__ import annotations

import math

__all__ = ["SourceTrouble"]


class SourceTrouble:
    """Which problem of a source lasts, so that it is reported once.

    That a file cannot be used for a moment, while it is being written, is not worth a report.

    Args:
        patience: how long a problem has to last, in seconds.

    Attributes:
        error: the problem that was reported; empty if there is no problem now.
        at: when to call `take`.
    """

    def __init__(self, patience: float) -> None:
        self.error = ""
        self.at = math.inf
        self._patience = patience
        self._seen = ""

    def see(self, now: float, error: str) -> None:
        """Take note of a look at the source at `now`; `error` is empty if it can be used."""
        before, self._seen = self._seen, error
        if error == self.error:
            self.at = math.inf
        elif not error:
            self.at = now
        elif not before or self.at == math.inf:
            # From the first look on: a source that is wrong in ever new ways is wrong anyway.
            self.at = now + self._patience

    def take(self) -> str:
        """Return what `error` has become now, to be reported."""
        self.at = math.inf
        self.error = self._seen
        return self.error
