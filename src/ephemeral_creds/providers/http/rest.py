"""Single requests to a service, every outcome of which is a value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import requests

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.http.adapters import DeadlineAdapter
from ephemeral_creds.providers.http.failures import from_exception
from ephemeral_creds.providers.http.reply import read_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ephemeral_creds.providers.http.event_queue import EventQueue
    from ephemeral_creds.providers.http.failures import Service
    from ephemeral_creds.providers.http.reply import Reply

__all__ = [
    "PlainSession", "RestClient", "bearer", "is_down", "malformed", "said", "unavailable",
    "unexplained",
]  # fmt: skip

_T = TypeVar("_T")

# For connecting and reading. The services of a region answer in milliseconds, in their worst
# minutes within seconds; what takes longer is asked again.
TIMEOUT = (5.0, 10.0)
# Enough for the longest usual complaint, which names an identity, an action and a secret; the essay
# of a proxy or a plugin is cut.
_MAX_SAID = 400


class PlainSession(requests.Session):
    """Reads no ``~/.netrc``, whose password would go along, and follows no redirects.

    Proxies and CAs still come from the environment.
    """

    def __init__(self) -> None:
        super().__init__()
        # Compressed bodies may unfold to any size within one chunk.
        self.headers["Accept-Encoding"] = "identity"
        # An auth of its own keeps requests from looking into ~/.netrc, whose Authorization header
        # a service would take for its token. Proxies of the environment stay: not trust_env.
        self.auth = _unchanged

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return ``None``: requests parses even those that it does not follow, and may raise."""
        del resp
        return None


class RestClient:
    """Sends requests to one service; each has a time limit, and none is sent twice.

    Proxies and CAs come from the environment, as in requests (``HTTPS_PROXY``,
    ``REQUESTS_CA_BUNDLE``). Not thread-safe: its user holds a lock.

    Args:
        service: what messages call the service.
        verify: a file or directory of CAs, in place of the environment's.
        timeout: the seconds for connecting, and for a whole reply.

    Attributes:
        requests_sent: how many requests have been sent.
    """

    def __init__(
        self,
        service: Service,
        *,
        verify: str | None = None,
        timeout: tuple[float, float] = TIMEOUT,
    ) -> None:
        self.requests_sent = 0
        self._service = service
        self._verify = verify
        self._timeout = timeout
        self._session = PlainSession()
        self._session.mount("http://", DeadlineAdapter())
        self._session.mount("https://", DeadlineAdapter())

    def send(
        self,
        intro: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str | Secret],
        body: str | Secret | None = None,
        within: float = math.inf,
    ) -> Reply | EphemeralCredsError:
        """Send a request, and return its reply, of any status, or the error in place of one.

        Raises nothing: the frames of an exception would hold what is secret in the request.

        Args:
            intro: what is asked for what, to begin an error's message:
                ``Secrets Manager at https://…, asked for …,``.
            method: the HTTP method.
            url: the URL.
            headers: the request's headers.
            body: the request's body, as text.
            within: the seconds for connecting and for the reply, if the client's own are more.
        """
        self.requests_sent += 1
        connecting, reading = self._timeout
        try:
            response = self._session.request(
                method,
                url,
                headers={name: _text(value) for name, value in headers.items()},
                data=None if body is None else _text(body).encode(),
                timeout=(min(connecting, within), min(reading, within)),
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            )
            return read_reply(response)
        except Exception as error:  # noqa: BLE001 - whatever it is, its frames hold the request
            return from_exception(self._service, intro, error, tls=url.startswith("https:"))

    def ask(
        self,
        queue: EventQueue,
        operation: str,
        intro: str,
        method: str,
        url: str,
        parse: Callable[[Reply], _T | EphemeralCredsError],
        *,
        headers: Mapping[str, str | Secret],
        body: str | Secret | None = None,
        within: float = math.inf,
    ) -> _T | EphemeralCredsError:
        """Send a request, return what `parse` makes of its reply, and record it; raises nothing.

        Args:
            queue: gets the event.
            operation: what the event calls it.
            intro: as in `send`, and so the others.
            method: the HTTP method.
            url: the URL.
            parse: returns what is asked for, or the error in its place.
            headers: the request's headers.
            body: the request's body, as text.
            within: as in `send`.
        """
        sent_at = queue.now()
        reply = self.send(intro, method, url, headers=headers, body=body, within=within)
        result: _T | EphemeralCredsError
        if isinstance(reply, EphemeralCredsError):
            result, status = reply, None
        else:
            result, status = parse(reply), reply.status
        address = "/".join(url.split("/", 3)[:3])
        queue.record(operation, address, result, status=status, sent_at=sent_at)
        return result

    def close(self) -> None:
        """Close its connections. It can be used again."""
        self._session.close()


def malformed(intro: str, status: int, lacks: str) -> MalformedResponse:
    """Return the error for a reply that the service does not send."""
    return MalformedResponse(
        f"{intro} answered HTTP {status} with {lacks}: check the address and any proxy in between",
        status=status,
    )


def bearer(token: Secret) -> dict[str, str | Secret]:
    """Return the header that shows an access token."""
    return {"Authorization": Secret(f"Bearer {token.reveal()}")}


def is_down(reply: Reply) -> bool:
    """Whether the service is in trouble, or throttles."""
    return reply.status >= 500 or reply.status == 429


def unavailable(message: str, reply: Reply) -> ProviderUnavailable:
    """Return the error for a reply of a service that is down."""
    return ProviderUnavailable(message, status=reply.status, retry_after=reply.retry_after)


def unexplained(intro: str, reply: Reply) -> EphemeralCredsError:
    """Return the error for a reply that is not a success and has none of the service's codes."""
    if is_down(reply):
        return unavailable(f"{intro} answered HTTP {reply.status}", reply)
    return malformed(intro, reply.status, reply.kind)


def said(text: object, secrets: Iterable[Secret] = ()) -> str:
    """Return a service's own words on one line, not too many of them, and without `secrets`."""
    words = " ".join(str(text).split()) or "no reason given"
    for secret in filter(None, secrets):
        words = words.replace(secret.reveal(), "**********")
    return words if len(words) <= _MAX_SAID else f"{words[:_MAX_SAID]}…"


def _text(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
