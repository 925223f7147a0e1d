"""Java's properties; pure.

The rules are those of ``java.util.Properties.load``
(https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/util/Properties.html).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ephemeral_creds.providers.formats.entry import Entry
from ephemeral_creds.providers.formats.mistakes import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read_properties"]

_SPACE = " \t\f"
_LINE_END = re.compile(r"\r\n|\r|\n")
_PAIR = re.compile(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_INCOMPLETE = re.compile(r"(?<!\\)(?:\\\\)*\\u(?![0-9A-Fa-f]{4})")
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read_properties(text: str) -> Iterator[Entry]:
    """Read ``key=value``, ``key: value`` and ``key value``, with backslash escapes."""
    for number, line in _logical_lines(text):
        where = f"line {number}"
        if _INCOMPLETE.search(line):
            raise unreadable(f"{where} has an incomplete \\u escape", text, cut=text.endswith(line))
        key, value = _PAIR.findall(line)[0]
        yield Entry(_unescape(key), _unescape(value), where)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Join the lines that a backslash continues; leave out blank ones and comments."""
    first, parts = 0, list[str]()
    for number, line in enumerate(_LINE_END.split(text), start=1):
        content = line.lstrip(_SPACE)
        if not parts:
            if not content or content[0] in "#!":
                continue
            first = number
        backslashes = len(content) - len(content.rstrip("\\"))
        if backslashes % 2:
            parts.append(content[:-1])
            continue
        yield first, "".join([*parts, content])
        parts = []
    if parts:
        yield first, "".join(parts)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    characters = _ESCAPE.sub(_character, text)
    # A character beyond U+FFFF is written as two escapes.
    units = characters.encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "surrogatepass")


def _character(match: re.Match[str]) -> str:
    escape = match[1]
    return chr(int(escape[1:], 16)) if len(escape) > 1 else _CONTROL.get(escape, escape)
