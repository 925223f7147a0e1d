"""Addresses of services: what they must look like, and a warning if they lack TLS."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from ephemeral_creds.exceptions import ConfigurationError

__all__ = ["plain_http_warning", "validate_address"]


def validate_address(
    address: str, what: str, *, example: str = "https://HOST", plain: bool = False
) -> str:
    """Return a service's address, with its scheme in lower case and no slashes at its end.

    Args:
        address: the address.
        what: its name in messages.
        example: what it must look like.
        plain: whether plain HTTP to another machine is allowed; see `plain_http_warning`.

    Raises:
        ConfigurationError: it cannot be right; no user name or password in it is shown.
    """
    # Schemes are case-insensitive (RFC 3986 §3.1); later code may rely on lower case.
    scheme, separator, rest = address.partition("://")
    address = f"{scheme.lower()}{separator}{rest}"
    # The address is part of every message: it must not hold a secret. A password with a slash in it
    # would be taken for a path.
    if "@" in address:
        raise ConfigurationError(f"{what} has a user name or password in it: leave it out")
    try:
        parts = urlsplit(address)
        is_valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        parts, is_valid = urlsplit(""), False
    if not is_valid or parts.query or parts.fragment:
        raise ConfigurationError(f"{what} must look like {example}, not {address!r}")
    if not plain and _is_plain(address):
        raise ConfigurationError(
            f"{what} must begin with https://, not {address!r}: secrets are sent through it"
        )
    return address.rstrip("/")


def plain_http_warning(name: str, address: str) -> str:
    """Return a warning if others can read what is sent to a service's address; empty if not."""
    if not _is_plain(address):
        return ""
    return (
        f"{name} at {address} is used over plain HTTP: anyone on the network path can read tokens "
        "and passwords; use https"
    )


def _is_plain(address: str) -> bool:
    return address.startswith("http:") and not _is_local(urlsplit(address).hostname or "")


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
