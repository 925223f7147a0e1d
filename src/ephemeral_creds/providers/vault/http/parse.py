"""The bodies of Vault's replies, checked, with their secrets wrapped.

Each function raises `Malformed` if a body is not what Vault's API documentation promises. They
run where no exception gets out, since bodies hold secrets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.providers.formats.ends import duration, instant

if TYPE_CHECKING:
    from ephemeral_creds.exceptions import EphemeralCredsError
    from ephemeral_creds.providers.fields import SecretFields

__all__ = [
    "FieldNames",
    "Malformed",
    "Renewal",
    "RoleCredentials",
    "StoredSecret",
    "TokenInfo",
    "absent_version",
    "engine_version",
    "lease_renewal",
    "login",
    "lookup",
    "minted_credentials",
    "nothing",
    "secret_id",
    "static_credentials",
    "stored_secret",
    "token_renewal",
]


class Malformed(ValueError):
    """The body lacks something; the message says what, and holds no value of it."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token, as a login or a lookup describes it.

    Attributes:
        value: the token; empty in a lookup.
        ttl: seconds until it expires; ``inf`` for one that never does.
        renewable: whether Vault extends it.
        service: whether it is a service token, which can be revoked, and not a batch token.
        uses: how many requests it is good for; 0 means any number.
        period: seconds that each renewal gives it without a maximum; 0 if it is not periodic. A
            login does not say.
        accessor: identifies the token without being one; empty for a batch token.
    """

    value: Secret
    ttl: float
    renewable: bool
    service: bool
    uses: int
    period: float = 0.0
    accessor: str = ""


@dataclass(frozen=True, slots=True)
class Renewal:
    """Seconds from now that a renewal gives, and whether another may follow."""

    duration: float
    renewable: bool


@dataclass(frozen=True, slots=True)
class FieldNames:
    """An engine's names for user name and password."""

    username: str = "username"
    password: str = "password"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True)
class RoleCredentials:
    """The credentials of a role.

    Attributes:
        username: the user name; ``None`` if the reply has no text of that name.
        password: the password; ``None`` if the reply has no text of that name.
        fields: the names of all fields, which tell the credential type.
        lease_id: the lease's id; empty for a static role.
        duration: seconds that the lease lives.
        renewable: whether Vault extends it.
        rotates_in: seconds until Vault rotates a static role's password; 0 if that is overdue,
            ``None`` if Vault does not say.
    """

    username: str | None
    password: Secret | None
    fields: tuple[str, ...]
    lease_id: str = ""
    duration: float = 0.0
    renewable: bool = False
    rotates_in: float | None = None


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret of a key-value engine.

    Attributes:
        credentials: those in it, or why they cannot be used.
        version: its version; 0 without versions.
        created_at: when that was written, in seconds since 1970; 0 without versions.
        ttl: seconds after which its writer wants it to be read again; ``inf`` if it does not say.
    """

    credentials: Credentials | EphemeralCredsError
    version: int = 0
    created_at: float = 0.0
    ttl: float = math.inf


def login(body: Mapping[str, object]) -> TokenInfo:
    """Parse the reply to a login."""
    auth = _mapping(body, "auth")
    value = _secret(auth, "client_token")
    if value is None:
        if auth.get("mfa_requirement"):
            raise Malformed("a demand for a second factor, which a service cannot give")
        raise Malformed("no 'auth.client_token'")
    ttl = _number(auth, "lease_duration")
    return TokenInfo(
        value,
        # Vault says 0 for a token that never expires.
        ttl=math.inf if ttl == 0 else max(ttl, 0.0),
        renewable=auth.get("renewable") is True,
        # Vault before 1.0 had no token_type, and no batch tokens.
        service=auth.get("token_type", "service") == "service",
        uses=int(_number(auth, "num_uses", 0.0)),
        accessor=_text(auth, "accessor") or "",
    )


def lookup(body: Mapping[str, object]) -> TokenInfo:
    """Parse the reply to a token's lookup of itself."""
    data = _mapping(body, "data")
    ttl = _number(data, "ttl")
    # A ttl of 0 means "never" only together with no expiry; else the last second is running.
    never = ttl == 0 and data.get("expire_time") is None
    return TokenInfo(
        Secret(""),
        ttl=math.inf if never else max(ttl, 0.0),
        renewable=data.get("renewable") is True,
        service=data.get("type", "service") == "service",
        uses=int(_number(data, "num_uses", 0.0)),
        period=_seconds(data, "period", 0.0),
        accessor=_text(data, "accessor") or "",
    )


