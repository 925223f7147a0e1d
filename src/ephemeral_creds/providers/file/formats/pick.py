"""Choose the credentials among a file's entries, whatever its format; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.file.formats.conninfo import is_uri, read_uri
from ephemeral_creds.providers.file.formats.ends import UNKNOWN, End, end_of
from ephemeral_creds.providers.file.formats.entry import Entry
from ephemeral_creds.providers.file.formats.mistakes import mistaken_value, odd_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "CONNECTION_PAIRS", "DEFAULT_KEYS", "USUAL_KEYS", "Found", "Keys", "checked_name", "pick",
]  # fmt: skip

DEFAULT_KEYS: tuple[tuple[str, str], ...] = (
    ("DB_USERNAME", "DB_PASSWORD"),
    ("PGUSER", "PGPASSWORD"),
    ("POSTGRES_USER", "POSTGRES_PASSWORD"),
    ("DB_USER", "DB_PASSWORD"),
    ("spring.datasource.username", "spring.datasource.password"),
    ("USERNAME", "PASSWORD"),
    ("USER", "PASSWORD"),
)
"""The pairs of keys that are looked for."""

# Any service may be meant by these, so that the database's own names count before them.
_ANYBODYS = frozenset({"USERNAME", "USER", "PASSWORD"})

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

_BEHIND = re.compile(r"[ \t]#|[;,]\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds.

    Attributes:
        credentials: user name and password.
        end: what it says about their end.
    """

    credentials: Credentials
    end: End = UNKNOWN


class Keys(NamedTuple):
    """What to look for.

    Attributes:
        pairs: the keys of user name and password. Case does not matter.
        uris: the keys of connection URIs. Where no pair is complete, the first one that is there
            and has a URI of PostgreSQL counts.
        username: the user name, where the file need not have one; empty where it has to.
    """

    pairs: Sequence[tuple[str, str]] = DEFAULT_KEYS
    uris: Sequence[str] = URI_KEYS
    username: str = ""


USUAL_KEYS = Keys()

CONNECTION_PAIRS = (("user", "password"),)
"""The keys of a connection string."""


def pick(entries: Iterable[Entry], keys: Keys = USUAL_KEYS, *, whole: bool = False) -> Found:
    """Return the credentials among `entries`; what is of two pairs is never mixed.

    Pairs with names of the database's own count before those that any service may use. Pairs of
    one kind with different values are in doubt, and so are several URIs, and anybody's pair beside
    another user name, password or URI of the database's.

    Args:
        entries: all that is in the file.
        keys: what to look for.
        whole: whether nothing can be missing because it is yet to be written.

    Raises:
        ConfigurationError: a value is a placeholder, no text, in doubt, or impossible in
            PostgreSQL; or there are different values to choose from.
        MalformedResponse: a key or its value is missing.
    """
    found, others = _sorted(entries, keys.pairs)
    end = end_of({key: same[-1].value for key, same in others.items()})
    pair = _pair(found, keys, whole=whole)
    uris = _uris(others, keys.uris) if pair is None or _is_anybodys(pair) else []
    if pair is not None:
        name = _named(pair)
        username = keys.username or _username(found[pair[0].upper()], pair[0], whole=whole)
        password = Secret(_text(found[pair[1].upper()], pair[1], whole=whole))
        credentials = Credentials(username=username, password=password)
    elif uris:
        name = f"the URI in {uris[0].key}"
        credentials = _credentials_of(uris[0], keys.username)
    else:
        raise _absent(found, keys, whole=whole)
    for uri in uris:
        of_uri = _read(uri, keys.username)
        if isinstance(of_uri, Credentials) and of_uri != credentials:
            raise _two(name, f"the URI in {uri.key}")
    return Found(credentials, end)


def checked_name(username: str) -> str:
    """Return a user name that comes from no file.

    Raises:
        ConfigurationError: it cannot be one.
    """
    return _username(Entry("username", username, "the arguments"), "username", whole=True)


def _sorted(
    entries: Iterable[Entry], pairs: Sequence[tuple[str, str]]
) -> tuple[dict[str, Entry], dict[str, list[Entry]]]:
    """Return the entries of the pairs' keys, and all others, by upper-case key."""
    found: dict[str, Entry] = {}
    others: dict[str, list[Entry]] = {}
    names = {key.upper(): key for pair in pairs for key in pair}
    for entry in entries:
        key = entry.key.upper()
        if key not in names:
            others.setdefault(key, []).append(entry)
        elif (known := found.setdefault(key, entry)).value != entry.value:
            raise _twice(names[key], known, entry)
    return found, others


