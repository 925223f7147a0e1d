"""What comes back from Vault, or from what stands in its place, read as far as it makes sense."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

__all__ = ["Origin", "Reply", "ReplyTooLarge", "origin_of", "read_reply", "target_of"]

# Bytes of a body: Vault's own answers have some hundreds, a warning or a certificate some thousand.
_MAX_BODY = 1024 * 1024
_PIECE = 16 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BODILESS = frozenset({202, 204})
_DEFAULT_PORTS = {"http": 80, "https": 443}
# A standby, a recovery secondary or a node that is down, sealed or not set up; or what a load
# balancer says of one (https://developer.hashicorp.com/vault/api-docs/system/health).
_OUT_OF_SERVICE = frozenset({472, 473, 474, 501, 502, 503, 504, 530})
# What a standby says with a 500 while no node is the active one.
_NO_LEADER = "local node not active"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        status: the HTTP status.
        body: the JSON object that was the body, or an empty one where the status says that there
            is none; ``None`` if it was anything else.
        kind: what the body is, for messages.
        text: the body, where it is plain text, as Go's HTTP server complains in.
        retry_after: seconds that the server asked to wait.
        redirect: the address, without path and query, that we were sent to and did not go to.
    """

    status: int
    body: Mapping[str, object] | None = field(repr=False)
    kind: str = ""
    text: str = field(default="", repr=False)
    retry_after: float | None = None
    redirect: str = ""

    @property
    def is_sealed(self) -> bool:
        """Whether a node did nothing but say that it is sealed, so that another may be asked."""
        return self.status == 503 and "sealed" in self._errors

    @property
    def is_out_of_service(self) -> bool:
        """Whether it is the node that is in trouble, and not what was asked of it."""
        return (
            self.body is None
            or bool(self.redirect)
            or self.status in _OUT_OF_SERVICE
            or (self.status == 500 and _NO_LEADER in self._errors)
        )

    @property
    def _errors(self) -> str:
        return "" if self.body is None else str(self.body.get("errors"))


class ReplyTooLarge(Exception):
    """The body is longer than any of Vault's; it was not read to its end."""

    def __init__(self, status: int) -> None:
        super().__init__(f"more than {_MAX_BODY} bytes")
        self.status = status


class Origin(NamedTuple):
    """Where requests go: what a redirect must not change."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port in (None, _DEFAULT_PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def origin_of(url: str) -> Origin | None:
    """Return where a URL leads to, if it is one."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return Origin(parts.scheme, parts.hostname or "", port)


def target_of(response: requests.Response) -> Origin | None:
    """Return where a redirect leads to, if it says so."""
    location = response.headers.get("Location")
    try:
        return origin_of(urljoin(response.url, location)) if location else None
    except ValueError:
        return None


def _content(response: requests.Response) -> bytes:
    """Read the body, as far as it may be one of Vault's."""
    content = bytearray()
    for piece in response.iter_content(_PIECE):
        content += piece
        if len(content) > _MAX_BODY:
            response.close()
            raise ReplyTooLarge(response.status_code)
    return bytes(content)


def read_reply(response: requests.Response) -> Reply:
    """Read what came, to its end or to where it cannot be Vault's any more.

    Raises:
        requests.RequestException: the connection ended before the body did.
        ReplyTooLarge: the body is not one of Vault's.
    """
    content = _content(response)
    status = response.status_code
    redirect = ""
    if status in _REDIRECTS:
        redirect = str(target_of(response) or "an address that it does not name")
    try:
        # Not guarded by Content-Type: proxies add a charset to it, and some drop it.
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if status in _BODILESS and not content:
        body = {}
    elif not isinstance(body, dict):
        body = None
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    return Reply(
        status=status,
        body=body,
        kind=f"a body of type {kind or 'unknown'}" if content else "an empty body",
        text=content.decode(errors="replace").strip() if kind == "text/plain" else "",
        retry_after=_retry_after(response.headers),
        redirect=redirect,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110 §10.2.3), if it makes sense.

    Vault sends it with a 429 where an operator has switched on its rate limit headers
    (https://developer.hashicorp.com/vault/api-docs/system/quotas-config).
    """
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        # A date counts against the Date of the same answer: the two come from one clock, which
        # may differ from ours.
        try:
            until = parsedate_to_datetime(value)
            seconds = (until - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
