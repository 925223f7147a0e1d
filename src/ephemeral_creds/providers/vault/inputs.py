"""Checks of settings, and of files that hold a secret."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    import os

__all__ = [
    "as_secret",
    "file_path",
    "read_secret",
    "validate_auth_mount",
    "validate_mount",
    "validate_role",
    "validate_secret_path",
]

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


def validate_mount(path: str, what: str) -> str:
    """Return a mount's path without the slashes around it; it must not lead to another path."""
    stripped = path.strip("/")
    if not stripped or any(part in {"", ".", ".."} for part in stripped.split("/")):
        raise ConfigurationError(f"{path!r} cannot be the {what}")
    return stripped


def validate_auth_mount(mount: str) -> str:
    """Return an auth method's path, without the ``auth/`` that Vault shows in front of it."""
    return validate_mount(mount, "mount of an auth method").removeprefix("auth/")


def validate_role(role: str) -> str:
    """Return the name of a role of a secrets engine; it must not lead to another path."""
    # Vault's role names hold no slash, and hvac would send one as it is.
    if not role or "/" in role or role in {".", ".."}:
        raise ConfigurationError(
            f"{role!r} cannot be the name of a Vault role: give the name alone, and the path "
            "before 'creds' as mount"
        )
    return role


def validate_secret_path(path: str) -> str:
    """Return the path of a secret without the slashes around it; it must not lead elsewhere."""
    stripped = path.strip("/")
    if not stripped or any(part in {"", ".", ".."} for part in stripped.split("/")):
        raise ConfigurationError(
            f"{path!r} cannot be the path of a secret: give what follows the mount, such as app/db"
        )
    return stripped


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
