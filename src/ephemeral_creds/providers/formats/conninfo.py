"""Connection strings, as libpq takes them: URIs and ``key=value`` pairs; pure.

Not libpq's own parser, which psycopg has: its errors quote the text, which may be the password,
and providers do not depend on psycopg. The tests compare the two.
Only user and password are read: the pool knows where the database is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.formats.entry import Entry
from ephemeral_creds.providers.formats.mistakes import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_uri", "read_conninfo", "read_uri"]

# libpq's own, SQLAlchemy's with a driver's name, Django's and those of extensions, and Java's.
_SCHEME = re.compile(
    r"(?:postgres(?:ql)?(?:\+\w+)?|pgsql|postgis|timescale(?:db|gis)?)://"
    r"|(?P<java>jdbc:postgresql:)",
    re.ASCII,
)

_ENCODE = (
    "characters such as @ / % in a user name or password have to be percent-encoded, in a template "
    "by {{ .Data.password | urlquery }}; or use JSON, which needs no encoding"
)
_PLUS = "has a + that some read as a space: write %2B for a plus sign, or %20 for a space"
# Hosts with their ports, as far as that tells them from a user name and half a password.
_HOSTS = re.compile(r"(?:(?:\[[^\]]*\]|[^:\[\],]*)(?::[0-9]*)?(?:,|$))*")
_CUT_OFF = re.compile(r"%[0-9A-Fa-f]?\Z")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")

# C's isspace() in any locale.
_SPACE = " \t\n\v\f\r"
_PAIR = re.compile(
    rf"""[{_SPACE}]*(?P<key>[^={_SPACE}]+)[{_SPACE}]*=[{_SPACE}]*
    (?:'(?P<quoted>(?:\\.|[^'\\])*)'|(?P<bare>(?!')(?:\\.|[^\\{_SPACE}])*\\?))""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.?)", re.DOTALL)


def is_uri(text: str) -> bool:
    """Tell whether it begins like a connection URI of PostgreSQL."""
    return _SCHEME.match(text.lstrip()) is not None


def read_uri(text: str) -> Iterator[Entry]:
    """Read ``postgresql://user:password@host/dbname?…``, and other libraries' variants of it.

    See https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS,
    https://docs.sqlalchemy.org/en/20/core/engines.html#database-urls,
    https://github.com/jazzband/dj-database-url#url-schema and
    https://jdbc.postgresql.org/documentation/use/.
    """
    uri = text.strip()
    scheme = _SCHEME.match(uri)
    if scheme is None or any(character.isspace() for character in uri):
        raise unreadable(
            "it is not one connection URI, postgresql://user:password@host, with %20 for a space",
            text,
            cut="://" not in uri,
        )
    if scheme["java"]:
        yield from _java(uri[scheme.end() :])
    else:
        plus_is_plus = scheme[0] in ("postgresql://", "postgres://")
        yield from _libpq(uri[scheme.end() :], plus_is_plus=plus_is_plus)


def _java(rest: str) -> Iterator[Entry]:
    server, _, query = rest.partition("?")
    if "@" in server:
        raise ConfigurationError(
            "a jdbc: URI has its user name and password at its end, ?user=…&password=…; or write "
            "postgresql:// in front"
        )
    if query:
        yield from _parameters(query, plus_is_plus=False)


def _libpq(rest: str, *, plus_is_plus: bool) -> Iterator[Entry]:
    # libpq looks for an @ before the first slash, even after a question mark.
    authority, slash, rest = rest.partition("/")
    user_info, at, hosts = authority.partition("@") if "@" in authority else ("", "", authority)
    place, question, query = f"{hosts}{slash}{rest}".partition("?")
    hosts, _, path = place.partition("/")
    if "@" in hosts + path or ("@" in query and not _HOSTS.fullmatch(hosts)):
        raise ConfigurationError(_ENCODE)
    if at:
        user, colon, password = user_info.partition(":")
        yield Entry("user", _decode(user), "the URI")
        if colon:
            yield Entry("password", _decode(password), "the URI")
    if question:
        yield from _parameters(query, plus_is_plus=plus_is_plus)


def _parameters(query: str, *, plus_is_plus: bool) -> Iterator[Entry]:
    """Read the parameters; only libpq takes a plus sign in them literally."""
    parameters = query.split("&")
    for number, parameter in enumerate(parameters, start=1):
        key, equals, value = parameter.partition("=")
        last = number == len(parameters)
        if not equals or (last and _CUT_OFF.search(value)):
            raise unreadable(
                f"one of its parameters has no value, or half of one: {_ENCODE}", query, cut=last
            )
        doubt = "" if plus_is_plus or "+" not in value else _PLUS
        yield Entry(_decode(key), _decode(value), "its parameters", doubt=doubt)


def read_conninfo(text: str) -> Iterator[Entry]:
    """Read ``user=… password='…'``, with libpq's quotes and backslashes.

    See https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE.
    """
    position, number = 0, 0
    end = len(text.rstrip(_SPACE))
    while position < end:
        number += 1
        match = _PAIR.match(text, position)
        if match is None:
            raise unreadable(
                f"setting {number} of the connection string is not key=value, or its quote does "
                "not end",
                text,
                cut=not text.endswith("\n"),
            )
        position = match.end()
        value = match["quoted"] if match["quoted"] is not None else match["bare"]
        yield Entry(match["key"], _ESCAPED.sub(r"\1", value), f"setting {number}")


def _decode(text: str) -> str:
    return value_of(_percent_decode(text))


def _percent_decode(text: str) -> str | EphemeralCredsError:
    raw = text.encode("utf-8", "surrogatepass")
    if any(match[1] is None for match in _PERCENT.finditer(raw)):
        return ConfigurationError(f"it has a % that is not followed by two digits: {_ENCODE}")
    try:
        return _PERCENT.sub(lambda match: bytes([int(match[1], 16)]), raw).decode()
    except UnicodeDecodeError:
        return ConfigurationError("its percent-encoding is not UTF-8")
