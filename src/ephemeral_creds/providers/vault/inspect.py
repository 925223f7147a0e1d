"""What a provider could do in Vault, looked at without doing it: for diagnosis only."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from ephemeral_creds.providers.vault import facts as _facts
from ephemeral_creds.providers.vault.http.client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import hvac

    from ephemeral_creds._values import Grant
    from ephemeral_creds.providers.vault.config import VaultConfig
    from ephemeral_creds.providers.vault.facts import (
        Health,
        RoleFacts,
        StaticRoleFacts,
        TokenFacts,
    )
    from ephemeral_creds.providers.vault.tokens import Tokens

__all__ = ["Inspector"]

# With which status a node answers says what it is; what is in the body says the same, and this
# way it is a success like any other.
_HEALTHY = 200
# Nothing is changed by giving up, and a node that can answer does so within milliseconds.
_HEALTH_TIMEOUT = 10.0


class Inspector:
    """Asks Vault about itself, the token and the role of one provider.

    Its methods raise what the provider's own do. None mints or changes anything; `login` logs
    the provider in, so that what it does next goes under the same token.

    Args:
        config: how to reach Vault.
        mount: where the secrets engine is mounted.
        role: the role.
        static: whether it is a static role.
        exclusive: lends the provider's tokens.
    """

    def __init__(
        self,
        config: VaultConfig,
        mount: str,
        role: str,
        *,
        static: bool,
        exclusive: Callable[[], AbstractContextManager[Tokens]],
    ) -> None:
        self.config = config
        self.mount = mount
        self.role = role
        self._static = static
        self._exclusive = exclusive

    @property
    def creds_path(self) -> str:
        """The path that credentials are read from."""
        return f"{self.mount}/{'static-creds' if self._static else 'creds'}/{self.role}"

    def weaknesses(self, address: str) -> tuple[str, ...]:
        """Say what makes it easy to listen in on one of the addresses."""
        return self._only(address).weaknesses

    def health(self, address: str) -> Health:
        """Ask whether Vault is there, at one of its addresses, and in which state.

        Needs no token.
        """
        config = self._only(address)
        config = replace(config, read_timeout=min(config.read_timeout, _HEALTH_TIMEOUT))
        with contextlib.closing(VaultClient(config)) as client:
            return client.ask(
                lambda vault: vault.sys.read_health_status(
                    method="GET",
                    active_code=_HEALTHY,
                    standby_code=_HEALTHY,
                    dr_secondary_code=_HEALTHY,
                    performance_standby_code=_HEALTHY,
                    sealed_code=_HEALTHY,
                    uninit_code=_HEALTHY,
                ),
                "its health",
                _facts.parse_health,
            )

    def _only(self, address: str) -> VaultConfig:
        return replace(self.config, address=address)

    def login(self) -> TokenFacts:
        """Log the provider in and return what its token is."""
        with self._exclusive() as tokens:
            session = tokens.login()
            return tokens.client.ask(
                lambda vault: vault.auth.token.lookup_self(),
                "a look at the token",
                _facts.parse_token,
                token=session.token.value,
                namespace=self.config.login_namespace,
                denied="the policy 'default' allows it: do not leave it out",
            )

    def capabilities(self, paths: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return what the token may do on each path."""
        with self._exclusive() as tokens:
            session, _ = tokens.obtain(None)
            return tokens.client.ask(
                lambda vault: vault.sys.get_capabilities(list(paths)),
                "what the token may do",
                lambda body: _facts.parse_capabilities(body, paths),
                token=session.token.value,
                namespace=self.config.namespace,
                denied="the policy 'default' allows it: do not leave it out",
            )

    def definition(self) -> RoleFacts | StaticRoleFacts | None:
        """Return how the role is defined, where the token may read that.

        Returns:
            What is known; ``None`` where another engine than a database's defines it.

        Raises:
            AccessDenied: the token may not, as a rule.
            ConfigurationError: there is no such role.
        """
        kind = "static-roles" if self._static else "roles"

        def read(vault: hvac.Client) -> object:
            database = vault.secrets.database
            look = database.read_static_role if self._static else database.read_role
            return look(self.role, mount_point=self.mount)

        with self._exclusive() as tokens:
            session, _ = tokens.obtain(None)
            return tokens.client.ask(
                read,
                f"the definition of the role at {self.mount}/{kind}/{self.role}",
                _facts.parse_static_role if self._static else _facts.parse_role,
                token=session.token.value,
                namespace=self.config.namespace,
                missing=f"there is no role {self.role!r} in the engine at {self.mount!r}",
            )

    def allowed_roles(self, connection: str) -> tuple[str, ...]:
        """Return the roles that a connection allows, where the token may read that."""
        with self._exclusive() as tokens:
            session, _ = tokens.obtain(None)
            return tokens.client.ask(
                lambda vault: vault.secrets.database.read_connection(
                    connection, mount_point=self.mount
                ),
                f"the connection at {self.mount}/config/{connection}",
                _facts.parse_connection,
                token=session.token.value,
                namespace=self.config.namespace,
                missing=f"there is no connection {connection!r} in the engine at {self.mount!r}",
            )

    def lease_duration(self, grant: Grant) -> float:
        """Return the seconds that Vault gave a grant's lease, however long its token lives."""
        asked = getattr(grant.origin, "asked", None)
        return float(asked) if asked is not None else grant.lease.duration
