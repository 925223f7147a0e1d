"""What Vault says about itself, a token and a role, as far as a diagnosis needs it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds.providers.vault.http.parse import Malformed, parse_lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Health",
    "RoleFacts",
    "StaticRoleFacts",
    "TokenFacts",
    "parse_capabilities",
    "parse_connection",
    "parse_health",
    "parse_role",
    "parse_static_role",
    "parse_token",
]


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


def parse_health(body: Mapping[str, object]) -> Health:
    """Read ``sys/health``."""
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


def parse_token(body: Mapping[str, object]) -> TokenFacts:
    """Read a token's own page."""
    reply = parse_lookup(body)
    return TokenFacts(reply.ttl, reply.renewable, reply.service, _strings(_data(body), "policies"))


def parse_capabilities(
    body: Mapping[str, object], paths: Sequence[str]
) -> Mapping[str, frozenset[str]]:
    """Read what a token may do with each of `paths`."""
    data = _data(body)
    return {path: frozenset(_strings(data, path)) for path in paths}


def parse_role(body: Mapping[str, object]) -> RoleFacts | None:
    """Read the definition of a role; ``None`` where it is none of a database."""
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


def parse_static_role(body: Mapping[str, object]) -> StaticRoleFacts | None:
    """Read the definition of a static role; ``None`` where it is none of a database."""
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


def parse_connection(body: Mapping[str, object]) -> tuple[str, ...]:
    """Read which roles a database connection serves."""
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
