"""Watching a file: polls, which work on every file system, and notifications to poll earlier.

Each poll compares the file's identity, and every few polls its content is compared.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING, TypeAlias

from ephemeral_creds.providers.file.read.directory import MAX_FILES, SWAPPED
from ephemeral_creds.providers.file.watch.notify import Notifications

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["FileWatcher"]

_logger = logging.getLogger("ephemeral_creds")

_FileId: TypeAlias = "tuple[int, int, int, int, int]"
_Identity: TypeAlias = "tuple[_FileId, ...]"

# Polls between two comparisons of content while the file's identity stays the same. Time stamps
# are as coarse as the kernel's tick (4 ms), so a change of the same length may leave no trace.
_CONTENT_EVERY = 5

# Seconds for which a file that is written in place, or a directory whose files are replaced one by
# one, has to stay the same before it is read: in between there is half a password, or half a pair.
_SETTLE = 0.02
_SETTLE_ROUNDS = 10

# Seconds between polls after a file has gone, and the number of such polls.
_FAST_POLL = 0.05
_FAST_POLLS = 40

# Seconds that closing waits for a thread; longer only if a file system hangs.
_JOIN = 2.0


class FileWatcher:
    """Calls for a look at a file whenever it may have changed, from one thread of its own.

    Args:
        path: the file, absolute.
        look: compares the content. Returns False if it could not tell, to be called again.
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
        self._fast_polls = 0
        self._logged: set[str] = set()
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
        """Stop the thread and wait for it, at most a few seconds."""
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
                self._poll(woken=woken)
            except Exception as error:  # noqa: BLE001  a watch that dies is worse than any error
                self._log_once(type(error).__name__)
                self._polls_until_content = 0
            woken = self._wake.wait(self._pause())
            self._wake.clear()
        if self._notifications is not None:
            self._notifications.stop()

    def _pause(self) -> float:
        """Return the seconds to wait: few after a file has gone.

        Its directory may be recreated, of which there is no notification.
        """
        if self._fast_polls == 0:
            return self._poll_interval
        self._fast_polls -= 1
        return min(_FAST_POLL, self._poll_interval)

    def _poll(self, *, woken: bool) -> None:
        # First the notifications: a change before they are armed must still be seen below.
        if self._notifications is not None:
            self._notifications.supervise()
        found = _identity(self._path)
        if found != self._seen and _is_same_inode(found, self._seen):
            found = self._settle(found)
        if found is None and self._seen is not None:
            self._fast_polls = _FAST_POLLS
        elif woken:
            # The last notification of a directory that goes comes before it is gone.
            self._fast_polls = max(self._fast_polls, 1)
        if found == self._seen and not woken and self._polls_until_content > 0:
            self._polls_until_content -= 1
            return
        self._seen = found
        self._polls_until_content = _CONTENT_EVERY if self._look() else 0

    def _settle(self, found: _Identity | None) -> _Identity | None:
        """Wait until the file stays the same for a moment; return its identity then."""
        for _ in range(_SETTLE_ROUNDS):
            if self._closed.wait(_SETTLE):
                break
            now = _identity(self._path)
            if now == found:
                break
            found = now
        return found

    def _log_once(self, what: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            # By type only: a message may quote the content.
            _logger.warning("reading %s failed with %s; still watching", self._path, what)


def _identity(path: Path) -> _Identity | None:
    """Return what changes with the content of a file, or of a directory and its files.

    The first item is of the file or directory that holds the content.
    """
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return (_file_id(status),)
        swapped = path / SWAPPED
        folder = swapped if swapped.exists() else path
        with os.scandir(folder) as entries:
            files = sorted(_file_id(entry.stat()) for entry in itertools.islice(entries, MAX_FILES))
        return (_file_id(folder.stat()), _file_id(status), *files)
    except OSError:
        return None


def _file_id(status: os.stat_result) -> _FileId:
    return (
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
    )


def _is_same_inode(one: _Identity | None, other: _Identity | None) -> bool:
    return one is not None and other is not None and one[0][:2] == other[0][:2]
