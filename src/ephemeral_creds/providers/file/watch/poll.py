"""Notice that a file may have changed.

Looking is the base: a thread compares the file's identity at each poll and has the content
compared every few polls, which works on every file system. Notifications of the operating system
only make it look earlier.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING, TypeAlias

from ephemeral_creds.providers.file.read.directory import SWAPPED
from ephemeral_creds.providers.file.watch.notify import Notifications

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["FileWatcher"]

_logger = logging.getLogger("ephemeral_creds")

_FileId: TypeAlias = "tuple[int, int, int, int, int]"
_Identity: TypeAlias = "tuple[_FileId, ...]"

# Polls between two comparisons of content where the file's identity stays the same. Time stamps
# are as coarse as the kernel's tick (4 ms), so a change of the same length may leave no trace.
_CONTENT_EVERY = 5

# Seconds for which a file that is written in place, or a directory whose files are replaced one by
# one, has to stay the same before it is looked at: that takes a few system calls, with half a
# password or half a pair in between.
_SETTLE = 0.02
_SETTLE_ROUNDS = 10

# Seconds between looks after a file has gone, and how many of them.
_HASTE = 0.05
_HASTY_ROUNDS = 40

# As many as are read.
_MAX_FILES = 256

# Seconds that closing waits for a thread; longer only where a file system hangs.
_JOIN = 2.0


class FileWatcher:
    """Has a file looked at whenever it may have changed, from one thread of its own.

    Args:
        path: the file, absolute.
        look: compares the content. Returns False when it could not tell, to be called again.
        poll_interval: seconds between two polls.
        notify: whether to use the operating system's notifications as well.
    """

    def __init__(
        self, path: Path, look: Callable[[], bool], *, poll_interval: float, notify: bool
    ) -> None:
        self._path = path
        self._look = look
        self._poll_interval = poll_interval
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._notifications = Notifications(path, self._wake.set) if notify else None
        self._seen: _Identity | None = None
        self._polls_until_content = 0
        self._hasty_rounds = 0
        self._told: set[str] = set()
        self._thread = threading.Thread(
            target=self._run, name=f"ephemeral-creds-file-{path.name}", daemon=True
        )

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and wait for it, at most a few seconds."""
        self._closed.set()
        self._wake.set()
        if self._thread is threading.current_thread():
            return
        self._thread.join(_JOIN)
        if self._thread.is_alive():
            _logger.warning("%s still runs: reading %s hangs", self._thread.name, self._path)

    def _run(self) -> None:
        woken = False
        while not self._closed.is_set():
            try:
                self._round(woken=woken)
            except Exception as error:  # noqa: BLE001  a watch that dies is worse than any error
                self._tell_once(type(error).__name__)
                self._polls_until_content = 0
            woken = self._wake.wait(self._pause())
            self._wake.clear()
        if self._notifications is not None:
            self._notifications.stop()

    def _pause(self) -> float:
        """Return how long to wait: not long for what has gone, whose directory may be made anew.

        No notification tells of that.
        """
        if self._hasty_rounds == 0:
            return self._poll_interval
        self._hasty_rounds -= 1
        return min(_HASTE, self._poll_interval)

    def _round(self, *, woken: bool) -> None:
        # First the notifications: what changes before they are armed must still be seen below.
        if self._notifications is not None:
            self._notifications.supervise()
        found = _file_id(self._path)
        if found != self._seen and _same_inode(found, self._seen):
            found = self._settled(found)
        if found is None and self._seen is not None:
            self._hasty_rounds = _HASTY_ROUNDS
        elif woken:
            # The last word of a watch whose directory goes comes before its end can be seen.
            self._hasty_rounds = max(self._hasty_rounds, 1)
        if found == self._seen and not woken and self._polls_until_content > 0:
            self._polls_until_content -= 1
            return
        self._seen = found
        self._polls_until_content = _CONTENT_EVERY if self._look() else 0

    def _settled(self, found: _Identity | None) -> _Identity | None:
        """Wait until the file stays the same for a moment; return what it is then."""
        for _ in range(_SETTLE_ROUNDS):
            if self._closed.wait(_SETTLE):
                break
            now = _file_id(self._path)
            if now == found:
                break
            found = now
        return found

    def _tell_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            # By type only: a message may quote what was read.
            _logger.warning("looking at %s failed with %s; looking on", self._path, what)


def _file_id(path: Path) -> _Identity | None:
    """Return what changes with the content: of the file, or of a directory and its files.

    What comes first is where the content is: the file, or the directory of one moment.
    """
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return (_seen(status),)
        folder = _folder_of_files(path)
        with os.scandir(folder) as entries:
            files = sorted(_seen(entry.stat()) for entry in itertools.islice(entries, _MAX_FILES))
        return (_seen(folder.stat()), _seen(status), *files)
    except OSError:
        return None


def _seen(status: os.stat_result) -> _FileId:
    return (
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
    )


def _folder_of_files(path: Path) -> Path:
    swapped = path / SWAPPED
    return swapped if swapped.exists() else path


def _same_inode(one: _Identity | None, other: _Identity | None) -> bool:
    return one is not None and other is not None and one[0][:2] == other[0][:2]
