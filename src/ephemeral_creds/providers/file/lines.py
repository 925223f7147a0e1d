"""Files with one value per line: ``KEY=VALUE``, and the injector's ``key: value``; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import MalformedResponse
from ephemeral_creds.providers.file.fields import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["lines_of", "read_env", "read_map"]

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


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

    Raises:
        MalformedResponse: a line is something else.
    """
    for number, line in lines_of(text):
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise _not(number, "KEY=VALUE")
        yield Entry(match[1], _unquoted(match[2]), f"line {number}")


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


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _not(number: int, form: str) -> MalformedResponse:
    return MalformedResponse(
        f"line {number} is not {form}; it may be half written, and is read again when it changes: "
        "if this stays, correct the template or name the format"
    )
