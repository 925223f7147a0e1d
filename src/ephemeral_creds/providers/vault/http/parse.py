"""What Vault's answers say, checked and with their secrets wrapped.

Each ``parse_*`` takes a JSON body and raises `Malformed` where it is not what Vault's API
documentation promises. They run where exceptions do not get out, since bodies hold secrets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ephemeral_creds._values import Secret

__all__ = [
    "FieldNames",
    "Malformed",
    "MintedCredentials",
    "Renewal",
    "StaticCredentials",
    "TokenInfo",
    "parse_creds",
    "parse_lease_renewal",
    "parse_login",
    "parse_lookup",
    "parse_nothing",
    "parse_secret_id",
    "parse_static_creds",
    "parse_token_renewal",
]


class Malformed(ValueError):
    """The body is not what was promised; the text says what is missing and holds no value."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What a login or a lookup says about a token.

    Attributes:
        value: the token; empty in a lookup, whose asker has it.
        ttl: seconds that it still lives; ``inf`` for one that never expires.
        renewable: whether Vault would extend it.
        service: whether it is a service token, which can be revoked, and not a batch token.
        uses: how many requests it is good for; 0 means any number.
        period: seconds that each renewal gives it, for ever; 0 if it is not periodic. A login
            does not say.
        accessor: what names the token without giving it away; empty for a batch token.
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
    """What a renewal grants: so many seconds from now, and whether another may follow."""

    duration: float
    renewable: bool


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What an engine calls the user name and the password."""

    username: str = "username"
    password: str = "password"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True)
class MintedCredentials:
    """Freshly minted credentials.

    Attributes:
        lease_id: the lease's name.
        duration: seconds that the lease lives.
        renewable: whether Vault would extend it.
        username: the role's name; ``None`` where the answer holds no string of that name.
        password: its password; ``None`` where the answer holds no string of that name.
        fields: the names of all that came, to tell which credential type it is.
    """

    lease_id: str
    duration: float
    renewable: bool
    username: str | None
    password: Secret | None
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StaticCredentials:
    """The password of a role that stays.

    Attributes:
        username: as in `MintedCredentials`.
        password: as in `MintedCredentials`.
        fields: as in `MintedCredentials`.
        ttl: seconds until Vault is going to change the password; 0 where that is overdue, ``None``
            where Vault does not say.
    """

    username: str | None
    password: Secret | None
    fields: tuple[str, ...]
    ttl: float | None


def parse_login(body: Mapping[str, object]) -> TokenInfo:
    """Parse the answer to a login."""
    auth = _mapping(body, "auth")
    value = auth.get("client_token")
    if not isinstance(value, str) or not value:
        if auth.get("mfa_requirement"):
            raise Malformed("a demand for a second factor, which a service cannot give")
        raise Malformed("no 'auth.client_token'")
    ttl = _number(auth, "lease_duration")
    return TokenInfo(
        Secret(value),
        # Vault says 0 for a token that never expires.
        ttl=math.inf if ttl == 0 else max(ttl, 0.0),
        renewable=auth.get("renewable") is True,
        # Vault before 1.0 had no token_type, and no batch tokens.
        service=auth.get("token_type", "service") == "service",
        uses=int(_number(auth, "num_uses", 0.0)),
        accessor=_text(auth, "accessor") or "",
    )


def parse_lookup(body: Mapping[str, object]) -> TokenInfo:
    """Parse the answer to a token's lookup of itself."""
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


def parse_token_renewal(body: Mapping[str, object]) -> Renewal:
    """Parse the answer to a token's renewal of itself."""
    return _extension(_mapping(body, "auth"))


def parse_lease_renewal(body: Mapping[str, object]) -> Renewal:
    """Parse the answer to the renewal of a lease."""
    return _extension(body)


def parse_creds(body: Mapping[str, object], names: FieldNames) -> MintedCredentials:
    """Parse freshly minted credentials."""
    data = _mapping(body, "data")
    lease_id = body.get("lease_id")
    if not isinstance(lease_id, str) or not lease_id:
        raise Malformed("no 'lease_id'")
    return MintedCredentials(
        lease_id,
        duration=_seconds(body, "lease_duration"),
        renewable=body.get("renewable") is True,
        username=_text(data, names.username),
        password=_secret(data, names.password),
        fields=tuple(sorted(data)),
    )


def parse_static_creds(body: Mapping[str, object], names: FieldNames) -> StaticCredentials:
    """Parse the password of a role that stays."""
    data = _mapping(body, "data")
    return StaticCredentials(
        username=_text(data, names.username),
        password=_secret(data, names.password),
        fields=tuple(sorted(data)),
        ttl=_seconds(data, "ttl") if data.get("ttl") is not None else None,
    )


def parse_secret_id(body: Mapping[str, object]) -> Secret:
    """Parse what was in a wrapping token."""
    data = body.get("data")
    secret_id = _secret(data, "secret_id") if isinstance(data, Mapping) else None
    if secret_id is None:
        raise Malformed("no 'data.secret_id': something else was wrapped")
    return secret_id


def parse_nothing(_body: Mapping[str, object]) -> None:
    """Accept any answer to a request that asks for nothing back."""


def _extension(source: Mapping[str, object]) -> Renewal:
    return Renewal(_seconds(source, "lease_duration"), source.get("renewable") is True)


def _text(source: Mapping[str, object], key: str) -> str | None:
    value = source.get(key)
    return value if isinstance(value, str) and value else None


def _secret(source: Mapping[str, object], key: str) -> Secret | None:
    value = source.get(key)
    return Secret(value) if isinstance(value, str) and value else None


def _mapping(source: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = source.get(key)
    if not isinstance(value, Mapping):
        raise Malformed(f"no {key!r}")
    return value


def _seconds(source: Mapping[str, object], key: str, default: float | None = None) -> float:
    """Return how long something still lives: what ended a moment ago may have less than nothing."""
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
