"""Logging in with a user name and a password: Vault's own, or a directory's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.vault.auth.base import AuthMethod, Token
from ephemeral_creds.providers.vault.inputs import (
    checked_auth_mount,
    file_path,
    masked,
    read_secret,
)

if TYPE_CHECKING:
    import os

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["LDAPAuth", "UserpassAuth"]


class _PasswordAuth(AuthMethod):
    METHOD: ClassVar[str]
    _shown: ClassVar[tuple[str, ...]] = ("username", "password", "password_file", "mount")

    def __init__(
        self,
        username: str,
        password: str | Secret | None = None,
        *,
        password_file: str | os.PathLike[str] | None = None,
        mount: str | None = None,
    ) -> None:
        # Before anything is raised, whose traceback shows the arguments as they are by then.
        password, wrong = masked(password)
        if wrong:
            raise ConfigurationError(f"{type(self).__name__}: the password {wrong}")
        if (password is None) == (password_file is None):
            raise ConfigurationError(
                f"{type(self).__name__} takes a password or a password_file: give one of them"
            )
        if not username or "/" in username or username in {".", ".."}:
            raise ConfigurationError(
                f"{type(self).__name__}: {username!r} cannot be the name of a user of Vault"
            )
        self._username = username
        self._password = password
        self._password_file = file_path(password_file)
        self._mount = checked_auth_mount(mount or self.METHOD)

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Log in with the password of this moment."""
        password = self._password
        if self._password_file is not None:
            password = read_secret(self._password_file, "a password")
        if not password:
            raise ConfigurationError(f"{type(self).__name__}: the password is empty")
        # hvac puts the name into the path as it is.
        url = f"/v1/auth/{self._mount}/login/{quote(self._username, safe='')}"
        requested_at = clock.now()
        reply = client.login(
            lambda vault: vault.adapter.login(
                url, use_token=False, json={"password": password.reveal()}
            ),
            f"a login of user {self._username!r} at auth/{self._mount}",
            hint="check the mount, the user name and the password",
            secrets=(password,),
            role=self._username,
        )
        return Token.from_login(reply, requested_at)


class UserpassAuth(_PasswordAuth):
    """A user name and a password that Vault itself keeps.

    See https://developer.hashicorp.com/vault/docs/auth/userpass.

    Args:
        username: the user.
        password: the password.
        password_file: a file to read it from, anew at each login.
        mount: where the auth method is mounted; ``None`` means ``userpass``.

    Raises:
        ConfigurationError: not exactly one of `password` and `password_file` is given, or the
            password is empty or no string.
    """

    METHOD: ClassVar[str] = "userpass"


class LDAPAuth(_PasswordAuth):
    """A user name and a password of a directory, which Vault checks there.

    See https://developer.hashicorp.com/vault/docs/auth/ldap.

    Args:
        username: the user.
        password: the password.
        password_file: a file to read it from, anew at each login.
        mount: where the auth method is mounted; ``None`` means ``ldap``.

    Raises:
        ConfigurationError: not exactly one of `password` and `password_file` is given, or the
            password is empty or no string.
    """

    METHOD: ClassVar[str] = "ldap"
