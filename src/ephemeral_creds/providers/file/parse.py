"""Turn the text of a credential file into credentials; pure, and never quoting what it read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from ephemeral_creds.exceptions import ConfigurationError, MalformedResponse
from ephemeral_creds.providers.file.conninfo import is_uri, read_conninfo, read_uri
from ephemeral_creds.providers.file.document import read_json
from ephemeral_creds.providers.file.fields import (
    CONNECTION_KEYS,
    DEFAULT_KEYS,
    URI_KEYS,
    Found,
    pick,
)
from ephemeral_creds.providers.file.lines import as_yaml, lines_of, read_env, read_map
from ephemeral_creds.providers.file.properties import read_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ephemeral_creds.providers.file.entry import Entry

__all__ = ["FORMATS", "Format", "TextFormat", "parse", "recognise"]

TextFormat: TypeAlias = Literal["env", "json", "map", "uri", "conninfo", "properties"]
Format: TypeAlias = Literal["auto", "directory"] | TextFormat

FORMATS: tuple[str, ...] = ("auto", "directory", *get_args(TextFormat))
"""The names of all formats."""

_READERS: Mapping[str, Callable[[str], Iterator[Entry]]] = {
    "env": read_env,
    "json": read_json,
    "map": read_map,
    "uri": read_uri,
    "conninfo": read_conninfo,
    "properties": read_properties,
}
_MAP_LINE = re.compile(r"[ \t]*[A-Za-z_][\w-]*:(?: |$)", re.ASCII)
_DOTTED_LINE = re.compile(r"[ \t]*[\w-]+(?:\.[\w-]+)+[ \t]*[=: ]", re.ASCII)
_SETTING = re.compile(r"(?:^|[ \t])(\w+)[ \t]*=", re.ASCII)


def parse(
    text: str,
    *,
    format: Format = "auto",  # noqa: A002 - what it is called everywhere
    keys: Sequence[tuple[str, str]] = DEFAULT_KEYS,
    uris: Sequence[str] = URI_KEYS,
) -> Found:
    """Read the credentials in `text`.

    Args:
        text: the whole file.
        format: what it is written in; ``auto`` recognises it by its content.
        keys: pairs of the user name's key and the password's key; the first complete pair
            counts, and case does not matter. A connection string has its own.
        uris: keys of connection URIs, which count where no pair is complete.

    Raises:
        ConfigurationError: retrying does not help: a value is ``<no value>`` or in doubt, a key
            occurs twice with different values, there is a NUL in the text …
        MalformedResponse: the text may be half written: it is empty, a key or its value is
            missing, a line is not what it should be …
    """
    content = text.removeprefix("\ufeff")
    if "\0" in content:
        raise ConfigurationError("there is a NUL character in it: this is not a text file")
    if not content.strip():
        raise MalformedResponse("it is empty: is the template's body inside a false condition?")
    name = recognise(content) if format == "auto" else format
    entries = _READERS[name](content)
    if name in ("uri", "conninfo"):
        return pick(entries, CONNECTION_KEYS)
    if name == "map" and format == "auto":
        entries = as_yaml(entries, {key.upper() for pair in keys for key in pair})
    return pick(entries, keys, uris)


def recognise(text: str) -> TextFormat:
    """Tell a text's format by its first line that says something.

    ``KEY=VALUE`` lines are `env`, whose values are verbatim, and not `properties`, unless a key has
    a dot; they are `conninfo` where user and password are in one line.
    """
    start = text.lstrip()
    if start.startswith(("{", "[")):
        return "json"
    if is_uri(start):
        return "uri"
    line = next((line for _, line in lines_of(text)), "")
    if _MAP_LINE.match(line):
        return "map"
    # Java's second kind of comment.
    if _DOTTED_LINE.match(line) or line.lstrip().startswith("!"):
        return "properties"
    settings = _SETTING.findall(line)
    if settings and settings[0].islower() and {"user", "password"} <= {*settings}:
        return "conninfo"
    return "env"
