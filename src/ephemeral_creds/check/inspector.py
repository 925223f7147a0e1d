"""Read-only queries to Vault about its nodes, a provider's token and its role."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from ephemeral_creds.providers.vault.http.client import VaultClient
from ephemeral_creds.providers.vault.http.parse import Malformed, engine_version, lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds.providers.vault import VaultConfig, VaultProvider

__all__ = ["Health", "Inspector", "RoleFacts", "StaticRoleFacts", "TokenFacts", "parse_health"]

# A health request changes nothing, and a node that can answer does so within milliseconds.
_HEALTH_TIMEOUT = 10.0
# A node's state is in the body as well as in the status; with this status hvac returns the body.
_STATES = ("active", "standby", "dr_secondary", "performance_standby", "sealed", "uninit")
_CODES = {f"{state}_code": 200 for state in _STATES}
_DEFAULT_POLICY = "the policy 'default' allows it: do not disable that policy"


@dataclass(frozen=True, slots=True)
class Health:
    """What a node says about itself.

    OpenBao leaves `enterprise` out; it counts as true there, since it knows namespaces. `program`
    is Vault or OpenBao. `time` is Unix time in whole seconds, ``None`` if the node does not say.
    """

    initialized: bool
    sealed: bool
    standby: bool
    enterprise: bool
    program: str
    version: str
    time: float | None


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token is; `ttl` is in seconds, ``inf`` for one that never expires."""

    ttl: float
    renewable: bool
    service: bool
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """How a role is defined: its database connection, its times, and its statements.

    Durations are in seconds, and 0 means the mount's default. `renewal` is empty for Vault's own.
    """

    connection: str
    default_ttl: float
    max_ttl: float
    creation: tuple[str, ...]
    renewal: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StaticRoleFacts:
    """How a static role is defined: as `RoleFacts`, with `period` or, like cron's, `schedule`."""

    connection: str
    username: str
    period: float
    schedule: str
    rotation: tuple[str, ...]


class Inspector:
    """Asks Vault about itself, the token and the role of one provider.

    Its methods raise what the provider's own do. `login` logs the provider in, so that its
    next requests use the same token.
    """

    def __init__(self, provider: VaultProvider) -> None:
        self._provider = provider
        self._static = not provider.mints
        self.config = provider.config
        self.mount = provider.mount
        self.role = provider.role

    @property
    def creds_path(self) -> str:
        """The path that credentials are read from."""
        return self._provider.path

    @property
    def roles_path(self) -> str:
        """The path that roles are defined below."""
        return f"{self.mount}/{'static-roles' if self._static else 'roles'}"

    def weaknesses(self, address: str) -> tuple[str, ...]:
        """Say why a connection to one of the addresses may be intercepted."""
        return self._only(address).weaknesses

    def health(self, address: str) -> Health:
        """Ask one of the addresses whether Vault is there, and in which state; without a token."""
        config = self._only(address)
        config = replace(config, read_timeout=min(config.read_timeout, _HEALTH_TIMEOUT))
        with contextlib.closing(VaultClient(config)) as client:
            return client.ask(
                lambda vault: vault.sys.read_health_status(method="GET", **_CODES),
                "its health",
                parse_health,
            )

    def login(self) -> TokenFacts:
        """Log the provider in and return what its token is."""
        return self._provider.query(
            lambda vault: vault.auth.token.lookup_self(),
            "a look at the token",
            _parse_token,
            login=True,
            denied=_DEFAULT_POLICY,
        )

    def engine_version(self) -> int:
        """Return the version of the key-value engine at the mount, 0 if it is of another kind."""
        return self._provider.query(
            lambda vault: vault.adapter.get(f"/v1/sys/internal/ui/mounts/{quote(self.mount)}"),
            f"the kind of engine at {self.mount}",
            engine_version,
            denied="the token has no right below this mount",
        )

    def capabilities(self, paths: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return what the token may do on each path."""
        return self._provider.query(
            lambda vault: vault.sys.get_capabilities(list(paths)),
            "what the token may do",
            lambda body: {path: frozenset(_strings(_data(body), path)) for path in paths},
            denied=_DEFAULT_POLICY,
        )

    def definition(self) -> RoleFacts | StaticRoleFacts | None:
        """Return how the role is defined, if the token may read that.

        Returns:
            The definition; ``None`` if the engine is not a database secrets engine.

        Raises:
            AccessDenied: the token may not, as is usual.
            ConfigurationError: there is no such role.
        """
        return self._provider.query(
            lambda vault: (
                vault.secrets.database.read_static_role
                if self._static
                else vault.secrets.database.read_role
            )(self.role, mount_point=self.mount),
            f"the definition of the role at {self.roles_path}/{self.role}",
            _parse_static_role if self._static else _parse_role,
            missing=f"there is no role {self.role!r} in the engine at {self.mount!r}",
        )

    def allowed_roles(self, connection: str) -> tuple[str, ...]:
        """Return the roles that a connection allows, if the token may read that."""
        return self._provider.query(
            lambda vault: vault.secrets.database.read_connection(
                connection, mount_point=self.mount
            ),
            f"the connection at {self.mount}/config/{connection}",
            lambda body: _strings(_data(body), "allowed_roles"),
            missing=f"there is no connection {connection!r} in the engine at {self.mount!r}",
        )

    def _only(self, address: str) -> VaultConfig:
        return replace(self.config, address=address)


def parse_health(body: Mapping[str, object]) -> Health:
    """Return what a node's answer says; raises `Malformed` if that is no answer of Vault's."""
    if not isinstance(body.get("sealed"), bool):
        raise Malformed("no 'sealed' in the reply")
    time, version = body.get("server_time_utc"), str(body.get("version") or "")
    # OpenBao's versions begin with 2.0, Vault's field with 1.16.
    is_openbao = "enterprise" not in body and bool(re.match(r"[2-9]|[1-9]\d", version))
    return Health(
        initialized=body.get("initialized") is True,
        sealed=body.get("sealed") is True,
        standby=body.get("standby") is True,
        enterprise=body.get("enterprise") is not False,
        program="OpenBao" if is_openbao else "Vault",
        version=version or "of unknown version",
        time=float(time) if isinstance(time, int | float) else None,
    )


def _parse_token(body: Mapping[str, object]) -> TokenFacts:
    reply = lookup(body)
    return TokenFacts(reply.ttl, reply.renewable, reply.service, _strings(_data(body), "policies"))


def _parse_role(body: Mapping[str, object]) -> RoleFacts | None:
    data = _data(body)
    if "db_name" not in data:
        return None
    return RoleFacts(
        connection=_text(data, "db_name"),
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
        connection=_text(data, "db_name"),
        username=_text(data, "username"),
        period=_number(data, "rotation_period"),
        schedule=_text(data, "rotation_schedule"),
        rotation=_strings(data, "rotation_statements"),
    )


def _data(body: Mapping[str, object]) -> Mapping[str, object]:
    data = body.get("data")
    if not isinstance(data, Mapping):
        raise Malformed("no 'data'")
    return data


def _text(data: Mapping[str, object], key: str) -> str:
    return str(data.get(key) or "")


def _strings(data: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = data.get(key)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _number(data: Mapping[str, object], key: str) -> float:
    value = data.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