def token_renewal(body: Mapping[str, object]) -> Renewal:
    """Parse the reply to a token's renewal of itself."""
    return lease_renewal(_mapping(body, "auth"))


def lease_renewal(body: Mapping[str, object]) -> Renewal:
    """Parse the reply to the renewal of a lease."""
    return Renewal(_seconds(body, "lease_duration"), body.get("renewable") is True)


def minted_credentials(body: Mapping[str, object], names: FieldNames) -> RoleCredentials:
    """Parse new credentials of a dynamic role."""
    data = _mapping(body, "data")
    lease_id = _text(body, "lease_id")
    if lease_id is None:
        raise Malformed("no 'lease_id'")
    return RoleCredentials(
        _text(data, names.username),
        _secret(data, names.password),
        tuple(sorted(data)),
        lease_id=lease_id,
        duration=_seconds(body, "lease_duration"),
        renewable=body.get("renewable") is True,
    )


def static_credentials(body: Mapping[str, object], names: FieldNames) -> RoleCredentials:
    """Parse the password of a static role."""
    data = _mapping(body, "data")
    return RoleCredentials(
        _text(data, names.username),
        _secret(data, names.password),
        tuple(sorted(data)),
        rotates_in=_seconds(data, "ttl") if data.get("ttl") is not None else None,
    )


def stored_secret(
    body: Mapping[str, object], fields: SecretFields, where: str, *, versions: bool
) -> StoredSecret:
    """Parse a secret of a key-value engine, with `versions` or without.

    Vault's name for the hint is ``ttl``, and it has no effect in Vault: a field of the secret
    without versions, and custom metadata with them.
    """
    data = _mapping(body, "data")
    if not versions:
        return StoredSecret(fields.find(data, where), ttl=_ttl(data))
    metadata = _mapping(data, "metadata")
    custom = metadata.get("custom_metadata")
    created = _text(metadata, "created_time") or ""
    return StoredSecret(
        fields.find(_mapping(data, "data"), where),
        int(_number(metadata, "version")),
        instant(created) if created else 0.0,
        _ttl(custom) if isinstance(custom, Mapping) else math.inf,
    )


def absent_version(body: Mapping[str, object]) -> str:
    """Say what the body of a 404 of a key-value engine means; empty if it does not tell."""
    data = body.get("data")
    metadata = data.get("metadata") if isinstance(data, Mapping) else None
    if isinstance(metadata, Mapping):
        number = metadata.get("version")
        version = f"version {number}" if isinstance(number, int) else "the version"
        if metadata.get("destroyed") is True:
            return f"{version} is destroyed: write a new version, or pin another one"
        if metadata.get("deletion_time"):
            return (
                f"{version} is deleted: undelete it (vault kv undelete), write a new version, or "
                "pin another one"
            )
    return ""


def engine_version(body: Mapping[str, object]) -> int:
    """Parse a mount: the version of its key-value engine, 0 if it is of another kind."""
    data = _mapping(body, "data")
    options = data.get("options")
    if data.get("type") not in ("kv", "generic"):
        return 0
    # Without options it is a mount from before there were versions.
    return 2 if isinstance(options, Mapping) and options.get("version") == "2" else 1


def secret_id(body: Mapping[str, object]) -> Secret:
    """Parse the content of a wrapping token."""
    data = body.get("data")
    found = _secret(data, "secret_id") if isinstance(data, Mapping) else None
    if found is None:
        raise Malformed("no 'data.secret_id': something else was wrapped")
    return found


def nothing(_body: Mapping[str, object]) -> None:
    """Accept any reply to a request whose reply has no content."""


def _ttl(source: Mapping[str, object]) -> float:
    value = source.get("ttl")
    return duration(str(value)) if isinstance(value, str | int) else math.inf


def _text(source: Mapping[str, object], key: str) -> str | None:
    value = source.get(key)
    return value if isinstance(value, str) and value else None


def _secret(source: Mapping[str, object], key: str) -> Secret | None:
    value = _text(source, key)
    return None if value is None else Secret(value)


def _mapping(source: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = source.get(key)
    if not isinstance(value, Mapping):
        raise Malformed(f"no {key!r}")
    return value


def _seconds(source: Mapping[str, object], key: str, default: float | None = None) -> float:
    """Return a remaining life: one that has just expired may be negative."""
    return max(_number(source, key, default), 0.0)


def _number(source: Mapping[str, object], key: str, default: float | None = None) -> float:
    value = source.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, str) and value.isdecimal():
        # Some plugins send their numbers as text.
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
        if math.isfinite(seconds):
            return seconds
    raise Malformed(f"no number of seconds as {key!r}")
