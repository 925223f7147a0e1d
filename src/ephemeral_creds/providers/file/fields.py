"""Choose the credentials among a file's entries, whatever its format; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.exceptions import ConfigurationError, MalformedResponse
from ephemeral_creds.providers.file.ends import UNKNOWN, End, end_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DEFAULT_KEYS", "Entry", "Found", "pick"]

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

# What Go's text/template prints for a key that is not there, unless told to fail.
_NO_VALUE = "<no value>"

_CHECK = "if it stays so, it is not half written: check the sidecar's template"


class Entry(NamedTuple):
    """One key of a file with its value.

    Attributes:
        key: as it is written there.
        value: as text, whatever it is.
        where: what to call the place in a message.
        kind: what it is instead, where it is not text: "a number".
    """

    key: str
    value: str
    where: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds.

    Attributes:
        credentials: user name and password.
        end: what it says about their end.
    """

    credentials: Credentials
    end: End = UNKNOWN


def pick(entries: Iterable[Entry], keys: Sequence[tuple[str, str]] = DEFAULT_KEYS) -> Found:
    """Return the first complete pair of `keys`; two pairs are never mixed.

    Args:
        entries: all that is in the file.
        keys: pairs of the user name's key and the password's key. Case does not matter.

    Raises:
        ConfigurationError: a value is ``<no value>``, no text, or impossible in PostgreSQL; or a
            key occurs twice with different values.
        MalformedResponse: a key or its value is missing.
    """
    found: dict[str, Entry] = {}
    wanted = {key.upper() for pair in keys for key in pair}
    rest: dict[str, str] = {}
    for entry in entries:
        key = entry.key.upper()
        if key not in wanted:
            rest[key] = entry.value
        elif (known := found.setdefault(key, entry)).value != entry.value:
            name = next(k for pair in keys for k in pair if k.upper() == key)
            raise ConfigurationError(
                f"{name} has one value in {known.where} and another in {entry.where}"
            )
    username_key, password_key = _choose(found.keys(), keys)
    username = _value(found[username_key.upper()], username_key)
    password = _value(found[password_key.upper()], password_key)
    return Found(Credentials(username=username, password=Secret(password)), end_of(rest))


def _choose(found: Iterable[str], keys: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the first complete pair, else say what is missing from the first one begun."""
    present = set(found)
    absent = [[key for key in pair if key.upper() not in present] for pair in keys]
    for pair, missing in zip(keys, absent, strict=True):
        if not missing:
            return pair
    for missing in absent:
        if len(missing) == 1:
            raise MalformedResponse(f"{missing[0]} is missing; {_CHECK}")
    names = " or ".join(" and ".join(pair) for pair in keys)
    raise MalformedResponse(
        f"it has neither a user name nor a password: expected {names}; {_CHECK}. Other keys can "
        "be named with username_key and password_key"
    )


def _value(entry: Entry, key: str) -> str:
    value = entry.value
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
