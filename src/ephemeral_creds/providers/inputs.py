"""Secrets that are given as arguments, or in files."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    import os

__all__ = ["as_secret", "file_path", "read_secret"]

# Bytes: tokens have some hundreds, JSON Web Tokens with many claims some thousand.
_MAX_SECRET = 64 * 1024


def read_secret(path: Path, what: str, *, hint: str = "") -> Secret:
    """Return a file's content without the white space around it, or raise with `hint`."""
    found = _read(path)
    if isinstance(found, str):
        raise ConfigurationError(f"{path} should hold {what}, but {found}{hint and '; '}{hint}")
    return found


def _read(path: Path) -> Secret | str:
    """Return the secret, or the problem: a UnicodeDecodeError would carry the bytes along."""
    try:
        # Opening a FIFO waits for its writer, and a device may have no end.
        if not stat.S_ISREG(path.stat().st_mode):
            return "it is not a regular file"
        with path.open("rb") as file:
            content = file.read(_MAX_SECRET + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        return f"it cannot be read: {getattr(error, 'strerror', None) or error}"
    if len(content) > _MAX_SECRET:
        return f"it has more than {_MAX_SECRET} bytes"
    try:
        secret = Secret(content.decode().strip())
    except UnicodeDecodeError:
        return "it is not text"
    return secret or "it is empty"


def as_secret(value: object) -> tuple[Secret | None, str]:
    """Return a secret that may have been given as text, and what is wrong with it.

    Never raises: the caller does, from a frame in which `Secret` has replaced the text.
    """
    if value is None:
        return None, ""
    if isinstance(value, str):
        value = Secret(value)
    if not isinstance(value, Secret):
        return None, f"must be a str or a Secret, not {type(value).__name__}"
    return value, "" if value.reveal().strip() else "is empty"


def file_path(path: str | os.PathLike[str] | None) -> Path | None:
    """Return a file's path, with the home directory in place of a tilde."""
    return None if path is None else Path(path).expanduser()
