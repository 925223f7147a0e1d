"""The bodies of Infisical's replies: checked, with their secrets wrapped, and as errors; pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    LeaseLost,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.http import rest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds.providers.fields import SecretFields
    from ephemeral_creds.providers.http.reply import Reply

__all__ = [
    "AccessToken", "DynamicLease", "Failed", "Malformed", "access_token",
    "created", "error_of", "is_at_maximum", "renewed", "revoked", "seconds_of",
]  # fmt: skip

# How it says that a renewal would go beyond the maximum: later versions, and earlier ones.
_MAXIMUM = ("maximum allowed lease duration", "larger than max ttl")
_LEASE_GONE = re.compile(r"dynamic secret lease.* not found", re.IGNORECASE)
# Durations as the npm package ms reads them: https://github.com/vercel/ms
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31557600}
_LONG = {"msec": "ms", "sec": "s", "min": "m", "hr": "h", "hour": "h", "day": "d", "week": "w",
         "yr": "y", "year": "y", "second": "s", "minute": "m", "millisecond": "ms"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a login returned; `ttl` in seconds, ``inf`` for one that never expires."""

    value: Secret
    ttl: float


@dataclass(frozen=True, slots=True)
class DynamicLease:
    """A new lease.

    Attributes:
        lease_id: its id.
        expires_at: when it ends, on Infisical's clock, in seconds since 1970.
        duration: seconds that it lives from its creation.
        maximum: seconds from its creation after which it cannot be extended; ``inf`` without one.
        credentials: what it is for, or why that cannot be used.
    """

    lease_id: str
    expires_at: float
    duration: float
    maximum: float
    credentials: Credentials | EphemeralCredsError


class Malformed(ValueError):
    """The body lacks something; the message says what, and holds no value of it."""


class Failed(ValueError):
    """The body of a success reports a failure, in these words."""


def access_token(body: Mapping[str, object]) -> AccessToken:
    """Parse the reply to a login."""
    ttl = body.get("expiresIn")
    if not isinstance(ttl, int | float):
        raise Malformed("no 'expiresIn'")
    # 0 is its word for a token that never expires.
    return AccessToken(Secret(_text(body, "accessToken")), float(ttl) or math.inf)


def created(
    body: Mapping[str, object], fields: SecretFields, where: str, ttl: str | None
) -> DynamicLease:
    """Parse a new lease with its credentials; `ttl` is what was asked for."""
    lease, secret = _mapping(body, "lease"), _mapping(body, "dynamicSecret")
    lease_id, expires_at = _text(lease, "id"), _instant(lease, "expireAt")
    # Its end is by the server's clock and its creation by its database's, which may differ; the TTL
    # is by neither.
    ttl_given = _duration(secret.get("defaultTTL") if ttl is None else ttl)
    duration = min(expires_at - _instant(lease, "createdAt"), ttl_given)
    maximum = _duration(secret.get("maxTTL"))
    credentials = fields.find(_mapping(body, "data"), where)
    return DynamicLease(lease_id, expires_at, duration, maximum, credentials)


def renewed(body: Mapping[str, object]) -> float:
    """Parse the reply to a renewal: when the lease ends now, in seconds since 1970."""
    return _instant(_mapping(body, "lease"), "expireAt")


def revoked(body: Mapping[str, object]) -> None:
    """Parse the reply to a revocation, which is also a success if the user was not dropped.

    Raises:
        Failed: it was not.
    """
    lease = _mapping(body, "lease")
    if lease.get("status"):
        details = rest.said(lease.get("statusDetails") or "")
        raise Failed(
            f"its user could not be dropped: {details}; correct the revocation statement of the "
            "dynamic secret"
        )


def seconds_of(duration: str) -> float:
    """Return the seconds of ``1h``, ``90 min`` or milliseconds; ``inf`` for anything else."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        return math.inf
    unit = match[2].lower() or "ms"
    singular = unit.removesuffix("s") if unit not in _UNITS else unit
    factor = _UNITS.get(_LONG.get(singular, singular), math.inf)
    return float(match[1]) * factor


def error_of(
    reply: Reply,
    intro: str,
    secrets: Sequence[Secret],
    *,
    denied: str,
    missing: str,
    failed: str,
    of_lease: bool,
) -> EphemeralCredsError:
    """Return the error for a reply that is not a success.

    Args:
        reply: the reply.
        intro: the beginning of the message: ``Infisical at …, asked for …,``.
        secrets: what must not show up in the message even if the server repeats it.
        denied: what to do about a refusal.
        missing: what to do if something does not exist.
        failed: what to do about an internal error.
        of_lease: whether the request was about a lease that there is.
    """
    status, body = reply.status, reply.body
    said = _said(reply, secrets)
    message = f"{intro} answered HTTP {status}: {said}"
    if rest.is_down(reply):
        hints = {429: "; raise its rate limit, or send fewer requests", 500: f"; {failed}"}
        return rest.unavailable(f"{message}{hints.get(status, '')}", reply)
    if reply.redirect:
        return ConfigurationError(
            f"{intro} answered HTTP {status}: a redirect to {reply.redirect}, which is not "
            "followed: set the address to where Infisical is"
        )
    if body is None:
        return MalformedResponse(
            f"{message}; the reply is not Infisical's: check the address and any proxy in between",
            status=status,
        )
    if of_lease and _LEASE_GONE.search(said):
        return LeaseLost(f"{message}; only new credentials help", status=status)
    if of_lease and _says_maximum(said):
        return LeaseLost(message, status=status)
    if "max lease limit" in said.lower():
        return ProviderUnavailable(
            f"{message}; revoke leases that are not used, or raise MAX_LEASE_LIMIT of the server",
            status=status,
        )
    if status in {401, 403}:
        return AccessDenied(f"{message}; {denied}", status=status)
    if status == 404:
        return ConfigurationError(f"{message}; {missing}")
    if status in {400, 422}:
        return ConfigurationError(f"{message}; correct ttl=, or the settings of the dynamic secret")
    return MalformedResponse(f"{message}; Infisical does not use this status here", status=status)


def is_at_maximum(error: LeaseLost) -> bool:
    """Tell whether the lease works on, and only cannot be extended by what was asked for."""
    return _says_maximum(str(error))


def _says_maximum(text: str) -> bool:
    return any(words in text.lower() for words in _MAXIMUM)


def _said(reply: Reply, secrets: Sequence[Secret]) -> str:
    text: object = reply.text or reply.kind
    if reply.body is not None:
        text = reply.body.get("message") or ""
    if isinstance(text, list):
        # Of fields that are wrong: each with its path and its message.
        text = "; ".join(
            f"{'.'.join(map(str, issue.get('path', ())))}: {issue.get('message')}"
            for issue in text
            if isinstance(issue, Mapping) and isinstance(issue.get("path", ()), list | tuple)
        )
    return rest.said(text, secrets)


def _mapping(source: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = source.get(key)
    if not isinstance(value, Mapping):
        raise Malformed(f"no {key!r}")
    return value


def _text(source: Mapping[str, object], key: str) -> str:
    value = source.get(key)
    if not isinstance(value, str) or not value:
        raise Malformed(f"no {key!r}")
    return value


def _instant(source: Mapping[str, object], key: str) -> float:
    text = _text(source, key)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Malformed(f"no date as {key!r}")
    return moment.timestamp()


def _duration(value: object) -> float:
    return seconds_of(value) if isinstance(value, str) else math.inf
