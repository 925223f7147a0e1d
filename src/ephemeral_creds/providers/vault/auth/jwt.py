"""Logging in with a JSON Web Token: a pod's, a CI system's or an identity provider's."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.inputs import as_secret, file_path, read_secret
from ephemeral_creds.providers.vault.auth.base import MountedAuth

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["JWTAuth", "KubernetesAuth"]

# Where Kubernetes projects a pod's service account token.
_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"


class KubernetesAuth(MountedAuth):
    """A pod's service account.

    See https://developer.hashicorp.com/vault/docs/auth/kubernetes.

    Args:
        role: the role of the auth method.
        jwt_path: the service account's token. Kubernetes replaces it about once an hour, so it is
            read at each login.
        mount: where the auth method is mounted.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "jwt_path", "mount")
    _kind: ClassVar[str] = "a Kubernetes login"
    _check: ClassVar[str] = (
        "the role, and that the role is bound to this pod's namespace and service account"
    )

    def __init__(
        self,
        role: str,
        *,
        jwt_path: str | os.PathLike[str] = _SERVICE_ACCOUNT,
        mount: str = "kubernetes",
    ) -> None:
        super().__init__(role, mount)
        self._jwt_path = Path(jwt_path).expanduser()

    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        del client
        hint = (
            "set jwt_path, or automountServiceAccountToken in the pod's spec; outside of "
            "Kubernetes use another auth method"
        )
        jwt = read_secret(self._jwt_path, "a service account's token", hint=hint)
        return {"role": self._role, "jwt": jwt}


class JWTAuth(MountedAuth):
    """A JSON Web Token, as GitHub, GitLab or an OpenID provider issue them.

    See https://developer.hashicorp.com/vault/docs/auth/jwt. Such tokens live for minutes, and each
    login needs a valid one: give a file or a function rather than a value.

    Args:
        role: the role of the auth method; empty for its ``default_role``.
        jwt: the token, or a function that returns one and is called at each login, on the keeper's
            thread; not an async one.
        path: a file to read it from at each login.
        mount: where the auth method is mounted.

    Raises:
        ConfigurationError: not exactly one of `jwt` and `path` is given, or `jwt` is empty, or
            neither a string nor a function, or an async function.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "jwt", "path", "mount")
    _kind: ClassVar[str] = "a JWT login"
    _check: ClassVar[str] = (
        "the role, its bound_audiences, bound_subject and bound_claims, and that the token has not "
        "expired"
    )

    def __init__(
        self,
        role: str,
        jwt: str | Secret | Callable[[], str | Secret] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        mount: str = "jwt",
    ) -> None:
        function = jwt if callable(jwt) else None
        # Before anything is raised: a traceback shows the arguments as they are by then.
        jwt, problem = as_secret(None if function else jwt)
        if problem:
            raise ConfigurationError(f"JWTAuth: the jwt {problem}")
        if [jwt, function, path].count(None) != 2:
            raise ConfigurationError(
                "JWTAuth takes a jwt (or a function that returns one) or a path to one: give one "
                "of them"
            )
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                "JWTAuth: the function is async, but is called on a thread without an event loop: "
                "give a plain function"
            )
        super().__init__(role, mount)
        self._jwt = function or jwt
        self._path = file_path(path)

    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        del client
        return {"role": self._role, "jwt": value_of(self._find())}

    def _find(self) -> Secret | EphemeralCredsError:
        """Return the token, or the error: a function of the user's may raise anything."""
        if self._path is not None:
            return read_secret(self._path, "a JSON Web Token")
        if not callable(self._jwt):
            return self._jwt or ConfigurationError("JWTAuth: the jwt is empty")
        function = "the function that JWTAuth was given"
        try:
            made = self._jwt()
        except EphemeralCredsError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a caller's function
            return ConfigurationError(f"{function} failed with {type(error).__name__}")
        if inspect.iscoroutine(made):
            made.close()  # else Python warns that it was never awaited
        jwt, problem = as_secret(made)
        if jwt is None and problem:
            return ConfigurationError(f"{function} returned a {type(made).__name__}: it {problem}")
        if jwt is None or problem:
            return ConfigurationError(f"{function} returned no token")
        return jwt
