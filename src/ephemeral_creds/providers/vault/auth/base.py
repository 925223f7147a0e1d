"""Ways to prove to Vault who we are, and the token that it gives for that.

To add a way, subclass `AuthMethod`: read what proves the identity anew at each login, wrap it in
`Secret` at once, and let `VaultClient.login` run one of hvac's auth methods.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.vault.inputs import (
    checked_auth_mount,
    file_path,
    masked,
    read_secret,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.http.client import VaultClient
    from ephemeral_creds.providers.vault.http.parse import TokenInfo

__all__ = ["AgentAuth", "AuthMethod", "KubernetesAuth", "Token", "TokenAuth"]

# Where the vault command keeps the token of `vault login`.
_TOKEN_FILE = "~/.vault-token"  # noqa: S105 - a path
# Where Kubernetes projects a pod's service account token.
_JWT_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"


@dataclass(frozen=True, slots=True)
class Token:
    """A Vault token and how long it lives; no lease made under it lives longer.

    See https://developer.hashicorp.com/vault/docs/concepts/tokens.

    Attributes:
        value: the token itself.
        requested_at: the instant at which the request that told its time to live was sent.
        ttl: seconds from then; ``inf`` for one that never expires.
        renewable: whether Vault would extend it.
        revocable: whether we may revoke it: we logged in for it, and it is a service token. A
            token that somebody gave us is theirs.
        uses: how many requests it is good for; 0 means any number.
        period: seconds that each renewal gives it, for ever; 0 if it is not, or not known to be,
            periodic.
    """

    value: Secret
    requested_at: float
    ttl: float = math.inf
    renewable: bool = False
    revocable: bool = False
    uses: int = 0
    period: float = 0.0

    @property
    def expires_at(self) -> float:
        """The instant at which it dies, and all leases made under it."""
        return self.requested_at + self.ttl

    @classmethod
    def from_login(cls, reply: TokenInfo, requested_at: float) -> Token:
        """Return the token that a login at `requested_at` brought."""
        return cls(
            reply.value,
            requested_at,
            reply.ttl,
            # Batch tokens are neither renewable nor revocable, whatever the answer says.
            renewable=reply.renewable and reply.service,
            revocable=reply.service,
            uses=reply.uses,
        )


class AuthMethod(ABC):
    """One way to log in to Vault.

    Holds no token and no connection, so one instance may serve several providers.
    """

    _shown: ClassVar[tuple[str, ...]] = ()
    """The arguments that `repr` shows; each is an attribute with an underscore in front."""

    @abstractmethod
    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Prove who we are and return a token.

        Raises:
            ConfigurationError: what proves the identity is missing, or names no role.
            AccessDenied: Vault does not accept it.
            ProviderUnavailable: Vault does not answer.
            MalformedResponse: something else than Vault answers.
        """

    def __repr__(self) -> str:
        # What reports an error of the constructor may look at what it left behind.
        made = vars(self)
        shown = [f"{name}={_text(made[f'_{name}'])}" for name in self._shown if f"_{name}" in made]
        return f"{type(self).__name__}({', '.join(shown)})"


def _text(value: object) -> str:
    if callable(value):
        return "<function>"  # whose own text may hold arguments that are bound to it
    return repr(str(value) if isinstance(value, Path) else value)


class TokenAuth(AuthMethod):
    """A token that somebody else made: an operator, or a Vault Agent's sink file.

    It is renewed where it can be, and never revoked.

    Args:
        token: the token. ``None`` means to look, at each login, at `path` if that is given, else
            at ``VAULT_TOKEN``, ``BAO_TOKEN`` and ``~/.vault-token``, in this order.
        path: a file to read the token from.
        environ: the environment to look at.

    Raises:
        ConfigurationError: both are given, or the token is empty or no string.
    """

    _shown: ClassVar[tuple[str, ...]] = ("token", "path")

    def __init__(
        self,
        token: str | Secret | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        token, wrong = masked(token)
        if wrong:
            # Without one, what would be asked is an agent next door, if there is one, as itself.
            raise ConfigurationError(f"TokenAuth: the token {wrong}")
        if token is not None and path is not None:
            raise ConfigurationError("TokenAuth takes a token or a path to one, not both")
        self._token = token
        self._path = file_path(path)
        self._environ = environ

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Find the token and ask Vault how long it lives; costs one use of a limited token."""
        return _looked_up(self._find(), client, clock)

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
    """The token of the Vault Agent or Vault Proxy that the address leads to.

    It has to add its own token to requests that have none (``use_auto_auth_token`` in its
    ``api_proxy`` stanza), and is usually listening on a socket: ``unix:///run/vault.sock``. See
    https://developer.hashicorp.com/vault/docs/agent-and-proxy/proxy/apiproxy.
    """

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Ask how long the agent's token lives; it is renewed as needed, and never revoked."""
        return _looked_up(Secret(""), client, clock)


def _looked_up(value: Secret, client: VaultClient, clock: Clock) -> Token:
    """Return a token that is somebody else's, with what Vault says about it."""
    requested_at = clock.now()
    reply = client.lookup_self(value)
    return Token(
        value,
        requested_at,
        reply.ttl,
        renewable=reply.renewable and reply.service,
        uses=reply.uses,
        period=reply.period,
    )


class KubernetesAuth(AuthMethod):
    """A pod's service account.

    See https://developer.hashicorp.com/vault/docs/auth/kubernetes.

    Args:
        role: the role of the auth method.
        jwt_path: the service account's token. Kubernetes replaces it about once an hour, so it is
            read anew at each login.
        mount: where the auth method is mounted.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "jwt_path", "mount")

    def __init__(
        self, role: str, *, jwt_path: str | os.PathLike[str] = _JWT_FILE, mount: str = "kubernetes"
    ) -> None:
        self._role = role
        self._jwt_path = Path(jwt_path).expanduser()
        self._mount = checked_auth_mount(mount)

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Log in with the service account's token of this moment."""
        jwt = read_secret(
            self._jwt_path,
            "a service account's token",
            hint=(
                "set jwt_path, or automountServiceAccountToken in the pod's spec; outside of "
                "Kubernetes use another auth method"
            ),
        )
        requested_at = clock.now()
        reply = client.login(
            lambda vault: vault.auth.kubernetes.login(
                self._role, jwt.reveal(), use_token=False, mount_point=self._mount
            ),
            f"a Kubernetes login for role {self._role!r} at auth/{self._mount}",
            hint=(
                "check the mount, the role, and that the role is bound to this pod's namespace "
                "and service account"
            ),
            secrets=(jwt,),
            role=self._role,
        )
        return Token.from_login(reply, requested_at)