def _pair(found: Mapping[str, Entry], keys: Keys, *, whole: bool) -> tuple[str, str] | None:
    """Return the complete pair that counts."""

    def values(pair: tuple[str, str]) -> tuple[str, str]:
        user, password = (found[key.upper()].value if key.upper() in found else "" for key in pair)
        return user or keys.username, password

    def is_complete(pair: tuple[str, str]) -> bool:
        user, password = (key.upper() in found for key in pair)
        return password and (user or keys.username != "")

    complete = [pair for pair in keys.pairs if is_complete(pair)]
    own = [pair for pair in keys.pairs if not _is_anybodys(pair)]
    chosen = [pair for pair in complete if pair in own] or complete
    if not chosen:
        return None
    first = chosen[0]
    for pair in chosen:
        if keys.username and values(pair)[0] != keys.username:
            raise ConfigurationError(
                f"{pair[0]} is another user name than username= says: remove one of them"
            )
        if values(pair) != values(first):
            raise _two(_named(first), _named(pair))
    for pair in own if _is_anybodys(first) else ():
        for key, value, other in zip(pair, values(first), reversed(pair), strict=True):
            if key.upper() in found and found[key.upper()].value != value:
                raise _incomplete(
                    f"{other} is missing; {_named(first)}, which are there, do not have the value "
                    f"of {key}",
                    whole=whole,
                )
    return first


def _is_anybodys(pair: tuple[str, str]) -> bool:
    return not _ANYBODYS.isdisjoint(key.upper() for key in pair)


def _named(pair: tuple[str, str]) -> str:
    return " and ".join(pair)


def _uris(others: Mapping[str, Sequence[Entry]], names: Sequence[str]) -> list[Entry]:
    """Return the keys that have a URI, with no quotes around it."""
    uris = []
    for name in names:
        entries = others.get(name.upper(), [])
        values = [_unquoted(entry.value) for entry in entries]
        if len(set(values)) > 1:
            raise _twice(name, entries[0], next(e for e in entries if e.value != entries[0].value))
        if values and is_uri(values[0].lstrip("'\"")):
            uris.append(entries[0]._replace(key=name, value=values[0]))
    return uris


def _unquoted(value: str) -> str:
    """Nothing that begins with a quote is a URI, so that they are no part of it."""
    return value[1:-1] if value[:1] in ("'", '"') and value[-1:] == value[:1] else value


def _credentials_of(uri: Entry, username: str) -> Credentials:
    result = _read(uri, username)
    # Raised with no exception being handled, so that there is none to be seen in its context.
    if isinstance(result, EphemeralCredsError):
        raise result
    return result


def _read(uri: Entry, username: str) -> Credentials | EphemeralCredsError:
    try:
        return pick(read_uri(uri.value), Keys(CONNECTION_PAIRS, (), username)).credentials
    except (ConfigurationError, MalformedResponse) as error:
        return type(error)(f"{uri.key}: {error}")


def _twice(name: str, one: Entry, other: Entry) -> ConfigurationError:
    return ConfigurationError(f"{name} has one value in {one.where} and another in {other.where}")


def _two(one: str, other: str) -> ConfigurationError:
    return ConfigurationError(
        f"there are two sets of credentials, {one}, and {other}: remove what is not the "
        "database's, or name the keys that count with username_key and password_key, or url_key"
    )


def _absent(
    found: Mapping[str, Entry], keys: Keys, *, whole: bool
) -> MalformedResponse | ConfigurationError:
    """Say what is missing from the first pair begun, or all that would do."""
    for pair in keys.pairs:
        missing = [key for key in pair if key.upper() not in found]
        if len(missing) == 1:
            return _incomplete(f"{missing[0]} is missing", whole=whole)
    if keys.username:
        needed, expected = "no password", list(dict.fromkeys(key for _, key in keys.pairs))
        expected.append("the password alone, with format='password'")
    else:
        needed, expected = "neither a user name nor a password", [*map(_named, keys.pairs)]
    if keys.uris:
        expected.append(f"a URI of PostgreSQL in {' or '.join(keys.uris)}")
    return _incomplete(
        f"it has {needed}: expected {', or '.join(expected)}. Other keys can be named with "
        "username_key and password_key, or url_key",
        whole=whole,
    )


def _incomplete(what: str, *, whole: bool) -> MalformedResponse | ConfigurationError:
    if whole:
        return ConfigurationError(f"{what}: check the sidecar's template")
    return MalformedResponse(
        f"{what}; the file may be half written: if this stays, check the sidecar's template"
    )


def _username(entry: Entry, key: str, *, whole: bool) -> str:
    """Return a user name, which has nothing at its ends that may not be a part of it."""
    value = _text(entry, key, whole=whole)
    if value != value.strip(" ") or _BEHIND.search(value):
        raise ConfigurationError(
            f"{key} has a space at one of its ends, or a comment, ; or , behind it: remove that, "
            "and the same at the password"
        )
    return value


def _text(entry: Entry, key: str, *, whole: bool) -> str:
    value = entry.value
    if entry.doubt:
        raise ConfigurationError(f"{key} in {entry.where} {entry.doubt}")
    if entry.kind:
        raise ConfigurationError(
            f"{key} is {entry.kind}, not text: quote it in the template, or have it write JSON "
            "with toJSON"
        )
    if mistake := mistaken_value(value):
        raise ConfigurationError(f"{key} is {mistake}")
    if not value:
        raise _incomplete(f"{key} has no value", whole=whole)
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigurationError(
            f"{key} has a character that PostgreSQL cannot take: a NUL, or half a surrogate pair"
        )
    if character := odd_end(value):
        raise ConfigurationError(
            f"{key} begins or ends with a character that nobody sees, {character}: remove it"
        )
    return value
