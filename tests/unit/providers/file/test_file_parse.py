"""The parser of `KEY=VALUE` files: what it accepts, and what it says when it does not."""

from __future__ import annotations

import json
import re
import shlex
import traceback
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched_file import passwords, read

from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.formats.parse import parse
from ephemeral_creds.providers.formats.pick import Keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Credentials


def parse_env(text: str) -> Credentials:
    return parse(text, format="env").credentials


USER = "v-kubernet-app-x7Kq"
CANARY = "A1a-canary-Pw9"

ACCEPTED = {
    "the article's template": f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}",
    "with a final newline": f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n",
    "leading blank lines": f"\n  \nDB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n",
    "CRLF": f"DB_USERNAME={USER}\r\nDB_PASSWORD={CANARY}\r\n",
    "export": f"export DB_USERNAME={USER}\nexport  DB_PASSWORD={CANARY}\n",
    "double quotes": f'DB_USERNAME="{USER}"\nDB_PASSWORD="{CANARY}"\n',
    "single quotes": f"DB_USERNAME='{USER}'\nDB_PASSWORD='{CANARY}'\n",
    "indented": f"  DB_USERNAME={USER}\n\tDB_PASSWORD={CANARY}\n",
    "spaces around the sign": f"DB_USERNAME = {USER}\nDB_PASSWORD   ={CANARY}\n",
    "spaces and quotes": f"DB_USERNAME = '{USER}'\nDB_PASSWORD =  \"{CANARY}\"  \n",
    "exported, with spaces": f"export DB_USERNAME\t= {USER}\nexport DB_PASSWORD =\t{CANARY}\n",
    "spaces, lower case": f"username = {USER}\npassword = {CANARY}\n",
    "in doubt, but not needed": f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\nX = a \\\nY='a' # b\n",
    "password first": f"DB_PASSWORD={CANARY}\nDB_USERNAME={USER}\n",
    "lower case": f"db_username={USER}\ndb_password={CANARY}\n",
    "plain keys": f"username={USER}\npassword={CANARY}\n",
    "plain keys, mixed case": f"Username={USER}\nPASSWORD={CANARY}\n",
    "both pairs": f"USERNAME=x\nPASSWORD=y\nDB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n",
    "half a pair, then a whole one": f"PGUSER={USER}\nUSERNAME={USER}\nPASSWORD={CANARY}\n",
    "a pair, and half another": f"DB_USER={USER}\nDB_PASSWORD={CANARY}\nPGUSER=y\nPASSWORD=y\n",
    "anybody's pair first": f"USERNAME=x\nPASSWORD=y\nDB_USER={USER}\nDB_PASSWORD={CANARY}\n",
    "anybody's pair before libpq's": f"USER=x\nPASSWORD=y\nPGUSER={USER}\nPGPASSWORD={CANARY}\n",
    "anybody's pair, and a URI without": (
        f"USERNAME={USER}\nPASSWORD={CANARY}\nDATABASE_URL=postgresql://db/app\n"
    ),
    "anybody's pair, and the same in a URI": (
        f"USERNAME={USER}\nPASSWORD={CANARY}\nDATABASE_URL=postgresql://{USER}:{CANARY}@db\n"
    ),
    "two URIs, alike": (
        f"DB_URL=postgresql://{USER}:{CANARY}@db\nDATABASE_URL=postgresql+asyncpg://{USER}:{CANARY}@db/a"
    ),
    "two pairs, alike": (
        f"PGUSER={USER}\nPGPASSWORD={CANARY}\nDB_USER={USER}\nDB_PASSWORD={CANARY}\n"
    ),
    "a certificate": (
        "CA=-----BEGIN CERTIFICATE-----\nMII/+==\nDB_PASSWORD=other\n-----END CERTIFICATE-----\n"
        f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n"
    ),
    "a key alone": (
        f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n-----BEGIN RSA PRIVATE KEY-----\nMII/+==\n"
        "-----END RSA PRIVATE KEY-----\n"
    ),
    "a certificate in one line": (
        "CA=-----BEGIN CERTIFICATE-----\\nMII==\\n-----END CERTIFICATE-----\n"
        f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n"
    ),
    "a certificate, half written": (
        f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\nCA=-----BEGIN CERTIFICATE-----\nMII/+"
    ),
    "quotes over several lines": (
        f"NOTE='one\nDB_PASSWORD=other\n\n# it\n'\nDB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n"
    ),
    "double quotes over several lines": (
        f'NOTE="a \\"\nDB_USERNAME=other\nb" # c\nDB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n'
    ),
    "a quote that stays open": (
        f"NOTE='tis\nDB_USERNAME={USER}\nDB_PASSWORD={CANARY}\nMORE=it's\n"
    ),
    "bash's export -p": f'declare -x DB_USERNAME="{USER}"\ndeclare -x DB_PASSWORD="{CANARY}"\n',
    "other keys' names": (f"my-key=1\n1ST=2\nDB_USERNAME={USER}\na.b/c=3\nDB_PASSWORD={CANARY}\n"),
    "other keys": f"DB_HOST=db\nDB_USERNAME={USER}\nDB_PASSWORD={CANARY}\nEMPTY=\n",
    "comments": f"# rendered by agent\nDB_USERNAME={USER}\n  # =\nDB_PASSWORD={CANARY}\n",
    "the same twice": f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\nDB_USERNAME={USER}\n",
}

