"""The contract of an auth method, and the token that a login returns.

To add an auth method, subclass `MountedAuth`: read the proof of identity at each login, wrap
it in `Secret` at once, and return it from `_fields`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds.providers.vault.inputs import validate_auth_mount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.client import VaultClient
    from ephemeral_creds.providers.vault.http.parse import TokenInfo

__all__ = ["AuthMethod", "MountedAuth", "Token"]


@dataclass(frozen=True, slots=True)
class Token:
    """A Vault token and its life; no lease made under it lives longer.

    See https://developer.hashicorp.com/vault/docs/concepts/tokens.

    Attributes:
        value: the token itself.
        requested_at: the instant at which the request was sent whose reply gave the TTL.
        ttl: seconds from then; ``inf`` for one that never expires.
        renewable: whether Vault extends it.
        revocable: whether we may revoke it: we logged in for it, and it is a service token.
        uses: how many requests it is good for; 0 means any number.
        period: seconds that each renewal gives it without a maximum; 0 if it is not periodic, or
            not known to be.
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
        """The instant at which it expires, and all leases made under it."""
        return self.requested_at + self.ttl

    @classmethod
    def of(cls, value: Secret, info: TokenInfo, requested_at: float, *, ours: bool) -> Token:
        """Return the token that `info` describes; `ours` if we logged in for it."""
        return cls(
            value,
            requested_at,
            info.ttl,
            # Batch tokens are neither renewable nor revocable, whatever the reply says.
            renewable=info.renewable and info.service,
            revocable=ours and info.service,
            uses=info.uses,
            period=info.period,
        )


class AuthMethod(ABC):
    """A way to log in to Vault.

    Holds no token and no connection, so one instance may serve several providers.
    """

    _shown: ClassVar[tuple[str, ...]] = ()
    """The arguments that `repr` shows; each is an attribute with an underscore in front."""

    @abstractmethod
    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Prove our identity and return a token.

        Raises:
            ConfigurationError: the proof of identity is missing, or the role does not exist.
            AccessDenied: Vault does not accept the proof.
            ProviderUnavailable: Vault does not answer.
            MalformedResponse: the reply is not Vault's.
        """

    def __repr__(self) -> str:
        # Tools that report an error of the constructor may print a half-made object.
        made = vars(self)
        shown = [f"{name}={_text(made[f'_{name}'])}" for name in self._shown if f"_{name}" in made]
        return f"{type(self).__name__}({', '.join(shown)})"


class MountedAuth(AuthMethod):
    """An auth method that logs in by one request to its mount.

    Args:
        role: the role or user that is logged in as; may be empty.
        mount: where the auth method is mounted.
    """

    _kind: ClassVar[str]
    """What messages call a login: ``an AppRole login``."""
    _check: ClassVar[str]
    """Where to look if Vault refuses, after the mount."""

    def __init__(self, role: str, mount: str) -> None:
        self._role = role
        self._mount = validate_auth_mount(mount)

    @abstractmethod
    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        """Return the body of the request; each `Secret` is revealed where no exception gets out."""

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Read the proof of identity and log in with it."""
        fields = self._fields(client)
        requested_at = clock.now()
        info = client.login(
            f"auth/{self._mount}",
            self._login_path(),
            fields,
            what=f"{self._what()} at auth/{self._mount}",
            check=f"check the mount, {self._check}",
            role=self._role,
        )
        return Token.of(info.value, info, requested_at, ours=True)

    def _what(self) -> str:
        return self._kind + (f" for role {self._role!r}" if self._role else "")

    def _login_path(self) -> str:
        return "login"


def _text(value: object) -> str:
    if callable(value):
        return "<function>"  # its own repr may hold arguments that are bound to it
    return repr(str(value) if isinstance(value, Path) else value)
