"""Logging in by AppRole: a role id, and a secret id that is given, read or unwrapped."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._fork import register
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.inputs import as_secret, file_path, read_secret
from ephemeral_creds.providers.vault.auth.base import MountedAuth

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["AppRoleAuth"]


class AppRoleAuth(MountedAuth):
    """An AppRole: a role id and usually a secret id.

    See https://developer.hashicorp.com/vault/docs/auth/approle. A secret id that may be used only
    once is spent by the first login: it cannot replace an expired token. Give such a role's token a
    ``token_period``, so that it needs no second login, or a file that is kept fresh.

    Args:
        role_id: the role's id; not a secret by itself, yet not shown in `repr`.
        secret_id: the secret id; ``None`` for a role without one (``bind_secret_id=false``).
        secret_id_file: a file to read it from at each login.
        wrapped: whether a wrapping token is given instead of the secret id
            (``vault write -wrap-ttl=…``). It is unwrapped once, and the secret id is kept in
            memory for further logins, until the file holds another token.
        mount: where the auth method is mounted.

    Raises:
        ConfigurationError: both a secret id and a file are given, or neither with `wrapped`; or one
            of the ids is empty or not a string.
    """

    _shown: ClassVar[tuple[str, ...]] = ("secret_id", "secret_id_file", "wrapped", "mount")
    _kind: ClassVar[str] = "an AppRole login"
    _check: ClassVar[str] = "the role id and whether the secret id is expired or used up"

    def __init__(
        self,
        role_id: str,
        secret_id: str | Secret | None = None,
        *,
        secret_id_file: str | os.PathLike[str] | None = None,
        wrapped: bool = False,
        mount: str = "approle",
    ) -> None:
        # Before anything is raised: a traceback shows the arguments as they are by then.
        secret_id, problem = as_secret(secret_id)
        given: object = role_id
        if not isinstance(given, str) or not given.strip():
            raise ConfigurationError("AppRoleAuth: the role_id must be a str that is not empty")
        if problem:
            raise ConfigurationError(
                f"AppRoleAuth: the secret_id {problem}; a role that asks for none "
                "(bind_secret_id=false) gets None"
            )
        if secret_id is not None and secret_id_file is not None:
            raise ConfigurationError("AppRoleAuth takes a secret_id or a file with it, not both")
        if wrapped and secret_id is None and secret_id_file is None:
            raise ConfigurationError(
                "AppRoleAuth(wrapped=True) takes a wrapping token as secret_id, or a file with it"
            )
        super().__init__("", mount)
        self._role_id = role_id
        self._secret_id = secret_id
        self._secret_id_file = file_path(secret_id_file)
        self._wrapped = wrapped
        # Several providers may share this object, and a wrapping token can be unwrapped once.
        self._unwrapping = threading.Lock()
        self._unwrapped: tuple[Secret, Secret] | None = None
        register(self)

    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        secret_id = self._secret_id
        if self._secret_id_file is not None:
            what = "a wrapping token" if self._wrapped else "an AppRole secret id"
            secret_id = read_secret(self._secret_id_file, what)
        if secret_id is None:
            return {"role_id": self._role_id}
        if self._wrapped:
            secret_id = self._unwrap(client, secret_id)
        return {"role_id": self._role_id, "secret_id": secret_id}

    def _unwrap(self, client: VaultClient, wrapping: Secret) -> Secret:
        with self._unwrapping:
            if self._unwrapped is None or self._unwrapped[0] != wrapping:
                self._unwrapped = (wrapping, client.unwrap_secret_id(wrapping))
            return self._unwrapped[1]

    def _after_fork(self) -> None:
        self._unwrapping = threading.Lock()
