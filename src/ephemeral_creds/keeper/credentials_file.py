"""A file that has a keeper's current credentials, for other processes."""

from __future__ import annotations

import json
import math
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds._backoff import backoff
from ephemeral_creds._fork import register
from ephemeral_creds._secret_file import SecretFile
from ephemeral_creds.events import FileWriteFailed, KeeperFailed
from ephemeral_creds.exceptions import ConfigurationError, KeeperClosed
from ephemeral_creds.keeper.recipient import Recipient
from ephemeral_creds.observers import logger, where_raised

if TYPE_CHECKING:
    import os
    from typing import Self

    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.keeper import CredentialKeeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper

__all__ = ["CredentialsFile", "validate_mode"]

# Readers that poll each second have moved in two, and a request that began before has ended in
# a minute or so. Five are cheap: one more role while they last.
_DRAIN = 300.0

# A full disk is emptied by people, a network file system comes back by itself.
_RETRY_INITIAL, _RETRY_MAX = 1.0, 60.0


class CredentialsFile:
    """Keeps a file that has a keeper's current credentials, for processes that share its lease.

    One process has the keeper and this, and all others read the file, by a `FileProvider` for
    example: together they have one role in PostgreSQL, and two during a rotation. That is what a
    prefork server's master, or a sidecar, does for its workers.

    The file is a JSON object with ``username``, ``password`` and, if it is known, ``expires_at``.
    For a role that stays, as one that logs in with tokens, the object ``ephemeral_creds`` in it has
    a `FileProvider` keep sessions of earlier passwords, and refuse logins that send a token without
    TLS.
    It is replaced as a whole, whenever credentials or their deadline change. The leases of old
    credentials are held for `drain` seconds more, since no reader reports when its last session of
    them is closed. `close`, and the keeper's own ``close()``, remove the file.

    If the file has other credentials than were written last, then another process has taken it
    over, a successor for example: it is neither written nor removed any more.

    Use it as a context manager, or call `open` and `close`. A child of a fork has no part in it: in
    the child, `close` does nothing.

    Args:
        keeper: where the credentials come from. It has to be started, and is not closed by this.
        path: the file. Its directory has to exist.
        mode: the file's permissions, ``0o600`` for the same user only; ``0o640`` with `group`.
        group: the file's group, by name or number; by default that of new files.
        drain: seconds for which old credentials stay valid after the file has got new ones, if
            their lease lasts as long; ``inf`` for as long as the server allows.

    Raises:
        ConfigurationError: `mode` lets every user read the file or others write to it, `drain` is
            negative, or there is no such group.
    """

    def __init__(
        self,
        keeper: CredentialKeeper | AsyncCredentialKeeper,
        path: str | os.PathLike[str],
        *,
        mode: int = 0o600,
        group: str | int | None = None,
        drain: float = _DRAIN,
    ) -> None:
        if not drain >= 0:
            raise ConfigurationError(f"CredentialsFile(drain={drain!r}): must be 0 seconds or more")
        self._keeper = keeper
        self._file = SecretFile(
            Path(path).absolute(), mode=validate_mode(mode), group=_group_id(group)
        )
        self._drain = drain
        self._begin_anew()
        register(self)

    def _begin_anew(self) -> None:
        self._changed = threading.Condition()
        self._recipient: Recipient | None = None
        self._thread: threading.Thread | None = None
        self._woken = False
        self._written: Grant | None = None
        self._drained_at: dict[int, float] = {}
        self._failures = 0
        self._retry_at = -math.inf
        self._is_taken_over = False

    def _after_fork(self) -> None:
        # Thread, leases and file are the parent's.
        self._begin_anew()

    def __repr__(self) -> str:
        return f"CredentialsFile({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._file.path

    def open(self, timeout: float = 30.0) -> None:
        """Write the file, and keep it current from now on. Does nothing if that is so already.

        Args:
            timeout: seconds to wait for the first credentials.

        Raises:
            NoCredentials, ConfigurationError, AccessDenied: there were no credentials in time, as
                `CredentialKeeper.wait` raises it.
            ConfigurationError: the file cannot be written, or the credentials have a password for
                each of several servers; the message says why.
        """
        if self._recipient is not None:
            return
        recipient = Recipient(self._keeper, self._wake)
        try:
            grant = recipient.keeper.wait(timeout)
            self._write(recipient, recipient.current or grant)
            self._recipient = recipient
            self._thread = threading.Thread(
                target=self._run,
                args=(recipient,),
                name=f"{recipient.keeper.name}-file",
                daemon=True,
            )
            self._thread.start()
        except BaseException as error:
            self._recipient = self._thread = None
            self._remove()
            recipient.close()
            if isinstance(error, OSError):
                raise ConfigurationError(_unwritable(self.path, error)) from None
            raise
        # The keeper may have been closed while this did not listen.
        self._wake()

    def close(self) -> None:
        """Remove the file, and have the leases of old credentials revoked. Safe to call twice.

        Readers have nothing to log in with any more when the keeper is closed after this, which
        revokes the lease in use: end them before.
        """
        with self._changed:
            recipient, self._recipient = self._recipient, None
            self._changed.notify_all()
        if recipient is None:
            return
        if self._thread is not None and self._thread is not threading.current_thread():
            # It may be writing to a file system that hangs.
            self._thread.join(5.0)
        self._remove()
        recipient.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        recipient = self._recipient
        if recipient is not None and isinstance(recipient.end, KeeperClosed):
            # The process may be ending: there is no time for the thread.
            self.close()
            return
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _remove(self) -> None:
        try:
            self._file.remove()
        except OSError as error:
            logger.warning("%s cannot be removed: %s", self.path, error.strerror)

    # -- what runs in the thread -----------------------------------------------------------

    def _run(self, recipient: Recipient) -> None:
        clock, look_at = recipient.keeper.clock, -math.inf
        while True:
            with self._changed:
                while self._recipient is recipient and not self._woken and clock.now() < look_at:
                    clock.wait(self._changed, look_at)
                self._woken = False
                if self._recipient is not recipient:
                    return
            try:
                look_at = self._update(recipient)
            except Exception as error:  # noqa: BLE001 - a defect must not let readers down
                # However long the observers take.
                look_at = clock.now() + _RETRY_MAX
                recipient.keeper.report(
                    KeeperFailed(error=f"{self.path} was not updated: {where_raised(error)}")
                )

    def _update(self, recipient: Recipient) -> float:
        """Bring the file up to date; return the instant at which to look again."""
        now, grant = recipient.keeper.clock.now(), recipient.current
        if grant is not None and grant != self._written and not self._is_taken_over:
            if now < self._retry_at:
                return self._retry_at
            try:
                self._write(recipient, grant)
            except OSError as error:
                self._failures += 1
                delay = backoff(self._failures, _RETRY_INITIAL, _RETRY_MAX, jitter=0.0)
                self._retry_at = now + delay
                why = _unwritable(self.path, error)
                recipient.keeper.report(
                    FileWriteFailed(path=str(self.path), error=why, retry_in=delay)
                )
                return self._retry_at
        return self._release(recipient)

    def _release(self, recipient: Recipient) -> float:
        """Release what is drained; return when to look again."""
        old = {grant.generation for grant in recipient.old}
        # Read after all that: readers have the whole time from when the file has changed.
        now = recipient.keeper.clock.now()
        drained_at = {g: self._drained_at.get(g, now + self._drain) for g in old}
        for generation in [g for g in old if drained_at[g] <= now]:
            del drained_at[generation]
            recipient.release(generation)
        self._drained_at = drained_at
        return min(drained_at.values(), default=math.inf)

    def _write(self, recipient: Recipient, grant: Grant) -> None:
        if self._file.is_replaced:
            self._is_taken_over = True
            logger.warning(
                "%s has other credentials than %s has written: it is left to the process that "
                "wrote them",
                self.path,
                recipient.keeper.name,
            )
            return
        if grant.credentials.passwords:
            servers = ", ".join(server for server, _ in grant.credentials.passwords)
            raise ConfigurationError(
                f"{self.path} has room for one password, but each of {servers} takes a token of "
                "its own: have a provider and a file for each server, or let each process get its "
                "own tokens"
            )
        # What makes seconds since 1970 of an instant of the keeper's clock.
        offset = time.time() - recipient.keeper.clock.now()
        self._file.write(_content(grant, offset))
        self._written, self._failures = grant, 0


