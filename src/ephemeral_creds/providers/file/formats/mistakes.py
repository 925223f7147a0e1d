"""What is often found where credentials should be: its name and its cure; pure.

Only what no writer of good credentials writes is in these tables, and no message quotes the text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from ephemeral_creds.exceptions import ConfigurationError, MalformedResponse

__all__ = ["mistaken_file", "mistaken_value", "odd_end", "unreadable"]


class _Mistake(NamedTuple):
    pattern: re.Pattern[str]
    what: str
    cure: str


def _mistake(pattern: str, what: str, cure: str, flags: int = 0) -> _Mistake:
    return _Mistake(re.compile(pattern, re.DOTALL | re.ASCII | flags), what, cure)


_NOBODY_RENDERED = (
    "nobody rendered the template. Give the path of what the agent writes, not of the template"
)
_EXPRESSION = re.compile(r"\{\{[^{}]*\}\}|\{%[^%]*%\}|<%[^%]*%>")

# What a value is, by all of it.
_VALUES = (
    _mistake(
        # The second is what urlquery makes of the first.
        r"<no[ +]value>",
        "'<no value>'",
        "the template asks for a field that the secret does not have. Correct its name (for a "
        "database role: .Data.username, .Data.password), and set error_on_missing_key so that the "
        "agent itself refuses it",
    ),
    _mistake(
        r"<nil>|nil|null|None|undefined|~|map\[\]",
        "a word for nothing (null, None, <nil> …)",
        "the template or script asks for a field that the secret does not have: correct its name",
    ),
    _mistake(
        r".*%!\w?\((?:<nil>|MISSING|NOVERB|BAD\w+|EXTRA |PANIC=|\w+=).*",
        "an error of the template's printf",
        "correct its arguments",
    ),
    _mistake(
        r"map\[.*\]",
        "a whole object, as Go prints it",
        "have the template write one of its fields: .Data.password, or .Data.data.password for a "
        "key-value engine of version 2",
    ),
    _mistake(
        rf".*(?:{_EXPRESSION.pattern}).*|\[\[.+\]\]|\(\(.+\)\)",
        "a template's expression",
        _NOBODY_RENDERED,
    ),
    _mistake(
        # Within other characters a name alone: a few random ones between braces are a password's.
        r"\$\{[A-Za-z_][^{}]*\}|.*\$\{[A-Za-z_][\w.]{3,}(?::-[^{}]*)?\}.*"
        r"|\$\(.+\)|\$[A-Z][A-Z0-9_]+|%\(\w+\)s|%[A-Z_]{3,}%",
        "a variable or a command of a shell",
        "nobody fills it in here. Have the template write its value",
    ),
    _mistake(
        r"(?:>>)?vault:[^#]+#.+|ref\+\w+://.+|op://.+|<path:.+#.+>|@Microsoft\.KeyVault\(.+\)"
        r"|arn:aws[\w-]*:(?:secretsmanager|ssm):.+|file://.+|/(?:run|vault)/secrets/.+",
        "a reference to a secret",
        "have it resolved by the tool that it is written for, or ask Vault with "
        "VaultDynamicProvider",
    ),
    _mistake(
        r"SCRAM-SHA-256\$[0-9]+:.+|md5[0-9a-f]{32}",
        "the hash that PostgreSQL keeps of a password",
        "nobody can log in with that: have the password itself written",
    ),
    _mistake(
        r"ENC[\[(].+[\])]|\{cipher\}.+|vault:v[0-9]+:.+",
        "encrypted",
        "have it decrypted by the tool that encrypted it",
    ),
    _mistake(
        r"<[A-Za-z][A-Za-z _-]*>|__[A-Z][A-Z0-9_]*__|@[A-Z][A-Z0-9_]*@|\*{3,}|\(sensitive value\)"
        r"|\[(?i:redacted|masked|object object)\]",
        "a placeholder",
        "put the value in its place",
    ),
    _mistake(
        r"-----BEGIN [A-Z0-9 ]+-----.*", "a certificate or a key", "name the password's key instead"
    ),
)

# What a file is, by the first line in it that says something.
_FILES = (
    _mistake(r"[ \t]*(?:\{\{|\{%|<%)", "a template", _NOBODY_RENDERED),
    _mistake(
        r"data: map\[",
        "the whole answer of a key-value engine of version 2",
        "have the template write .Data.data",
    ),
    _mistake(
        r"""\s*\{\s*"errors"\s*:""",
        "an error that Vault answered",
        "have the script that writes it fail instead, as curl does with --fail",
    ),
    _mistake(
        r"Key[ \t]+Value[ \t]*\r?\n-+[ \t]+-+",
        "what the vault command prints for people",
        "have it print JSON: vault read -format=json",
    ),
    _mistake(
        r"""(?:\{\s*")?(?:apiVersion"?[ \t]*:|kind"?[ \t]*:[ \t]*"?(?:Secret|List)\b)""",
        "a manifest of Kubernetes, whose values are encoded",
        "mount the Secret as a volume, and give the path of its directory",
    ),
    _mistake(
        r"[ \t]*\[[A-Za-z_][\w .:-]*\][ \t]*(?:[#;].*?)?(?:\r?\n|\Z)",
        "INI, as a pg_service.conf is, with sections",
        "write KEY=VALUE lines without one, or give a parse= function",
    ),
    _mistake(
        r"[^\s:=]+:(?:[0-9]+|\*):[^\s:]+:[^\s:]+:\S",
        "a .pgpass, host:port:database:user:password",
        "write user=… password=… instead",
    ),
    _mistake(
        r"(?:host|server|data source|user ?name|user id|database)=[^;=\n]*;[ \t]*[a-z ]+=",
        "a connection string of .NET",
        "write user=… password=…, with a space between them",
        re.IGNORECASE,
    ),
    _mistake(r"[ \t]*(?:jdbc:)?[A-Za-z][\w+.-]*://", "a URI", "PostgreSQL's is postgresql://…"),
    _mistake(
        r"\s*<(?:!doctype|html|\?xml)",
        "HTML or XML",
        "a proxy's error, perhaps: have the script that writes it fail instead, as curl does with "
        "--fail",
        re.IGNORECASE,
    ),
    _mistake(
        r"\$ANSIBLE_VAULT;",
        "encrypted by Ansible",
        "have it decrypted when it is put in place",
    ),
)


def mistaken_value(value: str) -> str:
    """Say what a value is instead of one, and what to do; empty where nothing is known of it."""
    text = value.strip()
    return next((_told(known) for known in _VALUES if known.pattern.fullmatch(text)), "")


def mistaken_file(start: str) -> str:
    """Say what a file is instead of one of credentials, and what to do.

    Args:
        start: its text, from the first line that says something.

    Returns:
        The end of a sentence; empty where nothing is known of it.
    """
    return next((_told(known) for known in _FILES if known.pattern.match(start)), "")


def _told(mistake: _Mistake) -> str:
    return f"{mistake.what}: {mistake.cure}"


def odd_end(value: str) -> str:
    """Name a character at an end of `value` that nobody sees; empty where there is none.

    A plain space is not among them.
    """
    for character in value[:1] + value[-1:]:
        if unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp") and character != " ":
            return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character')})"
    return ""


def unreadable(why: str, text: str, *, cut: bool) -> ConfigurationError | MalformedResponse:
    """Return what to raise for a text that is not what it should be.

    Args:
        why: what it is not, and where.
        text: all of it.
        cut: whether the rest of it may be yet to come.
    """
    if _EXPRESSION.search(text):
        return ConfigurationError(f"it has a template's expressions in it: {_NOBODY_RENDERED}")
    if cut:
        return MalformedResponse(
            f"{why}; it may be half written, and is read again when it changes: if this stays, "
            "correct the template or name the format"
        )
    return ConfigurationError(f"{why}: correct the template, or name the format")
