"""Credentials from a file that a Vault Agent, an operator or a CSI driver writes."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ephemeral_creds._clock import Clock, SystemClock
from ephemeral_creds._fork import register
from ephemeral_creds._values import Grant, Lease
from ephemeral_creds.events import SourceRecovered, SourceUnusable
from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.base import CredentialProvider
from ephemeral_creds.providers.file.policy import VERDICTS, FilePolicy, Inspection, Verdict
from ephemeral_creds.providers.file.source import FileSource, keys_from
from ephemeral_creds.providers.file.watch.notify import load
from ephemeral_creds.providers.file.watch.poll import FileWatcher
from ephemeral_creds.providers.formats.parse import FORMATS
from ephemeral_creds.providers.url import FromURL, Key, Location, one_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any, ClassVar, NoReturn

    from ephemeral_creds.events import Event
    from ephemeral_creds.providers.file.source import Content, ParseFunction
    from ephemeral_creds.providers.formats.parse import Format

__all__ = ["FileProvider"]

# What its URL may say, of the constructor's arguments and of `FilePolicy`'s.
_URL_KEYS = {
    "format": Key("format", one_of(FORMATS)),
    "username": Key("username"),
    "username_key": Key("username_key"),
    "password_key": Key("password_key"),
    "url_key": Key("url_key"),
    "poll_interval": Key("poll_interval", Location.seconds),
    "notify": Key("notify", Location.flag),
}
_POLICY_KEYS = {
    **{name: Key(name, one_of(get_args(Verdict))) for name in VERDICTS},
    "max_size": Key("max_size", Location.count),
}


class FileProvider(FromURL, CredentialProvider):
    """Reads credentials from a file that a sidecar keeps fresh, and notices when it changes.

    A file's word about the life of its credentials is not reliable, so they have no deadline: they
    are replaced when the file's user name or password changes, and read again when PostgreSQL
    refuses them. In a file of a `CredentialsFile` that says that the role stays, another password
    replaces no connection. If the file or PostgreSQL (``VALID UNTIL``) announces an end, the
    keeper's status shows it, and a `CredentialsEnding` event reports when it comes with no new
    file. A file that cannot be used is an error of `fetch`; a keeper with good credentials keeps
    them, and a `SourceUnusable` event says why the file is not used.

    Works with files replaced by a rename (Vault Agent), with the ``..data`` symlinks of Kubernetes
    volumes, and with files written in place. A file that is mounted by itself (``subPath``) never
    sees an update, which is logged once: mount the directory instead.

    Args:
        path: the file, or a directory with one file per key. Made absolute at once; symlinks in
            it are followed at each read.
        format: ``env`` (``KEY=VALUE``), ``map`` (the injector's ``key: value``), ``json``,
            ``uri``, ``conninfo``, ``properties``, ``directory`` or ``password`` (the password
            alone); ``auto`` recognises it.
        username: the user name, if the file has only a password. A file with another user name is
            refused.
        username_key: the key of the user name, if it is not a usual one. In JSON, a path with
            dots.
        password_key: the same for the password.
        url_key: the key of a connection URI, if it is not a usual one; instead of both.
        parse: a function that turns the file's text into `Credentials`, into user name and
            password, or into a mapping that has them under the keys above; instead of `format`.
            May raise `ConfigurationError` or `MalformedResponse`, to whose messages the path is
            added; any other exception is reported by its type only, because its message may quote
            the text.
        policy: which owners, modes, links and sizes to accept.
        poll_interval: seconds between two polls of the file. Each costs a few system calls, so that
            a second is cheap, and short against the life of any credential.
        notify: whether the operating system's file notifications are used as well, which make a
            change known within milliseconds. They cost three threads and do not work on every
            file system; polling continues regardless.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: `poll_interval` is not a positive number, `format` does not exist,
            options contradict each other, or `username` cannot be one.
    """

    mints: ClassVar[bool] = False
    URL_SCHEME: ClassVar[str] = "file"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: Format = "auto",  # noqa: A002 - what it is called everywhere
        username: str | None = None,
        username_key: str | None = None,
        password_key: str | None = None,
        url_key: str | None = None,
        parse: ParseFunction | None = None,
        policy: FilePolicy | None = None,
        poll_interval: float = 1.0,
        notify: bool = True,
        clock: Clock | None = None,
    ) -> None:
        if not (poll_interval > 0 and math.isfinite(poll_interval)):
            raise ConfigurationError(f"poll_interval has to be > 0 seconds, not {poll_interval!r}")
        self._path = Path(path).absolute()
        self._inspection = Inspection(policy or FilePolicy())
        self._source = FileSource(
            self._path,
            format=format,
            keys=keys_from(format, username_key, password_key, url_key, parse, username),
            parse=parse,
            inspection=self._inspection,
        )
        self._format = format
        self._poll_interval = poll_interval
        self._notify = notify
        self._clock = SystemClock() if clock is None else clock
        self._watcher: FileWatcher | None = None
        self._last = _LastRead()
        self._report: Callable[[Event], None] = _ignore
        self._error = ""
        if notify:
            load()
        register(self)

    def __repr__(self) -> str:
        return f"FileProvider({str(self._path)!r}, format={self._format!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a FileProvider cannot be pickled: send its settings to the other process and let "
            "it read the file itself"
        )

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        if location.name not in {"", "localhost"} or not location.path.strip("/"):
            raise location.error(
                "the path", "must be absolute, as in file:///vault/secrets/db-creds.txt"
            )
        location.expect((*_URL_KEYS, *_POLICY_KEYS))
        policy = FilePolicy(**location.arguments(_POLICY_KEYS))
        return {"path": location.path, "policy": policy, **location.arguments(_URL_KEYS)}

    @property
    def description(self) -> str:
        """The path of the file."""
        return f"file {self._path}"

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def warnings(self) -> tuple[str, ...]:
        """The policy's warnings so far, each once."""
        return self._inspection.warnings

    @property
    def watching(self) -> bool:
        """Whether the file is being watched now, in this process."""
        return self._watcher is not None and self._watcher.alive

    def fetch(self) -> Grant:
        """Read the file.

        Returns:
            Its credentials, with no deadline and no lease to renew; perhaps with an announced end.

        Raises:
            ProviderUnavailable: the file does not exist (yet), or its device does not answer.
            MalformedResponse: it is empty, half written, or has no user name or password.
            ConfigurationError: it may not be read, or is not a credential file.
        """
        requested_at = self._clock.now()
        content = self._read()
        # The file's times are those of calendars, as its writer's are.
        announced = content.seconds_left(time.time())
        lease = Lease(
            requested_at,
            # Nothing has to be asked for: the file tells by itself that it has changed.
            rotates_in=math.inf if content.found.role_stays else None,
            announced_duration=announced,
        )
        return Grant(content.found.credentials, lease)

    def _read(self) -> Content:
        ticket = self._last.begin()
        try:
            content = self._source.read()
        except EphemeralCredsError:
            self._last.record(ticket, None)
            raise
        self._last.record(ticket, content)
        return content

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever the file has other credentials than were read last.

        Also when it announces another instant as their end, and when it can be used again after a
        `fetch` that failed. It is not called if the same credentials are rewritten, the file cannot
        be used, or other files in the directory change.

        Args:
            on_change: called from the watching thread; must return at once.

        Raises:
            ConfigurationError: the file is being watched already: one keeper per provider.
        """
        if self._watcher is not None:
            raise ConfigurationError(f"{self.description} is watched already, by another keeper")
        # The baseline, so that only later changes count.
        with contextlib.suppress(EphemeralCredsError):
            self._read()
        self._error = ""
        self._watcher = FileWatcher(
            self._path,
            lambda: self._look(on_change),
            poll_interval=self._poll_interval,
            notify=self._notify,
        )
        self._watcher.start()

    def observe(self, report: Callable[[Event], None]) -> None:
        """Call `report`, from the watching thread, when the file becomes unusable or usable again.

        That is a `SourceUnusable` for each distinct problem and a `SourceRecovered` after it.

        Args:
            report: must return soon.
        """
        self._report = report

    def close(self) -> None:
        """Stop watching. `fetch` still works."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def _look(self, on_change: Callable[[], None]) -> bool:
        """Compare the file with the last read; return False to be called again soon."""
        ticket = self._last.begin()
        try:
            content = self._source.read()
        except EphemeralCredsError as error:
            self._report_once(f"{type(error).__name__}: {error}")
            return False  # what fixes it need not be visible in the file
        self._report_once("")
        changed = self._last.record(ticket, content)
        if changed:
            on_change()
        return changed is not None

    def _report_once(self, error: str) -> None:
        """Report a look's error, or its success, if it differs from the last one's."""
        if error != self._error:
            self._error = error
            self._report(SourceUnusable(error=error) if error else SourceRecovered())

    def _after_fork(self) -> None:
        """Drop the watch: its threads stayed in the parent."""
        self._watcher = None
        self._last = _LastRead()  # its lock may have been held at the moment of the fork


class _LastRead:
    """The last content that was read, by two threads.

    Each reader takes a ticket before it reads. A result under an older ticket than the last one
    recorded does not tell which content is newer, so it is dropped.
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

    def record(self, ticket: int, content: Content | None) -> bool | None:
        """Record a result, ``None`` after a failure, and tell whether it differs from the last.

        Returns ``None`` if a later reader was faster.
        """
        with self._lock:
            if ticket < self._recorded:
                return None
            self._recorded = ticket
            changed = content is not None and content.differs(self._content)
            self._content = content
            return changed


def _ignore(_: Event) -> None:
    """Do nothing."""
