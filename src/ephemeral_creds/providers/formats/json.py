"""JSON documents: flat ones, and Vault's replies with the secret below ``data``; pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.formats.entry import Entry
from ephemeral_creds.providers.formats.mistakes import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["in_envelope", "kind_of", "read_json"]

_Pairs: TypeAlias = "list[tuple[str, object]]"

_ENVELOPE = "data."
# No secret is nested deeper, and Python's own limit must not be reached.
_DEPTH = 8


def read_json(text: str) -> Iterator[Entry]:
    """Read a JSON object.

    A nested value's key is the path to it, with dots. A leading ``data``, below which Vault's
    replies have their secret, is left out.
    """
    for key, value in _flatten(value_of(_load(text)), "", _DEPTH):
        where = "'data'" if key.startswith(_ENVELOPE) else "the object itself"
        if isinstance(value, str):
            yield Entry(in_envelope(key), value, where)
        else:
            number = str(value) if isinstance(value, int | float) else ""
            yield Entry(in_envelope(key), number, where, kind_of(value))


def in_envelope(key: str) -> str:
    """Return a path without the leading ``data`` of Vault's replies."""
    if key.startswith("data.data."):
        raise ConfigurationError(
            "it has 'data' within 'data', so it is the whole reply of a key-value engine of "
            "version 2: have the template write .Data.data"
        )
    return key.removeprefix(_ENVELOPE)


def _flatten(pairs: _Pairs, prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    for key, value in pairs:
        if isinstance(value, _Object) and depth:
            yield from _flatten(value, f"{prefix}{key}.", depth - 1)
        else:
            yield prefix + key, value


class _Object(list[tuple[str, object]]):
    """An object's pairs: a dict would silently keep the last of two equal keys."""


def _load(text: str) -> _Pairs | EphemeralCredsError:
    try:
        document = json.loads(text, object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        whole = text.rstrip().endswith("}") and error.pos < len(text)
        return unreadable(
            f"it is not JSON, see line {error.lineno} column {error.colno}; a value with a quote "
            "or a backslash in it has to be written by toJSON",
            text,
            cut=not whole and error.msg != "Extra data",
        )
    except (ValueError, RecursionError):
        return ConfigurationError(
            "it is JSON that cannot be read: nested too deeply, or a number too long"
        )
    if not isinstance(document, _Object):
        return ConfigurationError("it is JSON, but not an object with keys")
    return document


def kind_of(value: object) -> str:
    """Return the type of a value that is not text, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, dict | _Object) else "a list"
