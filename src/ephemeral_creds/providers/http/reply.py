"""HTTP replies of a service, or of a proxy in its place, read within a limit."""

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

__all__ = ["Origin", "Reply", "ReplyTooLarge", "origin_of", "read_reply", "redirect_target"]

# Bytes of a body: Vault's replies have some hundreds, a warning or a certificate some thousand, and
# a cloud's secrets 64 KiB at most.
_MAX_BODY = 1024 * 1024
_CHUNK = 16 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BODILESS = frozenset({202, 204})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply.

    Attributes:
        status: the HTTP status.
        body: the JSON object in the body, or an empty one if the status says that there is no
            body; ``None`` for anything else.
        kind: the kind of body, for messages.
        text: the body, if it is plain text, as Go's HTTP server writes its errors.
        retry_after: seconds that the server asked to wait.
        redirect: the address, without path and query, of a redirect that was not followed.
    """

    status: int
    body: Mapping[str, object] | None = field(repr=False)
    kind: str = ""
    text: str = field(default="", repr=False)
    retry_after: float | None = None
    redirect: str = ""


class ReplyTooLarge(Exception):
    """The body is longer than any that is expected; it was not read to its end."""

    def __init__(self, status: int) -> None:
        super().__init__(f"more than {_MAX_BODY} bytes")
        self.status = status


class Origin(NamedTuple):
    """Scheme, host and port, which a redirect must not change."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port in (None, _DEFAULT_PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def origin_of(url: str) -> Origin | None:
    """Return the origin of a URL; ``None`` if it is not a URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return Origin(parts.scheme, parts.hostname or "", port)


def redirect_target(response: requests.Response) -> Origin | None:
    """Return the origin that a redirect leads to, if it names one."""
    location = response.headers.get("Location")
    try:
        return origin_of(urljoin(response.url, location)) if location else None
    except ValueError:
        return None


def read_reply(response: requests.Response) -> Reply:
    """Read a reply, to its end or to the limit.

    Raises:
        requests.RequestException: the connection ended before the body did.
        ReplyTooLarge: the body is longer than any that is expected.
    """
    content = bytearray()
    for chunk in response.iter_content(_CHUNK):
        content += chunk
        if len(content) > _MAX_BODY:
            response.close()
            raise ReplyTooLarge(response.status_code)
    status = response.status_code
    redirect = ""
    if status in _REDIRECTS:
        redirect = str(redirect_target(response) or "an address that it does not name")
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
    """Return the seconds of a Retry-After header (RFC 9110 §10.2.3), if they can be read.

    Vault sends it with a 429 if an operator has switched on its rate limit headers
    (https://developer.hashicorp.com/vault/api-docs/system/quotas-config).
    """
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        # A date counts against the Date of the same reply: the two come from one clock, which
        # may differ from ours.
        try:
            until = parsedate_to_datetime(value)
            seconds = (until - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
