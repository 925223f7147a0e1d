"""The parser of `KEY=VALUE` files: what it accepts, and what it says when it does not."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched_file import read

from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.file.parse import parse

if TYPE_CHECKING:
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
    "half a pair, then a whole one": f"DB_PASSWORD=y\nUSERNAME={USER}\nPASSWORD={CANARY}\n",
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
    "another format": (f"DB_USERNAME: {USER}\n", MalformedResponse, "line 1 is not KEY=VALUE"),
    "a stray line": (
        f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n{CANARY}\n",
        MalformedResponse,
        "line 3 is not KEY=VALUE",
    ),
    "no sign": ("DB_USERNAME u\n", MalformedResponse, "line 1 is not KEY=VALUE"),
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
        "$HOME", "it's", '"', "'", "\"'", 'quote"inside', "line\u2028separator", "form\x0cfeed",
        "é€𝄞", "cr\rinside", "export X=y", "<no value>x",
    ],
)  # fmt: skip
def test_passwords_are_verbatim(password: str) -> None:
    assert parse_env(f"DB_USERNAME=u\nDB_PASSWORD={password}\n").password.reveal() == password


# What PostgreSQL's password and this format's lines can carry: no NUL, no line feed, and no
# carriage return at the end, where it would be part of a line's end.
passwords = st.text(
    st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), min_size=1
).filter(lambda text: not text.endswith("\r") and text.strip() != "<no value>")
line_ends = st.sampled_from(["\n", "\r\n"])


@pytest.mark.slow
@given(passwords, st.sampled_from("\"'"), line_ends, st.booleans())
def test_quoted_passwords_survive(password: str, quote: str, end: str, final: bool) -> None:
    text = f"DB_USERNAME={quote}u{quote}{end}DB_PASSWORD={quote}{password}{quote}"
    assert parse_env(text + end * final).password.reveal() == password


@pytest.mark.slow
@given(passwords, line_ends, st.booleans())
def test_bare_passwords_survive(password: str, end: str, final: bool) -> None:
    if len(password) > 1 and password[0] == password[-1] and password[0] in "\"'":
        password += "."  # the one thing that needs quotes, as the docstring says
    text = f"DB_USERNAME=u{end}DB_PASSWORD={password}" + end * final
    outcome = read(text, format="env")
    if isinstance(outcome, ConfigurationError):
        assert "closing quote" in str(outcome)
        assert password[0] in "\"'"
        assert password[0] in password[1:]
    else:
        assert outcome == password


@pytest.mark.slow
@given(passwords, st.sampled_from([" =", "\t= ", " = "]), st.sampled_from(["", "'", '"']))
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
    keys = [("LOGIN", "PASS")]
    text = f"login={USER}\nPASS={CANARY}\n"
    assert parse(text, keys=keys).credentials.username == USER
    with pytest.raises(MalformedResponse, match="expected LOGIN and PASS"):
        parse(f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n", keys=keys)


def test_a_byte_order_mark_is_not_part_of_a_key() -> None:
    assert parse_env(f"\ufeffDB_USERNAME={USER}\nDB_PASSWORD={CANARY}").username == USER
