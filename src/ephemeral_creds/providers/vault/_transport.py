"""One HTTP exchange with Vault: hvac's adapter with the habits taken out that lose or leak things.

hvac follows redirects with the token and the login's body to any host, forgets status and headers
of an error, lets ``.netrc`` in, and hands out a raw response where it finds no JSON. Here an
exchange always ends in an `Answer`, or in an exception of requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

import hvac.adapters
import requests

from ephemeral_creds.providers.vault._connections import (
    NamedServerAdapter,
    SocketAdapter,
    never_arrived,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.providers.vault.config import VaultConfig

__all__ = ["Answer", "Transport"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# 307 and 308 keep method and body; the others turn a login into a GET without one.
_FAITHFUL_REDIRECTS = frozenset({307, 308})
_BODILESS = frozenset({202, 204})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
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


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port in (None, _DEFAULT_PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


class Transport(hvac.adapters.RawAdapter):  # type: ignore[misc]  # hvac has no types
    """hvac's adapter, hardened. Not thread-safe: its user holds a lock.

    Attributes:
        timeout: (connect, read) seconds of the requests to come.
        sent: how many requests have gone out.
    """

    def __init__(self, config: VaultConfig) -> None:
        session = _Session()
        # An auth of its own keeps requests from looking into ~/.netrc, whose Authorization header
        # Vault would take for a token. Proxies from the environment stay, hence not trust_env.
        session.auth = _unchanged
        # hvac lets these three of a session win over its own arguments.
        session.verify = config.verify
        session.cert = config.client_cert
        session.proxies = dict(config.proxies or {})
        self._tls = {"cert": config.client_cert, "verify": config.verify}
        for address in config.addresses:
            if address.startswith("unix://"):
                # No proxy reaches it, whatever the environment says.
                session.trust_env = False
                session.mount(_base(address), SocketAdapter(address.removeprefix("unix://")))
        if config.tls_server_name is not None:
            session.mount("https://", NamedServerAdapter(config.tls_server_name))
        self._bases = [_base(address) for address in config.addresses]
        self._origins = {_origin(base) for base in self._bases}
        super().__init__(
            base_uri=self._bases[0],
            token="",  # None would make hvac look for a token in the environment
            **self._tls,
            proxies=session.proxies or None,
            allow_redirects=False,
            session=session,
        )
        self.timeout = (config.connect_timeout, config.read_timeout)
        self.sent = 0

    def request(  # type: ignore[no-untyped-def]  # as untyped as what it overrides
        self, method, url, headers=None, raise_exception=True, **kwargs
    ) -> Answer:
        """Exchange one request for one `Answer`, whatever its status; `raise_exception` is moot.

        Raises:
            requests.RequestException: there was no answer.
        """
        del raise_exception
        kwargs["timeout"] = self.timeout
        for base in list(self._bases):
            last = base == self._bases[-1]
            self.base_uri = base
            try:
                answer = self._exchange(method, url, headers, kwargs)
            except requests.RequestException as error:
                if last or not never_arrived(error):
                    raise
            else:
                if last or not _is_sealed(answer):
                    # The one that serves is asked first from now on.
                    self._bases = [base, *(other for other in self._bases if other != base)]
                    return answer
        raise AssertionError("the last address ends the loop")

    def _exchange(  # type: ignore[no-untyped-def]
        self, method, url, headers, kwargs
    ) -> Answer:
        self.sent += 1
        response = super().request(method, url, headers, raise_exception=False, **kwargs)
        if response.status_code in _FAITHFUL_REDIRECTS and (
            _target(response) in {_origin(response.url), *self._origins}
        ):
            # A load balancer's path rewriting, a standby that redirects to the name it has in
            # common with the active node, or to another node that we know. Followed once: a
            # second one is an answer like another.
            self.sent += 1
            response = self.session.request(
                method,
                urljoin(response.url, response.headers["Location"]),
                headers=dict(response.request.headers),
                data=response.request.body,
                allow_redirects=False,
                timeout=self.timeout,
                **self._tls,
            )
        return _answer(response)


class _Session(requests.Session):
    """Sees no redirects: requests would parse even those that it does not follow, and may raise."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        del resp
        return None


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _base(address: str) -> str:
    """Return what requests takes for an address; a socket gets a host of its own."""
    if not address.startswith("unix://"):
        return address
    return f"http://{address.removeprefix('unix://').encode().hex()[-60:]}.localhost"


def _is_sealed(answer: Answer) -> bool:
    """Whether a node did nothing but say that it is sealed, so that another may be asked."""
    errors = None if answer.body is None else answer.body.get("errors")
    return answer.status == 503 and "sealed" in str(errors)


def _origin(url: str) -> _Origin | None:
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return _Origin(parts.scheme, parts.hostname or "", port)


def _target(response: requests.Response) -> _Origin | None:
    location = response.headers.get("Location")
    try:
        return _origin(urljoin(response.url, location)) if location else None
    except ValueError:
        return None


def _answer(response: requests.Response) -> Answer:
    status = response.status_code
    redirect = ""
    if status in _REDIRECTS:
        redirect = str(_target(response) or "an address that it does not name")
    try:
        # Not guarded by Content-Type: proxies add a charset to it, and some drop it.
        body = response.json()
    except ValueError:
        body = None
    if status in _BODILESS and not response.content:
        body = {}
    elif not isinstance(body, dict):
        body = None
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    return Answer(
        status=status,
        body=body,
        kind=f"a body of type {kind or 'unknown'}" if response.content else "an empty body",
        text=response.text.strip() if kind == "text/plain" else "",
        retry_after=_retry_after(response.headers),
        redirect=redirect,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110 §10.2.3), if it makes sense."""
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
