"""What users and files hand to us, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["as_secret", "checked_path", "checked_role", "read_secret"]


def read_secret(path: Path, what: str, *, hint: str = "") -> Secret:
    """Return what a file holds, without the white space around it.

    Raises:
        ConfigurationError: the file is missing, unreadable, empty or not text.
    """
    found = _read(path)
    if isinstance(found, str):
        raise ConfigurationError(f"{path} should hold {what}, but {found}{hint and '; '}{hint}")
    return found


def _read(path: Path) -> Secret | str:
    """Return the secret, or what is wrong: a UnicodeDecodeError would carry the bytes along."""
    try:
        secret = Secret(path.read_text(encoding="utf-8").strip())
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
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


def as_secret(value: str | Secret | None) -> Secret | None:
    """Return `value`, wrapped if it is not yet."""
    return Secret(value) if isinstance(value, str) else value
