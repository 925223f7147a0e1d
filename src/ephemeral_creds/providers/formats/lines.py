"""Files with one value per line: ``KEY=VALUE``, and the injector's ``key: value``; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ephemeral_creds.providers.formats.entry import Entry
from ephemeral_creds.providers.formats.json import in_envelope
from ephemeral_creds.providers.formats.mistakes import unreadable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

__all__ = ["as_yaml", "lines_of", "read_env", "read_map"]

_ASSIGNMENT = re.compile(
    r"[ \t]*(?:(?:export|declare[ \t]+-x)[ \t]+)?(?P<key>[\w./-]+)(?P<space>[ \t]*)=(?P<value>.*)",
    re.DOTALL,
)
_MAPPING = re.compile(r"(?P<key>.*?):(?: (?P<value>.*))?", re.DOTALL)
_SPACE = " \t"

# A variable that a shell exports without a value, and an entry of a YAML list: neither has a value.
_UNSET = re.compile(r"[ \t]*(?:export|declare[ \t]+-x)[ \t]+\w+[ \t]*")
_LIST_ENTRY = re.compile(r"[ \t]*-(?:[ \t].*)?", re.DOTALL)

# A certificate or key that begins in a line and ends in a later one.
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----(?!.*-----END )")

# How a shell and dotenv readers find the end of quotes.
_IN_QUOTES = r"""'[^']*'|"(?:\\.|[^"\\])*\""""
_QUOTED = re.compile(_IN_QUOTES, re.DOTALL)
_OPEN = re.compile(r"""'[^']*|"(?:\\.|[^"\\])*\\?""", re.DOTALL)
_CLOSING = {quote: re.compile(rf"[^{quote}]*{quote}[ \t]*(?:#.*)?") for quote in "'\""}
# One word to a shell, and then perhaps a comment or another command.
_SHELL_WORD = re.compile(rf"""(?:{_IN_QUOTES}|\\.|[^\s'"\\])+(?:[\s;&|].*)?""", re.DOTALL)
_SHELL_ONLY = re.compile(
    r";[ \t]*export[ \t]+[A-Za-z_]|[ \t][A-Z0-9]+_[A-Z0-9_]*=|\A\$'.*'\Z", re.DOTALL
)
# Escapes: of a shell, dotenv, JSON and Go in double quotes, and of some dotenvs in single ones.
_ESCAPE = {
    '"': re.compile(
        r"""\\(?:["'\\/abefnrtv$`]|[0-7]{3}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})"""
    ),
    "'": re.compile(r"\\'"),
}
# Variables and commands as people write them; among random characters, $ before a letter is common.
_EXPANSION = re.compile(r"\$[A-Z_][A-Z0-9_]{2,}|\$\{\w+\}|\$\{\w+:?[-+?=]|\$\(.+\)|`[a-z]{2}.*`")

_BLOCKS = frozenset(f"{block}{chomp}" for block in "|>" for chomp in ("", "-", "+"))
_BLOCK_LINE = re.compile(r"([ \t]*)[\w./-]+: +[|>][-+0-9]*[ \t]*")

