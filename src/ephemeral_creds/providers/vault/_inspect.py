"""What a provider could do in Vault, looked at without doing it: for diagnosis only."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ephemeral_creds.providers.vault._replies import Malformed, parse_lookup
from ephemeral_creds.providers.vault.client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import hvac

    from ephemeral_creds._values import Grant
    from ephemeral_creds.providers.vault._tokens import Tokens
    from ephemeral_creds.providers.vault.config import VaultConfig

__all__ = ["Health", "Inspector", "RoleFacts", "StaticRoleFacts", "TokenFacts"]

# With which status a node answers says what it is; what is in the body says the same, and this
# way it is a success like any other.
_HEALTHY = 200
# Nothing is changed by giving up, and a node that can answer does so within milliseconds.
_HEALTH_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Health:
    """What a node says about itself.

    Attributes:
        initialized: whether it has ever been set up.
        sealed: whether it can read its own storage.
        standby: whether another node is the active one.
        enterprise: whether it knows namespaces; OpenBao, which does, does not say so.
        version: its version.
        time: its clock, Unix time in whole seconds; ``None`` where it does not say.
    """

    initialized: bool
    sealed: bool
    standby: bool
    enterprise: bool
    version: str
    time: float | None


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token is.

    Attributes:
        ttl: seconds that it still lives; ``inf`` for one that never expires.
        renewable: whether Vault would extend it.
        service: whether it is a service token.
        policies: what it may do, by name.
    """

    ttl: float
    renewable: bool
    service: bool
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """How a role is defined; durations are in seconds, and 0 means the mount's default.

    Attributes:
        connection: the name of its database connection.
        default_ttl: what a lease gets at first.
        max_ttl: where renewals end.
        creation: the statements that create a role.
        renewal: those that extend it; empty for Vault's own.
    """

    connection: str
    default_ttl: float
    max_ttl: float
    creation: tuple[str, ...]
    renewal: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StaticRoleFacts:
    """How a static role is defined.

    Attributes:
        connection: the name of its database connection.
        username: the role in the database.
        period: seconds from one password to the next; 0 where there is a schedule.
        schedule: when the password changes, in the manner of cron; empty where there is a period.
        rotation: the statements that change it; empty for Vault's own.
    """

    connection: str
    username: str
    period: float
    schedule: str
    rotation: tuple[str, ...]


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
                _parse_health,
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
                _parse_token,
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
                lambda body: _parse_capabilities(body, paths),
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
                _parse_static_role if self._static else _parse_role,
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
                _parse_connection,
                token=session.token.value,
                namespace=self.config.namespace,
                missing=f"there is no connection {connection!r} in the engine at {self.mount!r}",
            )

    def lease_duration(self, grant: Grant) -> float:
        """Return the seconds that Vault gave a grant's lease, however long its token lives."""
        asked = getattr(grant.origin, "asked", None)
        return float(asked) if asked is not None else grant.lease.duration


def _parse_health(body: Mapping[str, object]) -> Health:
    if not isinstance(body.get("sealed"), bool):
        raise Malformed("nothing about being sealed or not")
    time = body.get("server_time_utc")
    return Health(
        initialized=body.get("initialized") is True,
        sealed=body.get("sealed") is True,
        standby=body.get("standby") is True,
        enterprise=body.get("enterprise") is not False,
        version=str(body.get("version") or "of unknown version"),
        time=float(time) if isinstance(time, int | float) else None,
    )


def _parse_token(body: Mapping[str, object]) -> TokenFacts:
    reply = parse_lookup(body)
    return TokenFacts(reply.ttl, reply.renewable, reply.service, _strings(_data(body), "policies"))


def _parse_capabilities(
    body: Mapping[str, object], paths: Sequence[str]
) -> Mapping[str, frozenset[str]]:
    data = _data(body)
    return {path: frozenset(_strings(data, path)) for path in paths}


def _parse_role(body: Mapping[str, object]) -> RoleFacts | None:
    data = _data(body)
    if "db_name" not in data:
        return None
    return RoleFacts(
        connection=str(data.get("db_name") or ""),
        default_ttl=_number(data, "default_ttl"),
        max_ttl=_number(data, "max_ttl"),
        creation=_strings(data, "creation_statements"),
        renewal=_strings(data, "renew_statements"),
    )


def _parse_static_role(body: Mapping[str, object]) -> StaticRoleFacts | None:
    data = _data(body)
    if "db_name" not in data:
        return None
    return StaticRoleFacts(
        connection=str(data.get("db_name") or ""),
        username=str(data.get("username") or ""),
        period=_number(data, "rotation_period"),
        schedule=str(data.get("rotation_schedule") or ""),
        rotation=_strings(data, "rotation_statements"),
    )


def _parse_connection(body: Mapping[str, object]) -> tuple[str, ...]:
    return _strings(_data(body), "allowed_roles")


def _data(body: Mapping[str, object]) -> Mapping[str, object]:
    data = body.get("data")
    if not isinstance(data, Mapping):
        raise Malformed("no 'data'")
    return data


def _strings(data: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = data.get(key)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _number(data: Mapping[str, object], key: str) -> float:
    value = data.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
