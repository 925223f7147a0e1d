"""Credentials that somebody else writes into a file: a Vault Agent, an operator, a CSI driver."""

from __future__ import annotations

import logging
import math
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds._clock import Clock, SystemClock
from ephemeral_creds._values import Credentials, Grant, Lease
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers._base import CredentialProvider
from ephemeral_creds.providers._location import Location, url_from_env
from ephemeral_creds.providers.file._from_url import settings_from
from ephemeral_creds.providers.file.parse import parse_env
from ephemeral_creds.providers.file.read import read_text
from ephemeral_creds.providers.file.watch import FileWatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import ClassVar, Self

__all__ = ["FileProvider"]

_logger = logging.getLogger("ephemeral_creds")

_WORLD_READABLE = 0o004


class FileProvider(CredentialProvider):
    """Reads credentials from a file that a sidecar keeps fresh, and notices when it changes.

    A file says nothing about how long its credentials live, so they have no deadline: they are
    replaced when the file's user name or password changes, or read again when PostgreSQL refuses
    them. A file that cannot be used is an error of `fetch`; whoever holds good credentials keeps
    them.

    Works with files replaced by a rename (Vault Agent), with the ``..data`` symlinks of Kubernetes
    volumes, and with files written in place. A ``subPath`` mount never sees an update: mount the
    directory instead.

    Args:
        path: the file. Made absolute at once; symlinks in it are followed at each look.
        parse: turns the file's text into credentials. May raise `ConfigurationError` or
            `MalformedResponse`, to whose messages the path is added; any other exception is
            reported by its type only, because its message may quote the text.
        poll_interval: seconds between two looks at the file. Each costs a few system calls, some
            20 µs, so that a second is cheap, and short against the life of any credential.
        notify: whether the operating system's file notifications are used as well, which make a
            change known within milliseconds. They cost three threads and do not work on every
            file system; looking goes on regardless.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: `poll_interval` is not a positive number.
    """

    mints: ClassVar[bool] = False
    URL_SCHEME: ClassVar[str] = "file"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        parse: Callable[[str], Credentials] = parse_env,
        poll_interval: float = 1.0,
        notify: bool = True,
        clock: Clock | None = None,
    ) -> None:
        if not (poll_interval > 0 and math.isfinite(poll_interval)):
            raise ConfigurationError(f"poll_interval has to be > 0 seconds, not {poll_interval!r}")
        self._path = Path(path).absolute()
        self._parse = parse
        self._poll_interval = poll_interval
        self._notify = notify
        self._clock = SystemClock() if clock is None else clock
        self._told_mode = False
        self._watcher: FileWatcher | None = None
        self._last = _LastRead()
        self._pid = os.getpid()

    @classmethod
    def from_url(cls, url: str, *, environ: Mapping[str, str] = os.environ) -> Self:
        """Make a provider of a URL: ``file:///vault/secrets/db-creds.txt``.

        Its keys: ``format`` (``env``, the only one), ``username_key`` and ``password_key`` where
        they are not called as `parse_env` expects, ``poll_interval`` and ``notify``.

        Args:
            url: the URL.
            environ: not used; providers are made alike.

        Raises:
            ConfigurationError: the URL cannot be right; the message points at the wrong part.
        """
        settings = settings_from(Location(url, environ, scheme=cls.URL_SCHEME))
        return cls(
            settings.path,
            parse=settings.parse,
            poll_interval=settings.poll_interval,
            notify=settings.notify,
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Make a provider of the URL in ``EPHEMERAL_CREDS_URL``; see `from_url`."""
        return cls.from_url(url_from_env(environ), environ=environ)

    @property
    def description(self) -> str:
        """The path of the file."""
        return f"file {self._path}"

    @property
    def watching(self) -> bool:
        """Whether changes are being looked for now, in this process."""
        return self._pid == os.getpid() and self._watcher is not None and self._watcher.alive

    def fetch(self) -> Grant:
        """Read the file.

        Returns:
            Its credentials, with no deadline and no lease to renew.

        Raises:
            ProviderUnavailable: the file is not there (yet), or its device does not answer.
            MalformedResponse: it is empty, half written, or has no user name or password.
            ConfigurationError: it may not be read, or is not such a file at all.
        """
        self._leave_to_parent()
        requested_at = self._clock.now()
        ticket = self._last.begin()
        try:
            credentials = self._read()
        except EphemeralCredsError:
            self._last.record(ticket, None)
            raise
        self._last.record(ticket, credentials)
        return Grant(credentials, Lease(requested_at=requested_at))

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever the file has other credentials than were read last.

        Also when it can be used again after a `fetch` that failed. Rewriting the same credentials,
        a file that cannot be used, and other files in the directory call nothing.

        Args:
            on_change: called from the watching thread; must return at once.

        Raises:
            ConfigurationError: the file is being watched already: one keeper per provider.
        """
        self._leave_to_parent()
        if self._watcher is not None:
            raise ConfigurationError(f"{self.description} is watched already, by another keeper")
        # The baseline, so that only what changes from here on counts.
        ticket = self._last.begin()
        self._last.record(ticket, self._read_or_none())
        self._watcher = FileWatcher(
            self._path,
            lambda: self._look(on_change),
            poll_interval=self._poll_interval,
            notify=self._notify,
        )
        self._watcher.start()

    def close(self) -> None:
        """Stop watching. `fetch` goes on working."""
        self._leave_to_parent()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def _look(self, on_change: Callable[[], None]) -> bool:
        """Compare the file with what was read last; return False if somebody read meanwhile."""
        ticket = self._last.begin()
        credentials = self._read_or_none()
        if credentials is None:
            return True  # the good ones in use are better; `fetch` will say what is wrong
        changed = self._last.replace(ticket, credentials)
        if changed:
            on_change()
        return changed is not None

    def _read_or_none(self) -> Credentials | None:
        try:
            return self._read()
        except EphemeralCredsError:
            return None

    def _read(self) -> Credentials:
        file = read_text(self._path)
        if file.mode & _WORLD_READABLE and not self._told_mode:
            self._told_mode = True
            # Not a warning: it is the default of Vault Agent and its injector.
            _logger.info(
                "%s is readable by every user (mode %04o); the template's perms can narrow that",
                self._path,
                file.mode,
            )
        result = self._parsed(file.text)
        # Raised with no exception being handled: the parser's may hold the text.
        if isinstance(result, EphemeralCredsError):
            raise result
        return result

    def _parsed(self, text: str) -> Credentials | EphemeralCredsError:
        try:
            return self._parse(text)
        except ConfigurationError as error:
            return ConfigurationError(f"{self._path}: {error}")
        except MalformedResponse as error:
            return MalformedResponse(f"{self._path}: {error}")
        except Exception as error:  # noqa: BLE001  a caller's function: anything may come
            return MalformedResponse(
                f"{self._path}: the parse function failed with {type(error).__name__}"
            )

    def _leave_to_parent(self) -> None:
        """After a fork, drop the inherited watch: its threads stayed in the parent."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._watcher = None
            self._last = _LastRead()  # its lock may have been held at the moment of the fork


class _LastRead:
    """What was read last, kept in order although two threads read.

    Each reader takes a ticket before it reads. A result under an older ticket than the last one
    recorded says nothing about which content is newer, so it is dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._issued = 0
        self._recorded = 0
        self._credentials: Credentials | None = None

    def begin(self) -> int:
        """Take a ticket."""
        with self._lock:
            self._issued += 1
            return self._issued

    def record(self, ticket: int, credentials: Credentials | None) -> None:
        """Remember a result; None is a failure."""
        with self._lock:
            if ticket > self._recorded:
                self._recorded = ticket
                self._credentials = credentials

    def replace(self, ticket: int, credentials: Credentials) -> bool | None:
        """Remember a result and say whether it differs; None if a later reader was faster."""
        with self._lock:
            if ticket < self._recorded:
                return None
            self._recorded = ticket
            changed = credentials != self._credentials
            self._credentials = credentials
            return changed
