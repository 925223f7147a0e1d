"""Requests to the metadata server of a cloud's machine."""

from __future__ import annotations

import requests

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)
from ephemeral_creds.providers.base import value_of

__all__ = ["ask_metadata"]

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
    return value_of(_exchange(address, path, {header: value}))


def _exchange(address: str, path: str, headers: dict[str, str]) -> Secret | EphemeralCredsError:
    server = f"the metadata server at {address}, asked for {path.partition('?')[0]},"
    with requests.Session() as session:
        # It is on the same host: a proxy could not reach it, and must not see the token.
        session.trust_env = False
        try:
            response = session.get(
                address + path, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            )
        except ValueError:
            return ConfigurationError(f"{server} cannot be asked: check its address")
        except requests.RequestException as error:
            return ProviderUnavailable(
                f"{server} does not answer ({type(error).__name__}): is this a machine of that "
                "cloud, and may this process reach it?"
            )
    status, text = response.status_code, response.text.strip()
    if status == 200 and text:
        return Secret(text)
    if status in {200, 429} or status >= 500:
        return ProviderUnavailable(
            f"{server} answered HTTP {status} without a token", status=status
        )
    return ConfigurationError(
        f"{server} answered HTTP {status}: check that the machine has such an identity"
    )
