"""Common mistakes in credential files and secrets, with their remedies; pure.

The tables hold only texts that are never valid credentials, and no message quotes the text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from ephemeral_creds.exceptions import ConfigurationError, MalformedResponse

__all__ = ["invisible_end", "mistaken_file", "mistaken_value", "unreadable"]


class _Mistake(NamedTuple):
    pattern: re.Pattern[str]
    what: str
    remedy: str

    def __str__(self) -> str:
        return self.text()

    def text(self, remedy: str = "") -> str:
        """Name it with a remedy, its own unless another is given."""
        return f"{self.what}: {remedy or self.remedy}"


def _mistake(pattern: str, what: str, remedy: str, flags: int = 0) -> _Mistake:
    return _Mistake(re.compile(pattern, re.DOTALL | re.ASCII | flags), what, remedy)


_NOT_RENDERED = (
    "the template has not been rendered. Give the path of the agent's output, not of the template"
)
_EXPRESSION = re.compile(r"\{\{[^{}]*\}\}|\{%[^%]*%\}|<%[^%]*%>")

# Mistakes by a whole value.
_VALUES = (
    _mistake(
        # With a plus sign: after urlquery.
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
        _NOT_RENDERED,
    ),
    _mistake(
        # Among other characters a name alone: random ones between braces may be a password's.
        r"\$\{[A-Za-z_][^{}]*\}|.*\$\{[A-Za-z_][\w.]{3,}(?::-[^{}]*)?\}.*"
        r"|\$\(.+\)|\$[A-Z][A-Z0-9_]+|%\(\w+\)s|%[A-Z_]{3,}%",
        "a variable or a command of a shell",
        "it is not expanded here. Have the template write its value",
    ),
    _mistake(
        r"(?:>>)?vault:[^#]+#.+|ref\+\w+://.+|op://.+|<path:.+#.+>|@Microsoft\.KeyVault\(.+\)"
        r"|arn:aws[\w-]*:(?:secretsmanager|ssm):.+|file://.+|/(?:run|vault)/secrets/.+",
        "a reference to a secret",
        "have the tool that it is written for resolve it, or ask Vault with VaultDynamicProvider",
    ),
    _mistake(
        r"SCRAM-SHA-256\$[0-9]+:.+|md5[0-9a-f]{32}",
        "the hash that PostgreSQL stores of a password",
        "a hash cannot be used to log in: have the password itself written",
    ),
    _mistake(
        r"ENC[\[(].+[\])]|\{cipher\}.+|vault:v[0-9]+:.+",
        "encrypted",
        "have the tool that encrypted it decrypt it",
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

# Mistakes by the first line of a file that is neither blank nor a comment.
_FILES = (
    _mistake(r"[ \t]*(?:\{\{|\{%|<%)", "a template", _NOT_RENDERED),
    _mistake(
        r"data: map\[",
        "the whole reply of a key-value engine of version 2",
        "have the template write .Data.data",
    ),
    _mistake(
        r"""\s*\{\s*"errors"\s*:""",
        "an error of Vault's",
        "have the script that writes it fail instead, as curl does with --fail",
    ),
    _mistake(
        r"Key[ \t]+Value[ \t]*\r?\n-+[ \t]+-+",
        "a table of the vault command",
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


def mistaken_value(value: str, remedy: str = "") -> str:
    """Name the mistake in a value and its remedy, or the one given; empty if none is known."""
    text = value.strip()
    return next((known.text(remedy) for known in _VALUES if known.pattern.fullmatch(text)), "")


def mistaken_file(start: str) -> str:
    """Name the mistake in a file and its remedy; empty if none is known.

    `start` is its text from the first line that is neither blank nor a comment.
    """
    return next((str(known) for known in _FILES if known.pattern.match(start)), "")


def invisible_end(value: str) -> str:
    """Name an invisible character at an end of `value`, other than a space; empty without one."""
    for character in value[:1] + value[-1:]:
        if unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp") and character != " ":
            return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character')})"
    return ""


def unreadable(why: str, text: str, *, cut: bool) -> ConfigurationError | MalformedResponse:
    """Return the error for a text that cannot be read; `cut` if its rest may not be written yet."""
    if _EXPRESSION.search(text):
        return ConfigurationError(f"it contains template expressions: {_NOT_RENDERED}")
    if cut:
        return MalformedResponse(
            f"{why}; it may be half written, and is read again when it changes: if this stays, "
            "correct the template or set the format"
        )
    return ConfigurationError(f"{why}: correct the template, or set the format")
