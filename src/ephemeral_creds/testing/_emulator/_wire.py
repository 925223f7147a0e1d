"""What goes over the wire: requests, answers, and how Vault writes durations and errors."""

from __future__ import annotations

import math
import re
import secrets
import string
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.x509 import Certificate

__all__ = [
    "Answer",
    "Refusal",
    "Request",
    "capped",
    "denied",
    "envelope",
    "go_duration",
    "iso_time",
    "left",
    "one_error",
    "random_text",
    "seconds",
]

SYSTEM_MAX_TTL = 768 * 3600
"""Seconds: Vault's own limit and default for every lease and token."""

_ALPHABET = string.ascii_letters + string.digits
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "d": 86400.0}


@dataclass(slots=True)
class Request:
    """One request as the emulator's parts see it.

    Attributes:
        operation: ``read``, ``list``, ``update`` or ``delete``.
        path: what follows ``/v1/``.
        body: the JSON object sent, empty where there was none.
        token: the value of ``X-Vault-Token``, empty where there was none.
        query: the parameters after the path's ``?``.
        wrap_ttl: the value of ``X-Vault-Wrap-TTL``, empty where there was none.
        certificates: what the client showed of itself, its own first; ``None`` without TLS.
    """

    operation: str
    path: str
    body: dict[str, Any] = field(repr=False)
    token: str = field(repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    wrap_ttl: str = ""
    certificates: tuple[Certificate, ...] | None = None

    def text(self, name: str) -> str:
        """Return a member of the body as text; empty where it is missing."""
        value = self.body.get(name)
        return "" if value is None else str(value)


@dataclass(slots=True)
class Answer:
    """What to send back; without a body the status is 204 or 202."""

    status: int = 204
    body: dict[str, Any] | None = field(default=None, repr=False)


class Refusal(Exception):
    """Ends a request with an error status: an answer rather than an error of ours."""

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(status, *errors)
        self.answer = Answer(status, {"errors": list(errors)})


def one_error(text: str) -> str:
    """Return `text` as Vault writes a list of one error."""
    return f"1 error occurred:\n\t* {text}\n\n"


def denied(*, bad_token: bool = False) -> Refusal:
    """Return the 403 for a missing right, or for a dead token."""
    if bad_token:
        return Refusal(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
    return Refusal(403, one_error("permission denied"))


def envelope(
    data: dict[str, Any] | None = None,
    *,
    mount_type: str,
    lease_id: str = "",
    renewable: bool = False,
    lease_duration: int = 0,
    auth: dict[str, Any] | None = None,
    warnings: list[str] | None = None,
) -> Answer:
    """Return an answer in the frame that Vault puts around everything."""
    body = {
        "request_id": str(uuid.uuid4()),
        "lease_id": lease_id,
        "renewable": renewable,
        "lease_duration": lease_duration,
        "data": data,
        "wrap_info": None,
        "warnings": warnings,
        "auth": auth,
        "mount_type": mount_type,
    }
    return Answer(200, body)


def seconds(value: object) -> float:
    """Return a duration in seconds; Vault takes numbers and texts such as ``"1h30m"``.

    Raises:
        Refusal: it is neither, or negative.
    """
    if value is None or value == "":
        return 0.0
    if isinstance(value, int | float):
        number = float(value)
    else:
        text = str(value)
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)", text)
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            number = float(text)
        elif parts and "".join(n + u for n, u in parts) == text:
            number = sum(float(n) * _UNITS[u] for n, u in parts)
        else:
            raise Refusal(400, f"Field validation failed: time: invalid duration {text!r}")
    if number < 0:
        raise Refusal(
            400,
            'Field validation failed: error converting input for field "increment": '
            f"cannot provide negative value '{value}'",
        )
    return number


def go_duration(span: float) -> str:
    """Return seconds as Vault's warnings write them: ``9s``, ``12m21s``, ``2h``."""
    rest = round(span)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    text = "".join(f"{n}{u}" for n, u in ((hours, "h"), (minutes, "m"), (rest, "s")) if n)
    return text or "0s"


def capped(wanted: float, limit: float) -> str:
    """Return the warning that Vault gives when it grants `limit` seconds of `wanted`."""
    return (
        f'TTL of "{go_duration(wanted)}" exceeded the effective max_ttl of '
        f'"{go_duration(limit)}"; TTL value is capped accordingly'
    )


def iso_time(instant: float) -> str:
    """Return a Unix time as Vault writes it."""
    stamp = datetime.fromtimestamp(instant, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def left(end: float, now: float) -> float:
    """Return the seconds that a renewal may grant, counted in whole ones as Vault does.

    It cuts the fractions off both instants, so a lease may outlive its maximum by almost one.
    """
    return end if end == math.inf else math.floor(end) - math.floor(now)


def random_text(length: int, alphabet: str = _ALPHABET) -> str:
    """Return unpredictable letters and digits."""
    return "".join(secrets.choice(alphabet) for _ in range(length))
