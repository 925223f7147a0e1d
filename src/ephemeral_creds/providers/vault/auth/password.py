"""Logging in with a user name and a password that Vault or a directory checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.inputs import as_secret, file_path, read_secret
from ephemeral_creds.providers.vault.auth.base import MountedAuth

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["LDAPAuth", "UserpassAuth"]


class _PasswordAuth(MountedAuth):
    METHOD: ClassVar[str]
    _shown: ClassVar[tuple[str, ...]] = ("username", "password", "password_file", "mount")
    _check: ClassVar[str] = "the user name and the password"

    def __init__(
        self,
        username: str,
        password: str | Secret | None = None,
        *,
        password_file: str | os.PathLike[str] | None = None,
        mount: str | None = None,
    ) -> None:
        # Before anything is raised: a traceback shows the arguments as they are by then.
        password, problem = as_secret(password)
        if problem:
            raise ConfigurationError(f"{type(self).__name__}: the password {problem}")
        if (password is None) == (password_file is None):
            raise ConfigurationError(
                f"{type(self).__name__} takes a password or a password_file: give one of them"
            )
        if not username or "/" in username or username in {".", ".."}:
            raise ConfigurationError(
                f"{type(self).__name__}: {username!r} cannot be the name of a user of Vault"
            )
        super().__init__(username, mount or self.METHOD)
        self._username = username
        self._password = password
        self._password_file = file_path(password_file)

    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        del client
        password = self._password
        if self._password_file is not None:
            password = read_secret(self._password_file, "a password")
        if not password:
            raise ConfigurationError(f"{type(self).__name__}: the password is empty")
        return {"password": password}

    def _what(self) -> str:
        return f"a login of user {self._username!r}"

    def _login_path(self) -> str:
        return f"login/{quote(self._username, safe='')}"


class UserpassAuth(_PasswordAuth):
    """A user name and a password that Vault itself keeps.

    See https://developer.hashicorp.com/vault/docs/auth/userpass.

    Args:
        username: the user.
        password: the password.
        password_file: a file to read it from at each login.
        mount: where the auth method is mounted; ``None`` means ``userpass``.

    Raises:
        ConfigurationError: not exactly one of `password` and `password_file` is given, or the
            password is empty or not a string.
    """

    METHOD: ClassVar[str] = "userpass"


class LDAPAuth(_PasswordAuth):
    """A user name and a password of a directory, which Vault checks there.

    Takes what `UserpassAuth` takes; `mount` is ``ldap`` by default. See
    https://developer.hashicorp.com/vault/docs/auth/ldap.
    """

    METHOD: ClassVar[str] = "ldap"
