"""Logging in with a JSON Web Token that somebody else signs: a CI system, an identity provider."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.vault._inputs import as_secret, checked_path, read_secret
from ephemeral_creds.providers.vault.auth import AuthMethod, Token, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.client import VaultClient

__all__ = ["JWTAuth"]


class JWTAuth(AuthMethod):
    """A JSON Web Token, as GitHub, GitLab or an OpenID provider issue them.

    See https://developer.hashicorp.com/vault/docs/auth/jwt. Such tokens live for minutes, and one
    is needed at each login: give a file or a function rather than a value.

    Args:
        role: the role of the auth method; empty for its ``default_role``.
        jwt: the token, or a function that returns one and is called at each login, on the keeper's
            thread.
        path: a file to read it from, anew at each login.
        mount: where the auth method is mounted.

    Raises:
        ConfigurationError: not exactly one of `jwt` and `path` is given.
    """

    def __init__(
        self,
        role: str,
        jwt: str | Secret | Callable[[], str | Secret] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        mount: str = "jwt",
    ) -> None:
        if (jwt is None) == (path is None):
            raise ConfigurationError(
                "JWTAuth takes a jwt (or a function that returns one) or a path to one: give one "
                "of them"
            )
        self._role = role
        self._jwt = jwt if callable(jwt) else as_secret(jwt)
        self._path = None if path is None else Path(path).expanduser()
        self._mount = checked_path(mount, "mount of an auth method")

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Log in with the token of this moment."""
        jwt = self._find()
        if isinstance(jwt, EphemeralCredsError):
            raise jwt
        requested_at = clock.now()
        reply = client.login(
            lambda vault: vault.auth.jwt.jwt_login(
                self._role, jwt.reveal(), use_token=False, path=self._mount
            ),
            f"a JWT login for role {self._role!r} at auth/{self._mount}",
            hint=(
                "check the mount, the role, its bound_audiences, bound_subject and bound_claims, "
                "and that the token has not expired"
            ),
            secrets=(jwt,),
            role=self._role,
        )
        return Token.from_login(reply, requested_at)

    def _find(self) -> Secret | EphemeralCredsError:
        """Return the token, or what is wrong: a function of the user's may raise anything."""
        if self._path is not None:
            return read_secret(self._path, "a JSON Web Token")
        if not callable(self._jwt):
            return self._jwt or ConfigurationError("JWTAuth: the jwt is empty")
        try:
            jwt = as_secret(self._jwt())
        except EphemeralCredsError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a caller's function
            return ConfigurationError(
                f"the function that JWTAuth was given failed with {type(error).__name__}"
            )
        return jwt or ConfigurationError("the function that JWTAuth was given returned no token")

    def __repr__(self) -> str:
        given = "<function>" if callable(self._jwt) else repr(self._jwt)
        return (
            f"JWTAuth({self._role!r}, jwt={given}, path={shown(self._path)}, mount={self._mount!r})"
        )
