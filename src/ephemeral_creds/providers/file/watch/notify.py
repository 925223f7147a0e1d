"""The operating system's notifications of changes near a file, by watchdog.

They may fail at any time, and are supervised: NFS and overlay mounts do not send any, watches and
descriptors run out, and a directory that is removed and created again silences its watch for good.
They are not used under the threads of gevent and eventlet.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, TypeAlias

from ephemeral_creds._backoff import backoff
from ephemeral_creds.providers.file.read.directory import SWAPPED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

__all__ = ["Notifications", "load"]

_logger = logging.getLogger("ephemeral_creds")

_DirectoryId: TypeAlias = "tuple[int, int]"

# Polls until notifications are tried again after a failure; doubled each time. Watchdog 6 leaks
# three descriptors if the system's watches have run out.
_REARM_AFTER = 30

# Descriptors that watchdog takes for a directory at most, and those that reading the file needs.
# They have to be available before watchdog starts: if it gets only some, it leaks them.
_PER_DIRECTORY = 3
_FOR_READING = 2

# Libraries that replace the system's threads: module, the question whether they have, its argument.
_PATCHERS = (
    ("gevent", "monkey", "is_module_patched", "threading"),
    ("eventlet", "patcher", "is_monkey_patched", "thread"),
)

# Seconds that stopping waits for a thread; longer only if a file system hangs.
_JOIN = 2.0

# Reading the file causes these events: reacting to them would be an endless loop.
_OUR_OWN = frozenset({"opened", "closed_no_write"})


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Drop what watchdog 7.1 calls an error when a watch is stopped at the wrong moment."""
    return "called when the thread is inactive" not in record.getMessage()


class Notifications:
    """Watchdog on the directories of a file, with its supervision.

    It calls `wake`, from a thread of its own, when something may have changed.
    """

    def __init__(self, path: Path, wake: Callable[[], None]) -> None:
        self._path = path
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._armed: dict[_DirectoryId, Path] = {}
        self._polls_until_rearm = 0.0
        self._failures = 0
        self._on_trial = False
        self._logged: set[str] = set()

    def supervise(self) -> None:
        """Make sure that the file's directories are watched, if possible."""
        if self._polls_until_rearm > 0:
            self._polls_until_rearm -= 1
            return
        wanted = _directories(self._path)
        if wanted.keys() == self._armed.keys():
            if self._healthy():
                self._on_trial = False
                self._failures = 0
                return
            if self._on_trial:
                self._back_off()
                self.stop()
                return
        self.stop()
        self._armed = wanted
        # If it dies later, it is armed again at once: a recreated directory may get its old number.
        self._on_trial = True
        if not self._arm():
            self._back_off()

    def _back_off(self) -> None:
        self._on_trial = False
        self._failures += 1
        self._polls_until_rearm = backoff(self._failures, _REARM_AFTER, math.inf)

    def stop(self) -> None:
        """Stop the watches and their threads."""
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

    def _arm(self) -> bool:
        """Watch the wanted directories; return False if that is not possible."""
        if not self._armed:
            return True
        wake = self._wake
        try:
            _require_system_threads()
            _require_descriptors(_PER_DIRECTORY * len(self._armed) + _FOR_READING)
            from watchdog.events import FileSystemEventHandler
            from watchdog.observers import Observer

            class Handler(FileSystemEventHandler):
                # Must do nothing else: it runs under the observer's lock, an exception in it kills
                # the thread, and watchdog 6 and 7 name the same change differently.
                def on_any_event(self, event: FileSystemEvent) -> None:
                    if event.event_type not in _OUR_OWN:
                        wake()

            # Has no effect if it is there already.
            logging.getLogger("watchdog.observers.inotify").addFilter(_is_worth_logging)
            observer = Observer()
            observer.start()
            self._observer = observer
            for directory in self._armed.values():
                observer.schedule(Handler(), str(directory))
        except Exception as error:  # noqa: BLE001  polls work without
            self.stop()
            reason = getattr(error, "strerror", None) or type(error).__name__
            if reason not in self._logged:
                self._logged.add(reason)
                _logger.info(
                    "no file notifications for %s (%s): relying on polls", self._path, reason
                )
            return False
        return True


def load() -> None:
    """Load watchdog, if it can be used here, before any thread needs it.

    A child of a fork inherits the lock of a module that another thread of its parent imports.
    Nothing releases it there: the child's own import would never return.
    """
    with suppress(ImportError, OSError):  # polls work without
        _require_system_threads()
        import watchdog.events
        import watchdog.observers  # noqa: F401


def _require_system_threads() -> None:
    """Raise an `OSError` if threads are not the system's: watchdog's end or block all others."""
    for library, module, question, name in _PATCHERS:
        is_patched = getattr(sys.modules.get(f"{library}.{module}"), question, None)
        if is_patched is not None and is_patched(name):
            raise OSError(errno.ENOTSUP, f"{library} has replaced the system's threads")


def _require_descriptors(count: int) -> None:
    """Raise an `OSError` unless `count` descriptors are available."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _directories(path: Path) -> dict[_DirectoryId, Path]:
    """Return the existing directories in which a change of content shows.

    Those are the file's own directory and that of its target. Not the file: a watch on a file
    follows its inode, which a rename leaves behind, and one on a symlink never hears of Kubernetes'
    swap of ``..data``. If the path is a directory, it counts itself as well.
    """
    places = [path.parent]
    for candidate in (path, path / SWAPPED):
        try:
            resolved = candidate.resolve()
        except (OSError, RuntimeError):  # RuntimeError: a loop of symlinks, before Python 3.13
            continue
        places += [resolved, resolved.parent]
    found: dict[_DirectoryId, Path] = {}
    for place in places:
        try:
            status = place.stat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            found[status.st_dev, status.st_ino] = place
    return found
