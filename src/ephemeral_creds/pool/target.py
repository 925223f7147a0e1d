"""The server that a login goes to: which password it takes, and whether it may be sent there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import (
    conninfo_attempts,
    conninfo_attempts_async,
    conninfo_to_dict,
    make_conninfo,
)
from psycopg.pq import Conninfo

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.pool.login import parameters_in_use
from ephemeral_creds.pool.remedies import plain_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds._values import Credentials

__all__ = ["attempts", "attempts_async", "credentials_for"]

Target = tuple[str, dict[str, Any]]

# https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION: with the others, a
# server that offers no TLS, or what is in between, gets the password without.
_ENCRYPTED = frozenset({"require", "verify-ca", "verify-full"})
_PORT = "5432"


def credentials_for(
    conninfo: str, kwargs: Mapping[str, Any], credentials: Credentials
) -> Credentials:
    """Return what to log in with at the server that `conninfo` and `kwargs` name.

    Raises:
        ConfigurationError: the password must not be sent there without TLS, or that server has
            no password.
    """
    if not (credentials.requires_tls or credentials.passwords):
        return credentials
    used = parameters_in_use(conninfo, kwargs, "host", "hostaddr", "port", "sslmode")
    is_local = not used["hostaddr"] and all(map(_is_socket, used["host"].split(",")))
    if credentials.requires_tls and not is_local and used["sslmode"] not in _ENCRYPTED:
        raise plain_text(used["host"] or used["hostaddr"], f"sslmode={used['sslmode']}")
    if not credentials.passwords:
        return credentials
    passwords, server = dict(credentials.passwords), f"{used['host']}:{used['port'] or _PORT}"
    if server.lower() not in passwords:
        raise ConfigurationError(
            f"there is no token for {server}, only for {', '.join(passwords)}: name the same "
            "endpoints to the provider and in the connection string"
        )
    return replace(credentials, password=passwords[server.lower()], passwords=())


def _is_socket(host: str) -> bool:
    return not host or host.startswith(("/", "@"))


def attempts(conninfo: str, kwargs: dict[str, Any], credentials: Credentials) -> list[Target]:
    """Return what to connect to, one after the other: one server each if each has its password.

    Raises:
        psycopg.OperationalError: no name of a host can be resolved.
    """
    if not credentials.passwords:
        return [(conninfo, kwargs)]
    given, others = _parameters(conninfo, kwargs)
    return [(make_conninfo("", **each), others) for each in conninfo_attempts(given)]


async def attempts_async(
    conninfo: str, kwargs: dict[str, Any], credentials: Credentials
) -> list[Target]:
    """Do what `attempts` does, without blocking the event loop."""
    if not credentials.passwords:
        return [(conninfo, kwargs)]
    given, others = _parameters(conninfo, kwargs)
    return [(make_conninfo("", **each), others) for each in await conninfo_attempts_async(given)]


def _parameters(conninfo: str, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return libpq's parameters, hosts and ports as they will be used, and those of psycopg."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    own = {name: value for name, value in kwargs.items() if name in known}
    used = parameters_in_use(conninfo, own, "host", "hostaddr", "port")
    given = {
        **conninfo_to_dict(conninfo),
        **{name: value for name, value in own.items() if value is not None},
        **{name: value for name, value in used.items() if value},
    }
    return given, {name: value for name, value in kwargs.items() if name not in known}
