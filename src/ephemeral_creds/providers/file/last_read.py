"""Remember what was read last, although two threads read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds.providers.file.source import Content

__all__ = ["LastRead"]


class LastRead:
    """What was read last, kept in order.

    Each reader takes a ticket before it reads. A result under an older ticket than the last one
    recorded says nothing about which content is newer, so it is dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._issued = 0
        self._recorded = 0
        self._content: Content | None = None

    def begin(self) -> int:
        """Take a ticket."""
        with self._lock:
            self._issued += 1
            return self._issued

    def record(self, ticket: int, content: Content | None) -> None:
        """Remember a result; None is a failure."""
        with self._lock:
            if ticket > self._recorded:
                self._recorded = ticket
                self._content = content

    def replace(self, ticket: int, content: Content) -> bool | None:
        """Remember a result and say whether it differs; None if a later reader was faster."""
        with self._lock:
            if ticket < self._recorded:
                return None
            self._recorded = ticket
            changed = content.differs(self._content)
            self._content = content
            return changed
