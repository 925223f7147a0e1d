"""Turn the text of a credential file into credentials; pure, and never quoting what it read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.exceptions import ConfigurationError, MalformedResponse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DEFAULT_KEYS", "parse_env"]

DEFAULT_KEYS: tuple[tuple[str, str], ...] = (
    ("DB_USERNAME", "DB_PASSWORD"),
    ("USERNAME", "PASSWORD"),
)
"""The pairs of keys that `parse_env` looks for, the first complete pair first."""

# What Go's text/template prints for a key that is not there, unless told to fail.
_NO_VALUE = "<no value>"

_CHECK = "if it stays so, it is not half written: check the sidecar's template"

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def parse_env(text: str, *, keys: Sequence[tuple[str, str]] = DEFAULT_KEYS) -> Credentials:
    r"""Read ``KEY=VALUE`` lines, as a Vault Agent template or a dotenv file has them.

    Values are taken verbatim: nothing in them is an escape, a comment or a variable, and spaces
    count. Only a pair of quotes around a whole value is removed, so that a template may write
    ``DB_PASSWORD="{{ .Data.password }}"``; it has to where passwords may both begin and end with
    a quote. Lines end with ``\n`` or ``\r\n``. Blank lines, ``#`` lines and other keys are
    skipped; ``export`` before a key is allowed; case does not matter in keys.

    Args:
        text: the whole file.
        keys: pairs of the user name's key and the password's key. The first pair that is
            complete counts; two pairs are never mixed.

    Returns:
        The credentials.

    Raises:
        ConfigurationError: retrying does not help: a value is ``<no value>``, a key occurs twice
            with different values, or there is a NUL in the text.
        MalformedResponse: the text may be half written: it is empty, a key or its value is
            missing, or a line is not ``KEY=VALUE``.
    """
    if "\0" in text:
        raise ConfigurationError("there is a NUL character in it: this is not a text file")
    if not text.strip():
        raise MalformedResponse("it is empty: is the template's body inside a false condition?")
    values = _collect(_assignments(text), wanted={key.upper() for pair in keys for key in pair})
    username_key, password_key = _choose(values, keys)
    return Credentials(
        username=_value(values, username_key), password=Secret(_value(values, password_key))
    )


def _assignments(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, key and value of each assignment."""
    # Not splitlines(): that also breaks at U+2028, form feed and others, which a password may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.removesuffix("\r")
        if not content.strip() or content.lstrip().startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(content)
        if match is None:
            raise MalformedResponse(
                f"line {number} is not KEY=VALUE; it may be half written, and is read again when "
                "it changes: if this stays, correct the template"
            )
        yield number, match[1].upper(), _unquoted(match[2])


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _collect(assignments: Iterator[tuple[int, str, str]], *, wanted: set[str]) -> dict[str, str]:
    """Keep the wanted keys; the same key twice is fine as long as the values agree."""
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, key, value in assignments:
        if key not in wanted:
            continue
        if values.setdefault(key, value) != value:
            raise ConfigurationError(
                f"{key} has one value in line {lines[key]} and another in line {number}"
            )
        lines.setdefault(key, number)
    return values


def _choose(values: dict[str, str], keys: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the first complete pair, else say what is missing from the first one begun."""
    pairs = [(username.upper(), password.upper()) for username, password in keys]
    for pair in pairs:
        if pair[0] in values and pair[1] in values:
            return pair
    for pair in pairs:
        missing = [key for key in pair if key not in values]
        if len(missing) == 1:
            raise MalformedResponse(f"{missing[0]} is missing; {_CHECK}")
    names = " or ".join(" and ".join(pair) for pair in pairs)
    raise MalformedResponse(
        f"it has neither a user name nor a password: expected {names}; {_CHECK}"
    )


def _value(values: dict[str, str], key: str) -> str:
    value = values[key]
    if value.strip() == _NO_VALUE:
        raise ConfigurationError(
            f"{key} is {_NO_VALUE!r}: the template asks for a field that the secret does not have. "
            "Correct its name (for a database role: .Data.username, .Data.password), and set "
            "error_on_missing_key so that the agent itself refuses it"
        )
    if not value:
        raise MalformedResponse(f"{key} has no value; {_CHECK}")
    return value