REJECTED = {
    "empty": ("", MalformedResponse, "empty"),
    "blank": ("\n \n", MalformedResponse, "empty"),
    "no password": (f"DB_USERNAME={USER}\n", MalformedResponse, "DB_PASSWORD is missing"),
    "no user name": (f"DB_PASSWORD={CANARY}\n", MalformedResponse, "DB_USERNAME is missing"),
    "no plain password": (f"username={USER}\n", MalformedResponse, "PASSWORD is missing"),
    "pairs are not mixed": (
        f"DB_USERNAME={USER}\nPASSWORD={CANARY}\n",
        MalformedResponse,
        "DB_PASSWORD is missing",
    ),
    "neither": ("DB_HOST=db\n", MalformedResponse, "neither a user name nor a password"),
    "cut within a key": (f"DB_USERNAME={USER}\nDB_PASS", MalformedResponse, "line 2 is not KEY"),
    "cut after the sign": (f"DB_USERNAME={USER}\nDB_PASSWORD=", MalformedResponse, "no value"),
    "quoted nothing": ("DB_USERNAME=u\nDB_PASSWORD=''", MalformedResponse, "no value"),
    "another format": (f"DB_USERNAME: {USER}\n", ConfigurationError, "line 1 is not KEY=VALUE"),
    "a stray line": (
        f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n{CANARY}\n",
        ConfigurationError,
        "line 3 is not KEY=VALUE",
    ),
    "no sign": ("DB_USERNAME u\n", ConfigurationError, "line 1 is not KEY=VALUE"),
    **{
        f"two pairs, {what}": (text, error, words)
        for what, text, error, words in [
            (
                "both the database's",
                f"PGUSER={USER}\nPGPASSWORD={CANARY}\nPOSTGRES_USER=x\nPOSTGRES_PASSWORD=y\n",
                ConfigurationError,
                (
                    "two sets of credentials, PGUSER and PGPASSWORD, and POSTGRES_USER and "
                    "POSTGRES_PASSWORD: remove.*username_key and password_key"
                ),
            ),
            (
                "one user too many",
                f"DB_USERNAME={USER}\nDB_USER=x\nDB_PASSWORD={CANARY}\n",
                ConfigurationError,
                "two sets of credentials, DB_USERNAME and DB_PASSWORD, and DB_USER and",
            ),
            (
                "both anybody's",
                f"USER=x\nUSERNAME={USER}\nPASSWORD={CANARY}\n",
                ConfigurationError,
                "two sets of credentials, USERNAME and PASSWORD, and USER and PASSWORD:",
            ),
            (
                "one a URI",
                f"USERNAME=x\nPASSWORD=y\nDATABASE_URL=postgresql://{USER}:{CANARY}@db\n",
                ConfigurationError,
                "sets of credentials, USERNAME and PASSWORD, and the URI in DATABASE_URL:",
            ),
            (
                "both URIs",
                f"DB_URL=postgresql://x:y@db\nDATABASE_URL=postgresql://{USER}:{CANARY}@db\n",
                ConfigurationError,
                "sets of credentials, the URI in DATABASE_URL, and the URI in DB_URL: ",
            ),
            (
                "the password to come",
                f"USERNAME=x\nPASSWORD=y\nDB_USER={USER}\n",
                MalformedResponse,
                "DB_PASSWORD is missing, and USERNAME and PASSWORD .* the value of DB_USER",
            ),
            (
                "the user to come",
                f"USERNAME=x\nPASSWORD=y\nPGPASSWORD={CANARY}\n",
                MalformedResponse,
                "PGUSER is missing, and USERNAME and PASSWORD .* the value of PGPASSWORD",
            ),
        ]
    },
    **{
        f"in doubt, {what}": (
            f"DB_USERNAME={USER}\nDB_PASSWORD={value}\n",
            ConfigurationError,
            f"DB_PASSWORD in line 2 {words}",
        )
        for what, value, words in [
            ("JSON's escape", f'"{CANARY}\\u003c"', "has a backslash in its quotes.*toJSON"),
            ("an escaped quote", f'"{CANARY}\\"x"', "has a backslash in its quotes"),
            ("an escaped backslash", f'"{CANARY}\\\\x"', "has a backslash in its quotes"),
            ("Go's escape", f'"{CANARY}\\x3c"', "has a backslash in its quotes"),
            ("a backslash at the end", f'"{CANARY}\\"', "has a backslash in its quotes"),
            ("dotenv's escape", f"'{CANARY}\\'x'", "has a backslash in its quotes"),
            ("a shell's quote", f"'{CANARY}'\\''x'", "has a backslash in its quotes"),
            ("shlex's quote", f"""'{CANARY}'"'"'x'""", "has quotes within its quotes"),
            ("quoted twice", f'"{CANARY}"x"y"', "has quotes within its quotes"),
            ("quotes in a comment", f'"{CANARY}" # the "app"', "has quotes within its quotes"),
            ("a variable", f'"{CANARY}$HOME"', "has a variable or a command in double"),
            ("a variable in braces", f'"{CANARY}${{1}}"', "has a variable or a command in double"),
            ("a command", f'"{CANARY}`id`"', "has a variable or a command in double"),
            ("a word behind", f"'{CANARY}'x", "has something after its closing quote"),
            ("a command behind", f"'{CANARY}';export X", "has something after its closing quote"),
            (
                "an export behind",
                f"{CANARY}; export DB_PASSWORD",
                "is verbatim here, but contains",
            ),
            ("a second key", f"{CANARY} DB_HOST=db", "is verbatim here, but contains"),
            (
                "a shell's C string",
                f"$'{CANARY}\\n'",
                "is verbatim here, but contains",
            ),
            ("several lines", f'"{CANARY}\nx"', "begins with a quote that ends in another line"),
            ("several lines, another's", f"'{CANARY}\nX=y'", "begins with a quote that ends in an"),
        ]
    },
    **{
        f"a user name with {what}": (
            f"DB_USERNAME={user}\nDB_PASSWORD={CANARY}\n",
            ConfigurationError,
            words,
        )
        for what, user, words in [
            ("a space in front", f" {USER}", "DB_USERNAME begins or ends with a space"),
            ("a space behind", f'"{USER} "', "DB_USERNAME begins or ends with a space"),
            ("a comment", f"{USER} # the app", "or is followed by a comment, ; or ,"),
            ("a semicolon", f"{USER};", "; or ,: remove that, from the password too"),
            ("a comma", f"{USER},", "followed by a comment, ; or ,"),
            ("a tab", f"{USER}\t", r"an invisible character, U\+0009 \(a control character\)"),
            ("a byte order mark", f"\ufeff{USER}", r"U\+FEFF \(ZERO WIDTH NO-BREAK SPACE\)"),
            ("a hard space", f"{USER}\xa0", r"U\+00A0 \(NO-BREAK SPACE\)"),
            ("a space of no width", f"{USER}\u200b", r"U\+200B \(ZERO WIDTH SPACE\)"),
            ("a carriage return", f"'{USER}\r'", r"U\+000D"),
        ]
    },
    "a hard space in front of a password": (
        f"DB_USERNAME={USER}\nDB_PASSWORD=\xa0{CANARY}\n",
        ConfigurationError,
        r"DB_PASSWORD begins or ends with .* U\+00A0 \(NO-BREAK SPACE\): remove it",
    ),
    "a comment after quotes": (
        f'DB_USERNAME={USER}\nDB_PASSWORD="{CANARY}" # of the app\n',
        ConfigurationError,
        "DB_PASSWORD in line 2 has something after its closing quote",
    ),
    "spaces after quotes": (
        f"DB_USERNAME={USER}\nDB_PASSWORD='{CANARY}'  \n",
        ConfigurationError,
        "closing quote",
    ),
    **{
        f"spaced, {what}": (
            f"DB_USERNAME = {USER}\nDB_PASSWORD = {value}\n",
            ConfigurationError,
            "DB_PASSWORD in line 2 has spaces around its =.*format='properties'",
        )
        for what, value in {
            "a space at the end": f"{CANARY} ",
            "two in front": f" {CANARY}",
            "a comment": f"{CANARY} # of the app",
            "a backslash": f"{CANARY}\\",
            "an escape in quotes": f'"{CANARY}\\""',
            "a quote that does not end": f'"{CANARY}',
            "quotes and a comment": f'"{CANARY}" # of the app',
            "quotes in quotes": f"'{CANARY}' '{CANARY}'",
        }.items()
    },
    "wrong field": (
        f"DB_USERNAME=<no value>\nDB_PASSWORD={CANARY}\n",
        ConfigurationError,
        r"DB_USERNAME is '<no value>': the template asks for a field",
    ),
    "wrong field, quoted": (
        f'DB_USERNAME={USER}\nDB_PASSWORD="<no value>"\n',
        ConfigurationError,
        "DB_PASSWORD is '<no value>'",
    ),
    "NUL": (f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\0", ConfigurationError, "NUL"),
    "two passwords": (
        f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n\nDB_PASSWORD=other\n",
        ConfigurationError,
        "DB_PASSWORD has one value in line 2 and another in line 4",
    ),
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_accepts(text: str) -> None:
    credentials = parse_env(text)
    assert credentials.username == USER
    assert credentials.password.reveal() == CANARY


@pytest.mark.parametrize(("text", "error", "words"), REJECTED.values(), ids=REJECTED)
def test_rejects_and_says_why(text: str, error: type[EphemeralCredsError], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_env(text)


@pytest.mark.parametrize("text", [case[0] for case in REJECTED.values()], ids=REJECTED)
def test_errors_never_quote_the_file(text: str) -> None:
    with pytest.raises(EphemeralCredsError) as caught:
        parse_env(text)
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.args)
    assert CANARY not in shown
    assert USER not in shown
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "password",
    [
        "a=b", "#hash", "with # hash", " leading", "trailing ", "%40", "back\\slash", "\\n",
        "pa$HOME", "it's", '"', "'", "\"'", 'quote"inside', "line\u2028separator", "form\x0cfeed",
        "é€𝄞", "cr\rinside", "export X=y", "<no value>x", "a$b{{c", "a;b", "back\\u003c", "\\\\",
    ],
)  # fmt: skip
def test_passwords_are_verbatim(password: str) -> None:
    assert parse_env(f"DB_USERNAME=u\nDB_PASSWORD={password}\n").password.reveal() == password


@pytest.mark.parametrize("password", ["a$b", "$a1", "a$Bc", "a${b", "a$(b", "a`b", "a`B`c", "$`"])
def test_random_passwords_in_double_quotes_are_verbatim(password: str) -> None:
    """Who writes for a shell has a backslash before them, who means a variable writes its name."""
    text = f'DB_USERNAME="u"\nDB_PASSWORD="{password}"\n'
    assert parse_env(text).password.reveal() == password


one_line = passwords.filter(lambda text: "\n" not in text)
line_ends = st.sampled_from(["\n", "\r\n"])


@pytest.mark.slow
@given(one_line, st.sampled_from("\"'"), line_ends, st.booleans())
def test_quoted_passwords_survive_or_are_in_doubt(
    password: str, quote: str, end: str, final: bool
) -> None:
    text = f"DB_USERNAME={quote}u{quote}{end}DB_PASSWORD={quote}{password}{quote}"
    outcome = read(text + end * final, format="env")
    if isinstance(outcome, ConfigurationError):
        assert "toJSON" in str(outcome)
        assert any(character in password for character in f"\\{quote}$`")
    else:
        assert outcome == password


@pytest.mark.slow
@given(st.text(st.sampled_from("ab'\"\\$ #;"), min_size=1), st.sampled_from("\"'"))
def test_a_shell_reads_quoted_values_in_the_same_way(password: str, quote: str) -> None:
    try:
        theirs = shlex.split(f"{quote}{password}{quote}")
    except ValueError:
        return  # it reads nothing
    outcome = read(f"DB_USERNAME=u\nDB_PASSWORD={quote}{password}{quote}\n", format="env")
    assert isinstance(outcome, ConfigurationError) or theirs == [outcome]


def as_shell(password: str) -> str:
    return '"' + re.sub(r'(["\\\\$`])', r"\\\1", password) + '"'


def as_dotenv(password: str) -> str:
    return "'" + password.replace("'", r"\'") + "'"


@pytest.mark.slow
@pytest.mark.parametrize(
    "write", [shlex.quote, as_shell, as_dotenv, json.dumps, str, "'{}'".format]
)
@given(password=st.text(st.sampled_from("ab'\"\\$` #;é&<"), min_size=1))
def test_no_writers_password_is_read_as_another_one(
    write: Callable[[str], str], password: str
) -> None:
    outcome = read(f"DB_USERNAME=u\nDB_PASSWORD={write(password)}\n", format="env")
    if write is str and re.fullmatch(r"(?P<quote>['\"]).*(?P=quote)", password):
        return  # such a password needs quotes around it
    assert isinstance(outcome, EphemeralCredsError) or outcome == password


@pytest.mark.slow
@given(one_line, line_ends, st.booleans())
def test_bare_passwords_survive(password: str, end: str, final: bool) -> None:
    if len(password) > 1 and password[0] == password[-1] and password[0] in "\"'":
        password += "."  # the one thing that needs quotes, as the docstring says
    text = f"DB_USERNAME=u{end}DB_PASSWORD={password}" + end * final
    outcome = read(text, format="env")
    if isinstance(outcome, ConfigurationError):
        quoted = password[0] in "\"'" and password[0] in password[1:]
        assert "closing quote" in str(outcome) if quoted else "export" in password
    else:
        assert outcome == password


@pytest.mark.slow
@given(one_line, st.sampled_from([" =", "\t= ", " = "]), st.sampled_from(["", "'", '"']))
def test_passwords_after_spaces_are_whole_or_in_doubt(password: str, sign: str, quote: str) -> None:
    outcome = read(f"DB_USERNAME=u\nDB_PASSWORD{sign}{quote}{password}{quote}\n", format="env")
    bare = len(password) > 1 and password[0] == password[-1] and password[0] in "\"'"
    if isinstance(outcome, ConfigurationError):
        assert "spaces around its =" in str(outcome)
        assert not password.isalnum()
    elif isinstance(outcome, MalformedResponse):
        assert "no value" in str(outcome)
        assert not password.strip("\"'")
    else:
        assert outcome == (password[1:-1] if bare and not quote else password)


def test_other_keys_can_be_chosen() -> None:
    keys = Keys((("LOGIN", "PASS"),), ())
    text = f"login={USER}\nPASS={CANARY}\n"
    assert parse(text, keys=keys).credentials.username == USER
    with pytest.raises(MalformedResponse, match="expected LOGIN and PASS"):
        parse(f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n", keys=keys)


def test_a_byte_order_mark_is_not_part_of_a_key() -> None:
    assert parse_env(f"\ufeffDB_USERNAME={USER}\nDB_PASSWORD={CANARY}").username == USER
