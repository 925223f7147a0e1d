"""Choose the credentials among a file's entries, whatever its format; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.file.conninfo import is_uri, read_uri
from ephemeral_creds.providers.file.ends import UNKNOWN, End, end_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ephemeral_creds.providers.file.entry import Entry

__all__ = ["CONNECTION_KEYS", "DEFAULT_KEYS", "URI_KEYS", "Found", "pick"]

DEFAULT_KEYS: tuple[tuple[str, str], ...] = (
    ("DB_USERNAME", "DB_PASSWORD"),
    ("USERNAME", "PASSWORD"),
    ("PGUSER", "PGPASSWORD"),
    ("POSTGRES_USER", "POSTGRES_PASSWORD"),
    ("DB_USER", "DB_PASSWORD"),
    ("USER", "PASSWORD"),
    ("spring.datasource.username", "spring.datasource.password"),
)
"""The pairs of keys that are looked for, the first complete pair first."""

CONNECTION_KEYS = (("user", "password"),)
"""The keys of a connection string."""

URI_KEYS: tuple[str, ...] = (
    "DATABASE_URL",
    "DATABASE_URI",
    "DB_URL",
    "DB_URI",
    "POSTGRES_URL",
    "POSTGRES_URI",
    "POSTGRESQL_URL",
    "POSTGRESQL_URI",
    "DATABASE_DSN",
    "POSTGRES_DSN",
    "SQLALCHEMY_DATABASE_URI",
    "SQLALCHEMY_DATABASE_URL",
    "spring.datasource.url",
    "uri",
    "url",
    "jdbc-uri",
)
"""The keys whose value may be a connection URI, which counts where no pair is complete."""

# What Go's text/template prints for a key that is not there, unless told to fail.
_NO_VALUE = "<no value>"

_CHECK = "if it stays so, it is not half written: check the sidecar's template"


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds.

    Attributes:
        credentials: user name and password.
        end: what it says about their end.
    """

    credentials: Credentials
    end: End = UNKNOWN


def pick(
    entries: Iterable[Entry],
    keys: Sequence[tuple[str, str]] = DEFAULT_KEYS,
    uris: Sequence[str] = (),
) -> Found:
    """Return the first complete pair of `keys`; two pairs are never mixed.

    Args:
        entries: all that is in the file.
        keys: pairs of the user name's key and the password's key. Case does not matter.
        uris: keys of connection URIs. Where no pair is complete, the first one that is there and
            has a URI of PostgreSQL counts.

    Raises:
        ConfigurationError: a value is ``<no value>``, no text, in doubt, or impossible in
            PostgreSQL; or a key occurs twice with different values.
        MalformedResponse: a key or its value is missing.
    """
    found: dict[str, Entry] = {}
    others: dict[str, list[Entry]] = {}
    wanted = {key.upper() for pair in keys for key in pair}
    rest: dict[str, str] = {}
    for entry in entries:
        key = entry.key.upper()
        if key not in wanted:
            rest[key] = entry.value
            others.setdefault(key, []).append(entry)
        elif (known := found.setdefault(key, entry)).value != entry.value:
            name = next(k for pair in keys for k in pair if k.upper() == key)
            raise _twice(name, known, entry)
    end = end_of(rest)
    pair = next((pair for pair in keys if all(key.upper() in found for key in pair)), None)
    if pair is not None:
        username, password = (_value(found[key.upper()], key) for key in pair)
        return Found(Credentials(username=username, password=Secret(password)), end)
    for name in uris:
        if uri := _uri(others.get(name.upper(), []), name):
            return Found(_credentials_of(uri, name), end)
    raise _absent(set(found), keys, uris)


def _uri(entries: Sequence[Entry], name: str) -> str:
    """Return the URI that a key has, without quotes around it; empty where it has none."""
    values = [_unquoted(entry.value) for entry in entries]
    if len(set(values)) > 1:
        raise _twice(name, entries[0], next(e for e in entries if e.value != entries[0].value))
    return values[0] if values and is_uri(values[0]) else ""


def _unquoted(value: str) -> str:
    """Nothing that begins with a quote is a URI, so that they are no part of it."""
    return value[1:-1] if value[:1] in ("'", '"') and value[-1:] == value[:1] else value


def _credentials_of(uri: str, name: str) -> Credentials:
    result = _read(uri, name)
    # Raised with no exception being handled, so that there is none to be seen in its context.
    if isinstance(result, EphemeralCredsError):
        raise result
    return result


def _read(uri: str, name: str) -> Credentials | EphemeralCredsError:
    try:
        return pick(read_uri(uri), CONNECTION_KEYS).credentials
    except (ConfigurationError, MalformedResponse) as error:
        return type(error)(f"{name}: {error}")


def _twice(name: str, one: Entry, other: Entry) -> ConfigurationError:
    return ConfigurationError(f"{name} has one value in {one.where} and another in {other.where}")


def _absent(
    present: set[str], keys: Sequence[tuple[str, str]], uris: Sequence[str]
) -> MalformedResponse:
    """Say what is missing from the first pair begun, or all that would do."""
    for pair in keys:
        missing = [key for key in pair if key.upper() not in present]
        if len(missing) == 1:
            return MalformedResponse(f"{missing[0]} is missing; {_CHECK}")
    expected = [" and ".join(pair) for pair in keys]
    if uris:
        expected.append(f"a URI of PostgreSQL in {' or '.join(uris)}")
    return MalformedResponse(
        f"it has neither a user name nor a password: expected {', or '.join(expected)}; {_CHECK}. "
        "Other keys can be named with username_key and password_key, or url_key"
    )


def _value(entry: Entry, key: str) -> str:
    value = entry.value
    if entry.doubt:
        raise ConfigurationError(f"{key} in {entry.where} {entry.doubt}")
    if entry.kind:
        raise ConfigurationError(
            f"{key} is {entry.kind}, not text: quote it in the template, or have it write JSON "
            "with toJSON"
        )
    if value.strip() == _NO_VALUE:
        raise ConfigurationError(
            f"{key} is {_NO_VALUE!r}: the template asks for a field that the secret does not have. "
            "Correct its name (for a database role: .Data.username, .Data.password), and set "
            "error_on_missing_key so that the agent itself refuses it"
        )
    if not value:
        raise MalformedResponse(f"{key} has no value; {_CHECK}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigurationError(
            f"{key} has a character that PostgreSQL cannot take: a NUL, or half a surrogate pair"
        )
    return value
