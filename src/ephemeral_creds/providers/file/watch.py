"""Notice that a file may have changed.

Looking is the base: a thread compares the file's identity at each poll and has the content
compared every few polls, which works on every file system. Notifications of the operating system,
through watchdog, only make it look earlier. They are supervised and may fail at any time: NFS and
overlay mounts do not send any, watches and descriptors run out, and a directory that is removed
and created again silences its watch for good.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

__all__ = ["FileWatcher"]

_logger = logging.getLogger("ephemeral_creds")

_FileId: TypeAlias = "tuple[int, int, int, int, int]"
_DirectoryId: TypeAlias = "tuple[int, int]"

# Polls between two comparisons of content where the file's identity stays the same. Time stamps
# are as coarse as the kernel's tick (4 ms), so a change of the same length may leave no trace.
_CONTENT_EVERY = 5

# Polls until notifications are tried again after they could not be had.
_REARM_EVERY = 30

# Seconds for which a file that is written in place has to stay the same before it is looked at:
# one that writes in place does so in a few system calls, with half a password in between.
_SETTLE = 0.05
_SETTLE_ROUNDS = 20

# Seconds that closing waits for a thread; longer only where a file system hangs.
_JOIN = 2.0

# Reading the file causes these events ourselves: heeding them would be an endless loop.
_OUR_OWN = frozenset({"opened", "closed_no_write"})


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
        self._notifications = _Notifications(path, self._wake.set) if notify else None
        self._seen: _FileId | None = None
        self._polls_until_content = 0
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
            woken = self._wake.wait(self._poll_interval)
            self._wake.clear()
        if self._notifications is not None:
            self._notifications.stop()

    def _round(self, *, woken: bool) -> None:
        # First the notifications: what changes before they are armed must still be seen below.
        if self._notifications is not None:
            self._notifications.supervise()
        found = _file_id(self._path)
        if found != self._seen and _same_inode(found, self._seen):
            found = self._settled(found)
        if found == self._seen and not woken and self._polls_until_content > 0:
            self._polls_until_content -= 1
            return
        self._seen = found
        self._polls_until_content = _CONTENT_EVERY if self._look() else 0

    def _settled(self, found: _FileId | None) -> _FileId | None:
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


class _Notifications:
    """Watchdog, on the directories of the file, and what keeps it alive."""

    def __init__(self, path: Path, wake: Callable[[], None]) -> None:
        self._path = path
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._armed: dict[_DirectoryId, Path] = {}
        self._polls_until_rearm = 0
        self._told: set[str] = set()

    def supervise(self) -> None:
        """Make sure that the directories which count now are watched, if it can be done."""
        wanted = _directories(self._path)
        if wanted.keys() == self._armed.keys():
            if self._healthy():
                self._polls_until_rearm = 0  # so that a death later on is cured at once
                return
            if self._polls_until_rearm > 0:
                self._polls_until_rearm -= 1
                return
        self.stop()
        self._armed = wanted
        self._polls_until_rearm = _REARM_EVERY
        if wanted:
            self._arm()

    def stop(self) -> None:
        """Let go of the watches and their threads."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join(_JOIN)

    def _healthy(self) -> bool:
        if not self._armed:
            return True
        observer = self._observer
        # An observer outlives its emitters, which end silently with their directory.
        return (
            observer is not None
            and observer.is_alive()
            and all(emitter.is_alive() for emitter in observer.emitters)
        )

    def _arm(self) -> None:
        wake = self._wake
        try:
            from watchdog.events import FileSystemEventHandler
            from watchdog.observers import Observer

            class Handler(FileSystemEventHandler):
                # May do nothing else: it runs under the observer's lock, an exception in it kills
                # the thread, and watchdog 6 and 7 call the same change by different names.
                def on_any_event(self, event: FileSystemEvent) -> None:
                    if event.event_type not in _OUR_OWN:
                        wake()

            observer = Observer()
            observer.start()
            self._observer = observer
            for directory in self._armed.values():
                observer.schedule(Handler(), str(directory))
        except Exception as error:  # noqa: BLE001  the poll works without
            self.stop()
            reason = getattr(error, "strerror", None) or type(error).__name__
            if reason not in self._told:
                self._told.add(reason)
                _logger.info(
                    "no file notifications for %s (%s): relying on polls", self._path, reason
                )


def _file_id(path: Path) -> _FileId | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
    )


def _same_inode(one: _FileId | None, other: _FileId | None) -> bool:
    return one is not None and other is not None and one[:2] == other[:2]


def _directories(path: Path) -> dict[_DirectoryId, Path]:
    """Return the file's own directory and that of what it points at, where they exist.

    Not the file: a watch on a file follows its inode, which a rename leaves behind, and one on a
    symlink never hears of Kubernetes' ``..data`` being swapped.
    """
    found: dict[_DirectoryId, Path] = {}
    for follow in (False, True):
        try:
            directory = (path.resolve() if follow else path).parent.resolve()
            status = directory.stat()
        except (OSError, RuntimeError):  # RuntimeError: a loop of symlinks, before Python 3.13
            continue
        found[status.st_dev, status.st_ino] = directory
    return found
