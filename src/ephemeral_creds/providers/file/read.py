"""Read a small text file in one go, and say precisely why that failed."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_SIZE", "FileText", "read_text"]

MAX_SIZE = 1024 * 1024
"""Bytes above which a file is refused: credentials have a few hundred, 1 MiB is a wrong path."""


@dataclass(frozen=True, slots=True)
class FileText:
    """What was in a file.

    Attributes:
        text: its whole content.
        mode: its permission bits.
    """

    text: str = field(repr=False)
    mode: int


def read_text(path: Path) -> FileText:
    """Read the file at `path` through one descriptor, following symlinks.

    Args:
        path: the file.

    Returns:
        The text, decoded as UTF-8, and the file's mode.

    Raises:
        ProviderUnavailable: the file is not there (yet), or its device does not answer.
        MalformedResponse: somebody was writing to it at the same moment.
        ConfigurationError: not allowed to read it, not a regular file, too large, or not UTF-8.
    """
    result = _read(path)
    # Raised here, with no exception being handled: a UnicodeDecodeError holds the whole content,
    # and even "from None" would keep it reachable as __context__.
    if isinstance(result, EphemeralCredsError):
        raise result
    return result


def _read(path: Path) -> FileText | EphemeralCredsError:
    try:
        # O_NONBLOCK: a FIFO at this path must be reported, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                return ConfigurationError(f"{path} is not a regular file")
            if before.st_size > MAX_SIZE:
                return ConfigurationError(
                    f"{path} has {before.st_size} bytes, more than {MAX_SIZE}: is this the path "
                    "of the credentials?"
                )
            data = os.read(descriptor, MAX_SIZE + 1)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return _translated(error, path)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, len(data)):
        return MalformedResponse(f"{path} is being written to")
    try:
        return FileText(data.decode("utf-8-sig"), stat.S_IMODE(before.st_mode))
    except UnicodeDecodeError as error:
        return ConfigurationError(f"{path} is not UTF-8: byte {error.start} is invalid")


def _translated(error: OSError, path: Path) -> EphemeralCredsError:
    if isinstance(error, FileNotFoundError):
        return ProviderUnavailable(
            f"{path} is not there (yet): check that the sidecar runs, that it renders to this path "
            "and that the volume is mounted in this container too"
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
