"""What users and files hand to us, checked."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    import os

__all__ = [
    "checked_auth_mount",
    "checked_path",
    "checked_role",
    "file_path",
    "masked",
    "read_secret",
]

# Bytes: tokens have some hundreds, JSON Web Tokens with many claims some thousand.
_MAX_SECRET = 64 * 1024


def read_secret(path: Path, what: str, *, hint: str = "") -> Secret:
    """Return what a file holds, without the white space around it.

    Raises:
        ConfigurationError: the file is missing, unreadable, empty, too long or not text, or is no
            regular file.
    """
    found = _read(path)
    if isinstance(found, str):
        raise ConfigurationError(f"{path} should hold {what}, but {found}{hint and '; '}{hint}")
    return found


def _read(path: Path) -> Secret | str:
    """Return the secret, or what is wrong: a UnicodeDecodeError would carry the bytes along."""
    try:
        # To open a FIFO is to wait for who writes into it, and a device may have no end.
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


def checked_path(path: str, what: str) -> str:
    """Return a mount's path without the slashes around it.

    Raises:
        ConfigurationError: it would lead somewhere else, or nowhere.
    """
    stripped = path.strip("/")
    if not stripped or any(part in {"", ".", ".."} for part in stripped.split("/")):
        raise ConfigurationError(f"{path!r} cannot be the {what}")
    return stripped


def checked_role(role: str) -> str:
    """Return the name of a role of a secrets engine.

    Raises:
        ConfigurationError: it would lead to another path: Vault's role names hold no slash, and
            hvac would send one as it is.
    """
    if not role or "/" in role or role in {".", ".."}:
        raise ConfigurationError(
            f"{role!r} cannot be the name of a Vault role: give the name alone, and the path "
            "before 'creds' as mount"
        )
    return role


def checked_auth_mount(mount: str) -> str:
    """Return an auth method's path, without the ``auth/`` that Vault shows in front of it.

    Raises:
        ConfigurationError: it would lead somewhere else, or nowhere.
    """
    return checked_path(mount, "mount of an auth method").removeprefix("auth/")


def masked(value: object) -> tuple[Secret | None, str]:
    """Return a secret that we were given as a `Secret`, and what is wrong with it.

    Never raises: whoever does, does so from a frame that has no longer the secret itself.
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
