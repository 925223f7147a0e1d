"""Asking the metadata server of a cloud's machine: plain HTTP to an address next door."""

from __future__ import annotations

import requests

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)

__all__ = ["ask_metadata"]

# It answers from the same host, in milliseconds; where there is none, nobody answers at all.
_TIMEOUT = (2.0, 10.0)


def ask_metadata(address: str, path: str, header: str, value: str) -> Secret:
    """Return what a metadata server says.

    Args:
        address: scheme, host and port.
        path: what is asked for, with its query.
        header: the header that shows the server that no browser was tricked into asking.
        value: that header's value.

    Raises:
        ProviderUnavailable: nobody answers, or not now.
        ConfigurationError: it refuses: there is no such account or identity.
    """
    answer = _exchange(address, path, {header: value})
    # Raised here, where no exception of requests is around.
    if isinstance(answer, EphemeralCredsError):
        raise answer
    return answer


def _exchange(address: str, path: str, headers: dict[str, str]) -> Secret | EphemeralCredsError:
    asked = f"the metadata server at {address}, asked for {path.partition('?')[0]},"
    with requests.Session() as session:
        # No proxy can reach what is next door, and none should see it.
        session.trust_env = False
        try:
            response = session.get(
                address + path, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            )
        except ValueError:
            return ConfigurationError(f"{asked} cannot be asked: check its address")
        except requests.RequestException as error:
            return ProviderUnavailable(
                f"{asked} does not answer ({type(error).__name__}): is this a machine of that "
                "cloud, and may this process reach it?"
            )
    status = response.status_code
    if status == 200 and response.text.strip():
        return Secret(response.text.strip())
    if status == 200 or status == 429 or status >= 500:
        return ProviderUnavailable(f"{asked} answered HTTP {status}, with nothing", status=status)
    return ConfigurationError(
        f"{asked} answered HTTP {status}: check that the machine has such an identity"
    )