def _content(grant: Grant, offset: float) -> str:
    values: dict[str, object] = {
        "username": grant.credentials.username,
        "password": grant.credentials.password.reveal(),
    }
    end = min(grant.lease.expires_at, grant.lease.announced_end)
    if end < math.inf:
        # In whole seconds, and rather a second too early.
        moment = datetime.fromtimestamp(math.floor(end + offset), UTC)
        values["expires_at"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    # `FileProvider` reads them; in an object of their own, so that no other file has such keys.
    traits = {
        "role_stays": grant.lease.rotates_in is not None,
        "requires_tls": grant.credentials.requires_tls,
    }
    if any(traits.values()):
        values["ephemeral_creds"] = traits
    return json.dumps(values, indent=2) + "\n"


def validate_mode(mode: int) -> int:
    """Return a file's mode, or raise a `ConfigurationError` if it is too wide, or none."""
    if not 0 < mode <= 0o777 or mode & 0o037 or not mode & 0o400:
        raise ConfigurationError(
            f"mode {mode:04o}: the file has a password, so it must be readable by its owner, "
            "perhaps by its group (0640 or 0440), and by no other user"
        )
    return mode


def _group_id(group: str | int | None) -> int | None:
    if not isinstance(group, str):
        return group
    if group.isdecimal():
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(f"there is no group {group!r} on this machine") from None


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be written: {error.strerror}; its directory has to exist and be writable "
        "for this process, which has to be a member of the file's group if one is set"
    )
