"""Logging in by AppRole: a role id, and a secret id that comes in one of several ways."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._fork import register
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

__all__ = ["AppRoleAuth"]


class AppRoleAuth(AuthMethod):
    """An AppRole: a role id with, as a rule, a secret id.

    See https://developer.hashicorp.com/vault/docs/auth/approle. A secret id that may be used only
    once is spent by the first login: it cannot replace a token at its end. Give such a role's
    token a ``token_period``, so that it needs no second login, or a file that is kept fresh.

    Args:
        role_id: the role's id; not a secret by itself, yet not shown in `repr`.
        secret_id: the secret id; ``None`` for a role that asks for none (``bind_secret_id``).
        secret_id_file: a file to read it from, anew at each login.
        wrapped: whether what is given is not the secret id, but a wrapping token for it
            (``vault write -wrap-ttl=…``). It is unwrapped once, and the secret id is kept in
            memory for further logins, until the file holds another token.
        mount: where the auth method is mounted.

    Raises:
        ConfigurationError: both a secret id and a file are given, or neither with `wrapped`; or one
            of the ids is empty or no string.
    """

    _shown: ClassVar[tuple[str, ...]] = (
        "secret_id",
        "secret_id_file",
        "wrapped",
        "mount",
    )

    def __init__(
        self,
        role_id: str,
        secret_id: str | Secret | None = None,
        *,
        secret_id_file: str | os.PathLike[str] | None = None,
        wrapped: bool = False,
        mount: str = "approle",
    ) -> None:
        # Before anything is raised, whose traceback shows the arguments as they are by then.
        secret_id, no_secret = masked(secret_id)
        given: object = role_id
        if not isinstance(given, str) or not given.strip():
            raise ConfigurationError("AppRoleAuth: the role_id must be a str that is not empty")
        if no_secret:
            raise ConfigurationError(
                f"AppRoleAuth: the secret_id {no_secret}; a role that asks for none "
                "(bind_secret_id=false) gets None"
            )
        if secret_id is not None and secret_id_file is not None:
            raise ConfigurationError("AppRoleAuth takes a secret_id or a file with it, not both")
        if wrapped and secret_id is None and secret_id_file is None:
            raise ConfigurationError(
                "AppRoleAuth(wrapped=True) takes a wrapping token as secret_id, or a file with it"
            )
        self._role_id = role_id
        self._secret_id = secret_id
        self._secret_id_file = file_path(secret_id_file)
        self._wrapped = wrapped
        self._mount = checked_auth_mount(mount)
        # Several providers may share this; a wrapping token opens once.
        self._unwrapping = threading.Lock()
        self._unwrapped: tuple[Secret, Secret] | None = None
        register(self)

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Log in with the role id and the secret id."""
        secret_id = self._secret_id
        if self._secret_id_file is not None:
            what = "a wrapping token" if self._wrapped else "an AppRole secret id"
            secret_id = read_secret(self._secret_id_file, what)
        if self._wrapped and secret_id is not None:
            secret_id = self._unwrap(client, secret_id)
        requested_at = clock.now()
        reply = client.login(
            lambda vault: vault.auth.approle.login(
                self._role_id,
                None if secret_id is None else secret_id.reveal(),
                use_token=False,
                mount_point=self._mount,
            ),
            f"an AppRole login at auth/{self._mount}",
            hint="check the mount, the role id and whether the secret id is expired or used up",
            secrets=() if secret_id is None else (secret_id,),
        )
        return Token.from_login(reply, requested_at)

    def _unwrap(self, client: VaultClient, wrapping: Secret) -> Secret:
        with self._unwrapping:
            if self._unwrapped is None or self._unwrapped[0] != wrapping:
                self._unwrapped = (wrapping, client.unwrap_secret_id(wrapping))
            return self._unwrapped[1]

    def _after_fork(self) -> None:
        self._unwrapping = threading.Lock()
