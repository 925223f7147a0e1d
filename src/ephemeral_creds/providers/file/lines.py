"""Files with one value per line: ``KEY=VALUE``, and the injector's ``key: value``; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import MalformedResponse
from ephemeral_creds.providers.file.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["as_yaml", "lines_of", "read_env", "read_map"]

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)([ \t]*)=(.*)", re.DOTALL)
_SPACE = " \t"
# In quotes, and then something that others take for a comment or for nothing.
_QUOTED_AND_MORE = re.compile(r"""(["'])(?:(?!\1).)*\1[ \t]+(?:#.*)?""", re.DOTALL)
_BLOCKS = frozenset(f"{block}{chomp}" for block in "|>" for chomp in ("", "-", "+"))

_AFTER_QUOTE = (
    "has something after its closing quote: remove that, or put all of the value in the other kind "
    "of quotes"
)
_SPACED = (
    "has spaces around its =, so that it is not clear which characters belong to the value: write "
    "KEY=VALUE, whose values are verbatim, or say format='properties'"
)
_YAML = (
    "is written as YAML writes it, but the injector's files look the same and quote nothing: say "
    "format='map' where what follows the colon is the value as it stands; else put both user name "
    "and password into quotes, with none inside, or have the template write JSON with toJSON"
)


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield the lines that say something with their numbers: neither blank nor a ``#`` comment.

    They end with ``\n`` or ``\r\n``. Not `str.splitlines`: that also breaks at U+2028, form feed
    and others, which a password may hold.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.removesuffix("\r")
        if content.strip() and not content.lstrip().startswith("#"):
            yield number, content


def read_env(text: str) -> Iterator[Entry]:
    """Read ``KEY=VALUE`` lines, as a Vault Agent template or a dotenv file has them.

    Values are taken verbatim: nothing in them is an escape, a comment or a variable, and spaces
    count. Only a pair of quotes around a whole value is removed, so that a template may write
    ``DB_PASSWORD="{{ .Data.password }}"``; it has to where passwords may both begin and end with
    a quote. ``export`` before a key is allowed.

    ``KEY = VALUE`` is read where it can mean one thing only: what others take for a space, a
    comment or an escape is in doubt.

    Raises:
        MalformedResponse: a line is something else.
    """
    for number, line in lines_of(text):
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise _not(number, "KEY=VALUE")
        value, doubt = (_spaced if match[2] else _verbatim)(match[3])
        yield Entry(match[1], value, f"line {number}", doubt=doubt)


def read_map(text: str) -> Iterator[Entry]:
    """Read ``key: value`` lines, as the agent injector writes them where no template is given.

    It quotes nothing, so that this is not YAML: whatever follows the first ``": "`` is the value,
    quotes, ``#`` and spaces included
    (https://developer.hashicorp.com/vault/docs/platform/k8s/injector/annotations).

    Raises:
        MalformedResponse: a line is something else.
    """
    for number, line in lines_of(text):
        key, separator, value = line.partition(": ")
        if not separator:
            if not line.endswith(":"):
                raise _not(number, "key: value")
            key, value = line[:-1], ""
        yield Entry(key.strip(), value, f"line {number}")


def as_yaml(entries: Iterable[Entry], wanted: Collection[str]) -> Iterator[Entry]:
    """Take the quotes off what a template for YAML wrote, and doubt what only YAML would read.

    A user name has no quotes of its own, so that they are the template's where all that is wanted
    is in quotes. Where only some is, nobody can tell.

    Args:
        entries: as `read_map` reads them.
        wanted: the keys that count, in upper case.
    """
    known = list(entries)
    needed = [entry.value for entry in known if entry.key.upper() in wanted and entry.value]
    quoted = len(needed) > 1 and all(_inside(value) is not None for value in needed)
    for entry in known:
        inside = _inside(entry.value)
        if quoted and inside is not None:
            yield entry._replace(value=inside)
        else:
            yield entry._replace(doubt=_YAML if _is_yaml(entry.value) else "")


def _is_yaml(value: str) -> bool:
    return (
        value != value.strip(_SPACE)
        or value in _BLOCKS
        or _is_quoted(value)
        or _QUOTED_AND_MORE.fullmatch(value) is not None
    )


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"


def _inside(value: str) -> str | None:
    """Return what is in quotes and means itself whoever reads it; ``None`` where it does not."""
    inside = value[1:-1]
    return None if not _is_quoted(value) or value[0] in inside or "\\" in inside else inside


def _verbatim(value: str) -> tuple[str, str]:
    if _is_quoted(value):
        return value[1:-1], ""
    return value, _AFTER_QUOTE if _QUOTED_AND_MORE.fullmatch(value) else ""


def _spaced(text: str) -> tuple[str, str]:
    """Return the value of ``KEY = VALUE``, and why it is in doubt."""
    if (inside := _inside(text.strip(_SPACE))) is not None:
        return inside, ""
    value = text[1:] if text[:1] in (" ", "\t") else text
    clear = value == value.strip(_SPACE) and "\\" not in value and value[:1] not in ("'", '"')
    return value, "" if clear and not re.search(r"[ \t]#", value) else _SPACED


def _not(number: int, form: str) -> MalformedResponse:
    return MalformedResponse(
        f"line {number} is not {form}; it may be half written, and is read again when it changes: "
        "if this stays, correct the template or name the format"
    )
