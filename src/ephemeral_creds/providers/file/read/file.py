"""Reading one small text file, with an error that says precisely why it failed."""

from __future__ import annotations

import codecs
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.base import value_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EMPTY_DIRECTORY", "FileText", "mount_of", "read_text", "translate"]

EMPTY_DIRECTORY = (
    "container engines make one if the source file of a bind mount does not exist yet: remove it, "
    "have the file written before the container starts, and mount the file's directory"
)
"""A likely reason for an empty directory in the place of a file."""

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a directory"),
)


@dataclass(frozen=True, slots=True)
class FileText:
    """A file's content.

    Attributes:
        text: the whole content.
        status: the file's status.
        mount: identifies the mount that it is in; ``None`` if the system does not tell.
    """

    text: str = field(repr=False)
    status: os.stat_result
    mount: object


def read_text(path: Path, *, max_size: int, folder: int | None = None) -> FileText:
    """Read the file at `path` through one descriptor, following symlinks.

    With a descriptor of its directory as `folder`, only the last part of `path` counts. A file of
    more than `max_size` bytes is refused.

    Raises:
        ProviderUnavailable: the file does not exist (yet), or its device does not answer.
        MalformedResponse: it was being written at the same moment.
        ConfigurationError: not allowed to read it, not a regular file, too large, or not UTF-8.
    """
    return value_of(_read(path, max_size, folder))


def _read(path: Path, max_size: int, folder: int | None) -> FileText | EphemeralCredsError:
    name = path if folder is None else path.name
    try:
        # Before it is opened: opening a device can have effects.
        if not stat.S_ISREG(mode := os.stat(name, dir_fd=folder).st_mode):
            return _irregular(path, mode)
        # O_NONBLOCK: do not wait for the writer of a FIFO that takes its place meanwhile.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(name, flags, dir_fd=folder)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                return _irregular(path, before.st_mode)
            if before.st_size > max_size:
                return ConfigurationError(
                    f"{path} has {before.st_size} bytes, more than the {max_size} of "
                    "FilePolicy.max_size: is this the path of the credentials?"
                )
            data = os.read(descriptor, before.st_size + 1)
            after = os.fstat(descriptor)
            mount = mount_of(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return translate(error, path)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, len(data)):
        return MalformedResponse(f"{path} is being written to")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ConfigurationError(
            f"{path} is UTF-16, as PowerShell writes it: have it written as UTF-8, for example "
            "with Out-File -Encoding utf8"
        )
    try:
        return FileText(data.decode("utf-8-sig"), before, mount)
    except UnicodeDecodeError as error:
        return ConfigurationError(f"{path} is not UTF-8: byte {error.start} is invalid")


def _irregular(path: Path, mode: int) -> ConfigurationError:
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
    advice = "is this the path of the credentials?"
    if stat.S_ISDIR(mode) and _is_empty(path):
        kind, advice = "an empty directory", EMPTY_DIRECTORY
    return ConfigurationError(f"{path} is {kind}, not a regular file: {advice}")


def _is_empty(path: Path) -> bool:
    try:
        return next(path.iterdir(), None) is None
    except OSError:
        return False


def mount_of(descriptor: int) -> object:
    """Return a value that two files of one mount share; ``None`` if it cannot be told now.

    It is the mount's number on Linux, and the device's elsewhere.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:  # noqa: PTH123
            for line in lines:
                if line.startswith("mnt_id:"):
                    return int(line.split()[1])
    except FileNotFoundError:
        return os.fstat(descriptor).st_dev
    except OSError:  # no descriptor is left
        pass
    return None


def translate(error: OSError, path: Path) -> EphemeralCredsError:
    """Return the error to raise for `error`, which came from reading `path`."""
    if isinstance(error, FileNotFoundError):
        return ProviderUnavailable(
            f"{path} does not exist (yet): check that the sidecar runs, that it renders to this "
            "path and that the volume is mounted in this container too"
        )
    if isinstance(error, PermissionError):
        return ConfigurationError(
            f"not allowed to read {path}: {_ownership(path)}; this process runs as "
            f"uid {os.geteuid()} gid {os.getegid()}. Set the template's perms, or run both as "
            "the same user"
        )
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return ConfigurationError(f"{path} is not a file: {error.strerror}")
    return ProviderUnavailable(f"cannot read {path}: {error.strerror or type(error).__name__}")


def _ownership(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "its directory may not be searched"
    mode = stat.S_IMODE(status.st_mode)
    return f"it has mode {mode:04o}, owner uid {status.st_uid} gid {status.st_gid}"
