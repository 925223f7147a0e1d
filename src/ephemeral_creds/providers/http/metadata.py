"""Requests to the metadata server of a cloud's machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

import requests

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.access import access_token_in
from ephemeral_creds.providers.base import value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.providers.access import AccessToken
    from ephemeral_creds.providers.http.event_queue import EventQueue

__all__ = ["ask_metadata", "query_metadata", "query_token"]

_T = TypeVar("_T")

# Connect and read: it answers from the same host, in milliseconds.
_TIMEOUT = (2.0, 10.0)


def ask_metadata(address: str, path: str, header: str, value: str) -> Secret:
    """Return the body of a metadata server's response.

    Args:
        address: scheme, host and port.
        path: the path with its query.
        header: the header that shows the server that no browser was tricked into asking.
        value: that header's value.

    Raises:
        ProviderUnavailable: it does not answer, or not now.
        ConfigurationError: it refuses: there is no such account or identity.
    """
    reply, _ = _exchange(address, path, {header: value})
    return value_of(reply)


def query_metadata(
    queue: EventQueue,
    operation: str,
    address: str,
    path: str,
    header: tuple[str, str],
    parse: Callable[[Secret], _T | EphemeralCredsError],
) -> _T | EphemeralCredsError:
    """Return what `parse` makes of a metadata server's response, or the error; raises nothing.

    Args:
        queue: gets the event.
        operation: what the event calls it.
        address: scheme, host and port.
        path: the path with its query.
        header: the header of `ask_metadata`, and its value.
        parse: returns what is asked for, or the error in its place.
    """
    sent_at = queue.now()
    reply, status = _exchange(address, path, dict([header]))
    result = reply if isinstance(reply, EphemeralCredsError) else parse(reply)
    queue.record(operation, address, result, status=status, sent_at=sent_at)
    return result


def query_token(
    queue: EventQueue, address: str, path: str, header: tuple[str, str]
) -> AccessToken | EphemeralCredsError:
    """Return the access token in a metadata server's response, or the error; raises nothing.

    The arguments are those of `query_metadata`.
    """
    what = f"the metadata server at {address}"

    def parse(reply: Secret) -> AccessToken | EphemeralCredsError:
        try:
            body = json.loads(reply.reveal())
        except ValueError:
            return MalformedResponse(f"{what} sent no JSON: is it the cloud's own?")
        return access_token_in(body if isinstance(body, dict) else {}, what)

    return query_metadata(queue, "login", address, path, header, parse)


def _exchange(
    address: str, path: str, headers: dict[str, str]
) -> tuple[Secret | EphemeralCredsError, int | None]:
    """Return the body or the error, and the status of the response, if there is one."""
    server = f"the metadata server at {address}, asked for {path.partition('?')[0]},"
    with requests.Session() as session:
        # It is on the same host: a proxy could not reach it, and must not see the token.
        session.trust_env = False
        try:
            response = session.get(
                address + path, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            )
        except ValueError:
            error = ConfigurationError(f"{server} cannot be asked: check its address")
            return error, None
        except requests.RequestException as failure:
            silent = ProviderUnavailable(
                f"{server} does not answer ({type(failure).__name__}): is this a machine of that "
                "cloud, and may this process reach it?"
            )
            return silent, None
    status, text = response.status_code, response.text.strip()
    if status == 200 and text:
        return Secret(text), status
    message = f"{server} answered HTTP {status}"
    if status in {200, 429} or status >= 500:
        return ProviderUnavailable(f"{message} without a token", status=status), status
    return ConfigurationError(f"{message}: check that the machine has such an identity"), status
