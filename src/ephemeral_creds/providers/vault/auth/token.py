"""Tokens that others obtain: an operator's, or a Vault Agent's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.inputs import as_secret, file_path, read_secret
from ephemeral_creds.providers.vault.auth.base import AuthMethod, Token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["AgentAuth", "TokenAuth"]

# Where the vault command keeps the token of `vault login`.
_TOKEN_FILE = "~/.vault-token"  # noqa: S105 - a path


class TokenAuth(AuthMethod):
    """A token that others made: an operator, or a Vault Agent's sink file.

    It is renewed where possible, and never revoked.

    Args:
        token: the token. ``None`` means to look, at each login, at `path` if that is given, else
            at ``VAULT_TOKEN``, ``BAO_TOKEN`` and ``~/.vault-token``, in this order.
        path: a file to read the token from.
        environ: the environment to look at.

    Raises:
        ConfigurationError: both are given, or the token is empty or not a string.
    """

    _shown: ClassVar[tuple[str, ...]] = ("token", "path")

    def __init__(
        self,
        token: str | Secret | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        token, problem = as_secret(token)
        if problem:
            # An empty token would let a local agent, if there is one, add its own.
            raise ConfigurationError(f"TokenAuth: the token {problem}")
        if token is not None and path is not None:
            raise ConfigurationError("TokenAuth takes a token or a path to one, not both")
        self._token = token
        self._path = file_path(path)
        self._environ = environ

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Find the token and ask Vault for its TTL; costs one use of a limited token."""
        return _look_up(self._find(), client, clock)

    def _find(self) -> Secret:
        if self._token is not None:
            return self._token
        if self._path is not None:
            return read_secret(self._path, "a Vault token")
        for name in ("VAULT_TOKEN", "BAO_TOKEN"):
            if self._environ.get(name, "").strip():
                return Secret(self._environ[name].strip())
        path = Path(_TOKEN_FILE).expanduser()
        if not path.exists():
            raise ConfigurationError(
                f"there is no Vault token: TokenAuth was given none, neither VAULT_TOKEN nor "
                f"BAO_TOKEN is set, and there is no {path}"
            )
        return read_secret(path, "a Vault token")


class AgentAuth(AuthMethod):
    """The token of the Vault Agent or Vault Proxy at the configured address.

    It has to add its own token to requests that have none (``use_auto_auth_token`` in its
    ``api_proxy`` stanza), and usually listens on a socket: ``unix:///run/vault.sock``. See
    https://developer.hashicorp.com/vault/docs/agent-and-proxy/proxy/apiproxy.
    """

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Ask for the TTL of the agent's token, which is renewed as needed and never revoked."""
        return _look_up(Secret(""), client, clock)


def _look_up(value: Secret, client: VaultClient, clock: Clock) -> Token:
    requested_at = clock.now()
    return Token.of(value, client.lookup_self(value), requested_at, ours=False)
