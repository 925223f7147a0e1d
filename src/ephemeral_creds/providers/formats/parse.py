"""The text of a credential file to credentials; pure. No error quotes the text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from ephemeral_creds.exceptions import ConfigurationError, MalformedResponse
from ephemeral_creds.providers.formats.conninfo import is_uri, read_conninfo, read_uri
from ephemeral_creds.providers.formats.entry import Entry
from ephemeral_creds.providers.formats.json import read_json
from ephemeral_creds.providers.formats.lines import as_yaml, lines_of, read_env, read_map
from ephemeral_creds.providers.formats.mistakes import mistaken_file
from ephemeral_creds.providers.formats.pick import (
    CONNECTION_PAIRS,
    USUAL_KEYS,
    Found,
    Keys,
    pick,
)
from ephemeral_creds.providers.formats.properties import read_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["FORMATS", "Format", "TextFormat", "parse", "read_password", "recognise"]

TextFormat: TypeAlias = Literal["env", "json", "map", "uri", "conninfo", "properties", "password"]
Format: TypeAlias = Literal["auto", "directory"] | TextFormat

FORMATS: tuple[str, ...] = ("auto", "directory", *get_args(TextFormat))
"""The names of all formats."""


def read_password(text: str) -> Iterator[Entry]:
    """Read the whole text, without a line end at its end."""
    yield Entry("password", text.removesuffix("\n").removesuffix("\r"), "the file")


_READERS: Mapping[str, Callable[[str], Iterator[Entry]]] = {
    "env": read_env,
    "json": read_json,
    "map": read_map,
    "uri": read_uri,
    "conninfo": read_conninfo,
    "properties": read_properties,
    "password": read_password,
}
# Their keys cannot be chosen.
_KEYLESS = ("uri", "conninfo", "password")
_MAP_LINE = re.compile(r"[ \t]*[A-Za-z_][\w-]*:(?: |$)", re.ASCII)
_DOTTED_LINE = re.compile(r"[ \t]*[\w-]+(?:\.[\w-]+)+[ \t]*[=: ]", re.ASCII)
# Blank lines and comments, and the line with which a YAML document begins.
_PREAMBLE = re.compile(r"(?:[ \t]*(?:[#;][^\n]*)?\r?\n)*")
_DOCUMENT = re.compile(rf"({_PREAMBLE.pattern})---[ \t]*\r?\n")
_ALONE = re.compile(r"[^\s=]+(?:\r?\n)?")
_LIBPQ = frozenset({"host", "hostaddr", "port", "dbname", "user", "password", "sslmode"})
_SETTING = re.compile(r"(?:^|[ \t])(\w+)[ \t]*=", re.ASCII)


def parse(
    text: str,
    *,
    format: Format = "auto",  # noqa: A002 - what it is called everywhere
    keys: Keys = USUAL_KEYS,
) -> Found:
    """Read the credentials in the text of a file.

    The format ``auto`` is recognised by the content. Connection strings have `keys` of their own.

    Raises:
        ConfigurationError: retrying does not help: a value is a placeholder or ambiguous, a key
            occurs twice with different values, the format is another …
        MalformedResponse: the text may be half written: it is empty, a key or its value is
            missing, the last line has no line end …
    """
    content = text.removeprefix("\ufeff")
    if "\0" in content:
        raise ConfigurationError("there is a NUL character in it: this is not a text file")
    if not content.strip():
        raise MalformedResponse("it is empty: is the template's body inside a false condition?")
    if format != "password":
        if document := _DOCUMENT.match(content):
            content = f"{document[1]}\n{content[document.end() :]}"
        start = _PREAMBLE.sub("", content, count=1)
        if not is_uri(start) and (mistake := mistaken_file(start)):
            raise ConfigurationError(f"it is {mistake}")
    name = recognise(content) if format == "auto" else format
    if format == "auto" and name == "env" and keys.username and _ALONE.fullmatch(content):
        name = "password"
    entries = _READERS[name](content)
    if name in _KEYLESS:
        keys = keys._replace(pairs=CONNECTION_PAIRS, uris=())
        return pick(entries, keys, whole=content.endswith("\n"))
    if name == "map" and format == "auto":
        entries = as_yaml(entries, {key.upper() for pair in keys.pairs for key in pair})
    return pick(entries, keys, whole=name == "json")


def recognise(text: str) -> TextFormat:
    """Return a text's format, by its first line that is neither blank nor a comment.

    ``KEY=VALUE`` lines are `env`, whose values are verbatim, and not `properties`, unless a key has
    a dot; they are `conninfo` if one line has two of a connection string's settings.
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
    if settings and settings[0].islower() and len(_LIBPQ & {*settings}) > 1:
        return "conninfo"
    return "env"