_CURE = "have the template write it without quotes, which is verbatim here, or as JSON with toJSON"
_ESCAPED = (
    "has a backslash in its quotes, which a template writes literally and a shell, dotenv or JSON "
    f"reads as an escape: {_CURE}"
)
_EXPANDED = (
    "has a variable or a command in double quotes, which a template writes literally and a shell "
    f"replaces: {_CURE}"
)
_QUOTES_INSIDE = (
    f"has quotes within its quotes, which a template writes literally and a shell removes: {_CURE}"
)
_SEVERAL_LINES = (
    "begins with a quote that ends in another line, so that its value may have several lines or "
    "one: have the template write JSON with toJSON"
)
_SHELL = (
    "is verbatim here, but contains shell syntax (; export, a second KEY=, $'…'): write one "
    "KEY=VALUE in each line, and nothing else"
)
_AFTER_QUOTE = (
    "has something after its closing quote: remove that, or put the whole value in the other kind "
    "of quotes"
)
_SPACED = (
    "has spaces around its =, so that it is not clear which characters belong to the value: write "
    "KEY=VALUE, whose values are verbatim, or set format='properties'"
)
_YAML = (
    "may be YAML, but the injector's files look the same and quote nothing: set format='map' if "
    "the text after the colon is the literal value; else put both user name and password in "
    "quotes, with no quotes inside, or have the template write JSON with toJSON"
)


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield the lines that are neither blank nor a comment, with their numbers.

    Comments begin with ``#`` or, in systemd's files, with ``;``. Lines end with ``\n`` or ``\r\n``.
    Not `str.splitlines`: that also breaks at U+2028, form feed and others, which a password may
    hold. The lines of a certificate or key are left out, except a first one with a key in front.
    """
    in_pem = False
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.removesuffix("\r")
        if in_pem:
            in_pem = "-----END " not in content
        elif content.strip() and not content.lstrip().startswith(("#", ";")):
            in_pem = _PEM.search(content) is not None
            if not content.lstrip().startswith("-----BEGIN "):
                yield number, content


def read_env(text: str) -> Iterator[Entry]:
    """Read ``KEY=VALUE`` lines, as in a Vault Agent template or a dotenv file.

    Values are verbatim: they have no escapes, comments or variables, and spaces count. Only a pair
    of quotes around a whole value is removed, so that a template may write
    ``DB_PASSWORD="{{ .Data.password }}"``; it has to if passwords may both begin and end with a
    quote. A quoted value that other readers read differently is ambiguous, and so are quotes over
    several lines. ``export`` before a key is allowed, also without a value.

    ``KEY = VALUE`` is read if it is unambiguous: it is not if other readers see a space, a comment
    or an escape in it.
    """
    for number, match, several in _statements(text, _ASSIGNMENT, _UNSET, "KEY=VALUE"):
        value, doubt = (_spaced if match["space"] else _verbatim)(match["value"])
        yield Entry(
            match["key"], value, f"line {number}", doubt=_SEVERAL_LINES if several else doubt
        )


def read_map(text: str) -> Iterator[Entry]:
    """Read ``key: value`` lines, as the agent injector writes them without a template.

    It quotes nothing, so this is not YAML: everything after the first ``": "`` is the value, with
    quotes, ``#`` and spaces. The key of an indented line is the path to it, with dots, and as in
    JSON without the ``data`` of Vault's replies
    (https://developer.hashicorp.com/vault/docs/platform/k8s/injector/annotations).
    """
    path: list[tuple[int, str]] = []
    for number, match, several in _statements(text, _MAPPING, _LIST_ENTRY, "key: value"):
        key = match["key"].lstrip()
        indent = len(match["key"]) - len(key)
        while path and path[-1][0] >= indent:
            path.pop()
        path.append((indent, key.rstrip()))
        yield Entry(
            in_envelope(".".join(name for _, name in path)),
            match["value"] or "",
            f"line {number}",
            doubt=_SEVERAL_LINES if several else "",
        )


def _statements(
    text: str, pattern: re.Pattern[str], other: re.Pattern[str], form: str
) -> Iterator[tuple[int, re.Match[str], bool]]:
    """Yield each key with its value, and whether the next lines may belong to the value."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    read = 0
    for number, line in lines_of(text):
        if number <= read or other.fullmatch(line):
            continue
        match = pattern.fullmatch(line)
        if match is None:
            raise unreadable(f"line {number} is not {form}", text, cut=number == len(lines))
        several = _lines_in_quotes(match["value"] or "", lines[number:])
        read = number + several + _lines_in_block(line, lines[number:])
        yield number, match, several > 0


def _lines_in_quotes(value: str, following: Sequence[str]) -> int:
    """Return the number of further lines in the quotes that a value opens."""
    value = value.lstrip(_SPACE)
    if not _OPEN.fullmatch(value):
        return 0
    quote = value[0]
    for count, line in enumerate(following, start=1):
        if quote in line:
            return count if _CLOSING[quote].fullmatch(line) else 0
    return 0


def _lines_in_block(line: str, following: Sequence[str]) -> int:
    """Return the number of lines of a YAML block."""
    block = _BLOCK_LINE.fullmatch(line)
    if block is None:
        return 0
    for count, inner in enumerate(following):
        if inner.strip() and len(inner) - len(inner.lstrip(_SPACE)) <= len(block[1]):
            return count
    return len(following)


def as_yaml(entries: Iterable[Entry], wanted: Collection[str]) -> Iterator[Entry]:
    """Remove the quotes that a YAML template wrote, and mark values that YAML reads differently.

    A user name has no quotes of its own, so they are the template's if every wanted value is in
    quotes. If only some are, the values are ambiguous. `wanted` are the keys in upper case.
    """
    known = list(entries)
    needed = [entry.value for entry in known if entry.key.upper() in wanted and entry.value]
    quoted = len(needed) > 1 and all(_inside(value) is not None for value in needed)
    for entry in known:
        inside = _inside(entry.value)
        if quoted and inside is not None:
            yield entry._replace(value=inside)
        else:
            yield entry._replace(doubt=entry.doubt or (_YAML if _is_yaml(entry.value) else ""))


def _is_yaml(value: str) -> bool:
    return (
        value != value.strip(_SPACE)
        or value in _BLOCKS
        or _is_quoted(value)
        or re.search(r"[ \t]#", value) is not None
    )


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in _CLOSING


def _inside(value: str) -> str | None:
    """Return the text in quotes if every reader reads it literally, else ``None``."""
    inside = value[1:-1]
    return None if not _is_quoted(value) or value[0] in inside or "\\" in inside else inside


def _verbatim(value: str) -> tuple[str, str]:
    """Return the value of ``KEY=VALUE``, and why it is ambiguous."""
    if not _is_quoted(value):
        if _QUOTED.match(value):
            return value, _AFTER_QUOTE
        return value, _SHELL if _SHELL_ONLY.search(value) else ""
    quote, inside = value[0], value[1:-1]
    doubt = ""
    if _ESCAPE[quote].search(value, 1):
        doubt = _ESCAPED
    elif quote in inside and _SHELL_WORD.fullmatch(value):
        doubt = _QUOTES_INSIDE
    elif quote == '"' and _EXPANSION.search(inside):
        doubt = _EXPANDED
    return inside, doubt


def _spaced(text: str) -> tuple[str, str]:
    """Return the value of ``KEY = VALUE``, and why it is ambiguous."""
    quoted = text.strip(_SPACE)
    if (inside := _inside(quoted)) is not None:
        return inside, _verbatim(quoted)[1]
    value = text[1:] if text[:1] in (" ", "\t") else text
    clear = value == value.strip(_SPACE) and "\\" not in value and value[:1] not in ("'", '"')
    return value, "" if clear and not re.search(r"[ \t]#", value) else _SPACED
