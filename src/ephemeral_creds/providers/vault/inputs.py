"""Checks of settings: names of mounts, roles and secrets."""

from __future__ import annotations

from ephemeral_creds.exceptions import ConfigurationError

__all__ = ["validate_auth_mount", "validate_mount", "validate_role", "validate_secret_path"]


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
