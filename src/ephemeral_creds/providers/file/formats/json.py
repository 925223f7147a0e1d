"""JSON documents: flat ones, and answers of Vault with the secret below ``data``; pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.file.formats.entry import Entry
from ephemeral_creds.providers.file.formats.mistakes import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["entries_of", "in_envelope", "kind_of", "read_json"]

_Pairs: TypeAlias = "list[tuple[str, object]]"

_ENVELOPE = "data."
# Deeper is no secret of anybody's, and Python's own limit is reached somewhere.
_DEPTH = 8


def read_json(text: str) -> Iterator[Entry]:
    """Read a JSON object.

    A nested value's key is the path to it, with dots. What is below ``data``, where an answer of
    Vault has its secret, is found without that in front as well.

    Raises:
        ConfigurationError: it is not JSON, no object, or the answer of a KV engine as a whole.
        MalformedResponse: it is not JSON, but may be half written.
    """
    document = _loaded(text)
    # Raised with no exception being handled: a JSONDecodeError holds the whole document.
    if isinstance(document, EphemeralCredsError):
        raise document
    return entries_of(document)


def entries_of(document: _Pairs) -> Iterator[Entry]:
    """Yield the entries of an object, which is a list of its pairs."""
    for key, value in _flat(document, "", _DEPTH):
        name = in_envelope(key)
        if isinstance(value, str):
            yield Entry(name, value, _place(key))
        else:
            yield Entry(name, _number(value), _place(key), kind_of(value))


def in_envelope(key: str) -> str:
    """Return the key that a path has in an answer of Vault, without what is around the secret.

    Raises:
        ConfigurationError: it is the answer of a KV engine as a whole.
    """
    if key.startswith("data.data."):
        raise ConfigurationError(
            "it has 'data' within 'data', so it is the whole answer of a key-value engine of "
            "version 2: have the template write .Data.data"
        )
    return key.removeprefix(_ENVELOPE)


def _place(key: str) -> str:
    """Name a place without quoting the document."""
    return "'data'" if key.startswith(_ENVELOPE) else "the object itself"


def _flat(pairs: _Pairs, prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    for key, value in pairs:
        if isinstance(value, _Object) and depth:
            yield from _flat(value, f"{prefix}{key}.", depth - 1)
        else:
            yield prefix + key, value


class _Object(list[tuple[str, object]]):
    """An object's pairs: a dict would keep the last of two equal keys and say nothing."""


def _loaded(text: str) -> _Pairs | EphemeralCredsError:
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
            "it is not JSON to be read: nested too deeply, or a number too long"
        )
    if not isinstance(document, _Object):
        return ConfigurationError("it is JSON, but not an object with keys")
    return document


def kind_of(value: object) -> str:
    """Return what a value is, where it is not text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, dict | _Object) else "a list"


def _number(value: object) -> str:
    return str(value) if isinstance(value, int | float) else ""
