"""Logging in with a JSON Web Token that somebody else signs: a CI system, an identity provider."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.vault.auth.base import AuthMethod, Token
from ephemeral_creds.providers.vault.inputs import (
    checked_auth_mount,
    file_path,
    masked,
    read_secret,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["JWTAuth"]


class JWTAuth(AuthMethod):
    """A JSON Web Token, as GitHub, GitLab or an OpenID provider issue them.

    See https://developer.hashicorp.com/vault/docs/auth/jwt. Such tokens live for minutes, and one
    is needed at each login: give a file or a function rather than a value.

    Args:
        role: the role of the auth method; empty for its ``default_role``.
        jwt: the token, or a function that returns one and is called at each login, on the keeper's
            thread; not an async one.
        path: a file to read it from, anew at each login.
        mount: where the auth method is mounted.

    Raises:
        ConfigurationError: not exactly one of `jwt` and `path` is given, or `jwt` is empty, or
            neither a string nor a function that is not async.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "jwt", "path", "mount")

    def __init__(
        self,
        role: str,
        jwt: str | Secret | Callable[[], str | Secret] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        mount: str = "jwt",
    ) -> None:
        function = jwt if callable(jwt) else None
        # Before anything is raised, whose traceback shows the arguments as they are by then.
        jwt, wrong = masked(None if function else jwt)
        if wrong:
            raise ConfigurationError(f"JWTAuth: the jwt {wrong}")
        if [jwt, function, path].count(None) != 2:
            raise ConfigurationError(
                "JWTAuth takes a jwt (or a function that returns one) or a path to one: give one "
                "of them"
            )
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                "JWTAuth: the function is async, but is called on a thread without an event loop: "
                "give one that is not"
            )
        self._role = role
        self._jwt = function or jwt
        self._path = file_path(path)
        self._mount = checked_auth_mount(mount)

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
        asked = "the function that JWTAuth was given"
        try:
            made = self._jwt()
        except EphemeralCredsError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a caller's function
            return ConfigurationError(f"{asked} failed with {type(error).__name__}")
        if inspect.iscoroutine(made):
            made.close()  # else it would be complained that nobody awaits it
        jwt, wrong = masked(made)
        if wrong and jwt is None:
            return ConfigurationError(f"{asked} returned a {type(made).__name__}: it {wrong}")
        return (
            jwt
            if jwt is not None and not wrong
            else ConfigurationError(f"{asked} returned no token")
        )
