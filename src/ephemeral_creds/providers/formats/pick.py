"""Choosing the credentials among the entries of a file or a secret, in any format; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.formats.conninfo import is_uri, read_uri
from ephemeral_creds.providers.formats.ends import UNKNOWN, End, end_of
from ephemeral_creds.providers.formats.entry import Entry
from ephemeral_creds.providers.formats.mistakes import invisible_end, mistaken_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "CONNECTION_PAIRS", "DEFAULT_PAIRS", "USUAL_KEYS", "Found", "Keys", "Wording",
    "pairs_with", "pick", "validate_username",
]  # fmt: skip

DEFAULT_PAIRS: tuple[tuple[str, str], ...] = (
    ("DB_USERNAME", "DB_PASSWORD"),
    ("PGUSER", "PGPASSWORD"),
    ("POSTGRES_USER", "POSTGRES_PASSWORD"),
    ("DB_USER", "DB_PASSWORD"),
    ("spring.datasource.username", "spring.datasource.password"),
    ("USERNAME", "PASSWORD"),
    ("USER", "PASSWORD"),
)
"""The pairs of keys that are looked for."""

# What a `CredentialsFile` writes besides, below ``ephemeral_creds``.
_TRAITS = ("ROLE_STAYS", "REQUIRES_TLS")

# They may belong to any service, so the database's own names take precedence.
_GENERIC = frozenset({"USERNAME", "USER", "PASSWORD"})

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
"""The keys whose value may be a connection URI, which counts if no pair is complete."""

_TRAILING = re.compile(r"[ \t]#|[;,]\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """The credentials in a file, and what it says about their end.

    `role_stays` tells that sessions outlive another password of the same user.
    """

    credentials: Credentials
    end: End = UNKNOWN
    role_stays: bool = False


class Wording(NamedTuple):
    """What messages advise: a file has a template, and a secret's fields have none.

    Attributes:
        check: what to check if something is missing.
        choose: how to choose other keys.
        alone: how a password without a key is read.
        quote: what to do about a value that is not text.
        mistake: what to do about a mistaken value; empty for each mistake's own remedy.
    """

    check: str = "check the sidecar's template"
    choose: str = "username_key and password_key, or url_key"
    alone: str = "the password alone, with format='password'"
    quote: str = "quote it in the template, or have it write JSON with toJSON"
    mistake: str = ""


class Keys(NamedTuple):
    """The keys to look for.

    Attributes:
        pairs: the keys of user name and password. Case does not matter.
        uris: the keys of connection URIs. If no pair is complete, the first one with a URI of
            PostgreSQL counts.
        username: the user name, if the file need not have one; empty if it has to.
        wording: what messages advise.
    """

    pairs: Sequence[tuple[str, str]] = DEFAULT_PAIRS
    uris: Sequence[str] = URI_KEYS
    username: str = ""
    wording: Wording = Wording()


def pairs_with(username_key: str | None, password_key: str | None) -> Sequence[tuple[str, str]]:
    """Return the pairs to look for if one or both of their keys have a name of their own."""
    pairs = ((username_key or user, password_key or password) for user, password in DEFAULT_PAIRS)
    return tuple(dict.fromkeys(pairs))


USUAL_KEYS = Keys()

CONNECTION_PAIRS = (("user", "password"),)
"""The keys of a connection string."""


def pick(entries: Iterable[Entry], keys: Keys = USUAL_KEYS, *, whole: bool = False) -> Found:
    """Return the credentials among `entries`; two pairs are never mixed.

    Pairs with names of the database's own take precedence over generic ones. Pairs of one kind
    with different values are ambiguous, and so are several URIs, and a generic pair beside another
    user name, password or URI of the database's.

    Raises:
        ConfigurationError: a value is a placeholder, not text, ambiguous, or impossible in
            PostgreSQL; or there are different values to choose from.
        MalformedResponse: a key or its value is missing, and the file is not `whole`.
    """
    found, others = _by_key(entries, keys.pairs)
    end = end_of({key: same[-1].value for key, same in others.items()})
    pair = _pair(found, keys, whole=whole)
    uris = _uris(others, keys.uris) if pair is None or _is_generic(pair) else []
    if pair is not None:
        name = _pair_name(pair)
        username = keys.username or _username(found[pair[0].upper()], pair[0], keys, whole=whole)
        password = Secret(_text(found[pair[1].upper()], pair[1], keys, whole=whole))
        credentials = Credentials(username=username, password=password)
    elif uris:
        name = f"the URI in {uris[0].key}"
        credentials = value_of(_read(uris[0], keys))
    else:
        raise _nothing_found(found, keys, whole=whole)
    for uri in uris:
        of_uri = _read(uri, keys)
        if isinstance(of_uri, Credentials) and of_uri != credentials:
            raise _two_sets(name, f"the URI in {uri.key}", keys)
    stays, tls = (_is_true(others.get(f"EPHEMERAL_CREDS.{key}")) for key in _TRAITS)
    return Found(replace(credentials, requires_tls=tls), end, stays)


def _is_true(entries: Sequence[Entry] | None) -> bool:
    return entries is not None and entries[-1].value.lower() == "true"


def validate_username(username: str) -> str:
    """Return a user name that was given as an argument, or raise if it cannot be one."""
    entry = Entry("username", username, "the arguments")
    return _username(entry, "username", USUAL_KEYS, whole=True)


def _by_key(
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
    """Return the complete pair that takes precedence."""

    def values(pair: tuple[str, str]) -> tuple[str, str]:
        user, password = (found[key.upper()].value if key.upper() in found else "" for key in pair)
        return user or keys.username, password

    def is_complete(pair: tuple[str, str]) -> bool:
        user, password = (key.upper() in found for key in pair)
        return password and (user or keys.username != "")

    complete = [pair for pair in keys.pairs if is_complete(pair)]
    own = [pair for pair in keys.pairs if not _is_generic(pair)]
    chosen = [pair for pair in complete if pair in own] or complete
    if not chosen:
        return None
    first = chosen[0]
    for pair in chosen:
        if keys.username and values(pair)[0] != keys.username:
            raise ConfigurationError(
                f"{pair[0]} is not the user name in username=: remove one of them"
            )
        if values(pair) != values(first):
            raise _two_sets(_pair_name(first), _pair_name(pair), keys)
    for pair in own if _is_generic(first) else ():
        for key, value, other in zip(pair, values(first), reversed(pair), strict=True):
            if key.upper() in found and found[key.upper()].value != value:
                raise _incomplete(
                    f"{other} is missing, and {_pair_name(first)} do not have the value of {key}",
                    keys,
                    whole=whole,
                )
    return first


def _is_generic(pair: tuple[str, str]) -> bool:
    return not _GENERIC.isdisjoint(key.upper() for key in pair)


def _pair_name(pair: tuple[str, str]) -> str:
    return " and ".join(pair)


def _uris(others: Mapping[str, Sequence[Entry]], names: Sequence[str]) -> list[Entry]:
    """Return the entries that have a URI, without quotes around it."""
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
    # No URI begins with a quote, so they cannot be a part of it.
    return value[1:-1] if value[:1] in ("'", '"') and value[-1:] == value[:1] else value


def _read(uri: Entry, keys: Keys) -> Credentials | EphemeralCredsError:
    try:
        keys = keys._replace(pairs=CONNECTION_PAIRS, uris=())
        return pick(read_uri(uri.value), keys).credentials
    except (ConfigurationError, MalformedResponse) as error:
        return type(error)(f"{uri.key}: {error}")


def _twice(name: str, one: Entry, other: Entry) -> ConfigurationError:
    return ConfigurationError(f"{name} has one value in {one.where} and another in {other.where}")


def _two_sets(one: str, other: str, keys: Keys) -> ConfigurationError:
    return ConfigurationError(
        f"there are two sets of credentials, {one}, and {other}: remove the one that is not the "
        f"database's, or choose the keys with {keys.wording.choose}"
    )


def _nothing_found(
    found: Mapping[str, Entry], keys: Keys, *, whole: bool
) -> MalformedResponse | ConfigurationError:
    """Return the error that names the missing half of a pair, or all possible keys."""
    for pair in keys.pairs:
        missing = [key for key in pair if key.upper() not in found]
        if len(missing) == 1:
            instead = ", or give the user name as username=" if missing[0] == pair[0] else ""
            return _incomplete(f"{missing[0]} is missing", keys, whole=whole, instead=instead)
    if keys.username:
        needed, expected = "no password", list(dict.fromkeys(key for _, key in keys.pairs))
        if keys.wording.alone:
            expected.append(keys.wording.alone)
    else:
        needed, expected = "neither a user name nor a password", [*map(_pair_name, keys.pairs)]
    if keys.uris:
        expected.append(f"a URI of PostgreSQL in {' or '.join(keys.uris)}")
    return _incomplete(
        f"it has {needed}: expected {', or '.join(expected)}. Choose other keys with "
        f"{keys.wording.choose}",
        keys,
        whole=whole,
    )


def _incomplete(
    what: str, keys: Keys, *, whole: bool, instead: str = ""
) -> MalformedResponse | ConfigurationError:
    check = keys.wording.check + instead
    if whole:
        return ConfigurationError(f"{what}: {check}")
    return MalformedResponse(f"{what}; the file may be half written: if this stays, {check}")


def _username(entry: Entry, key: str, keys: Keys, *, whole: bool) -> str:
    """Return a user name, which has no trailing text that may not belong to it."""
    value = _text(entry, key, keys, whole=whole)
    if value != value.strip(" ") or _TRAILING.search(value):
        raise ConfigurationError(
            f"{key} begins or ends with a space, or is followed by a comment, ; or ,: remove that, "
            "from the password too"
        )
    return value


def _text(entry: Entry, key: str, keys: Keys, *, whole: bool) -> str:
    value = entry.value
    if entry.doubt:
        raise ConfigurationError(f"{key} in {entry.where} {entry.doubt}")
    if entry.kind:
        raise ConfigurationError(f"{key} is {entry.kind}, not text: {keys.wording.quote}")
    if mistake := mistaken_value(value, keys.wording.mistake):
        raise ConfigurationError(f"{key} is {mistake}")
    if not value:
        raise _incomplete(f"{key} has no value", keys, whole=whole)
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigurationError(
            f"{key} has a character that PostgreSQL cannot take: a NUL, or half a surrogate pair"
        )
    if character := invisible_end(value):
        raise ConfigurationError(
            f"{key} begins or ends with an invisible character, {character}: remove it"
        )
    return value
