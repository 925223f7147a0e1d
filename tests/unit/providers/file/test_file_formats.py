"""All formats: recognised, read, refused without a word of the content, and round trips."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from watched_file import passwords, read

from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.formats.parse import FORMATS, parse, recognise
from ephemeral_creds.providers.formats.pick import Keys

if TYPE_CHECKING:
    from collections.abc import Callable

USER = "v-kubernet-app-x7Kq"
CANARY = "A1a-canary-Pw9"
SPRING = f"spring.datasource.username={USER}\nspring.datasource.password={CANARY}\n"

RECOGNISED = {
    "env": ("env", f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}"),
    "env of libpq": ("env", f"export PGUSER={USER}\nexport PGPASSWORD={CANARY}"),
    "env of the image": ("env", f"POSTGRES_USER={USER}\nPOSTGRES_PASSWORD={CANARY}"),
    "env, short": ("env", f"# db\nUSER={USER}\nPASSWORD={CANARY}"),
    "env with a colon": ("env", f"DB_USERNAME={USER}\nDB_PASSWORD={CANARY}\nURL=a: b"),
    "env of systemd": ("env", f"; made\nDB_USERNAME={USER}\n ;so\nDB_PASSWORD={CANARY}\n"),
    "env of a shell": (
        "env",
        (
            f'declare -x DB_PASSWORD="{CANARY}"\ndeclare -x OLDPWD\n'
            f"export DB_USERNAME='{USER}'\nexport TERM\n"
        ),
    ),
    "map": ("map", f"password: {CANARY}\nusername: {USER}\n"),
    "map of a static role": (
        "map",
        f"""last_vault_rotation: 2026-08-01T10:00:00.5Z
password: {CANARY}
rotation_period: 86400
ttl: 1234
username: {USER}
""",
    ),
    "map with an empty value": ("map", f"note:\npassword: {CANARY}\nusername: {USER}\n"),
    "json": ("json", json.dumps({"username": USER, "password": CANARY})),
    "json, Vault's answer": (
        "json",
        json.dumps({"lease_duration": 3600, "data": {"username": USER, "password": CANARY}}),
    ),
    "json, version 2 of key-value": (
        "json",
        json.dumps({"data": {"username": USER, "password": CANARY}, "metadata": {"version": 3}}),
    ),
    "json, pretty": ("json", f'\n{{\n  "username": "{USER}",\n  "password": "{CANARY}"\n}}\n'),
    "uri": ("uri", f"postgresql://{USER}:{CANARY}@db:5432/app?sslmode=verify-full\n"),
    "uri, short scheme": ("uri", f"postgres://{USER}:{CANARY}@"),
    "uri, IPv6": ("uri", f"postgresql://{USER}:{CANARY}@[::1]:5432,b/app"),
    "uri, any ports": ("uri", f"postgresql://{USER}:{CANARY}@a:1,[::2]:3,c/app?options=-c%20x%3D1"),
    "uri, parameters": ("uri", f"postgresql:///app?user={USER}&password={CANARY}&host=/run"),
    "uri of SQLAlchemy": ("uri", f"postgresql+psycopg://{USER}:{CANARY}@db/app"),
    "uri of SQLAlchemy, old": (
        "uri",
        f"postgres+psycopg2://{USER}:{CANARY}@db/app?sslmode=require",
    ),
    "uri of Django": ("uri", f"pgsql://{USER}:{CANARY}@db/app"),
    "uri of an extension": ("uri", f"postgis://{USER}:{CANARY}@db/app"),
    "uri of an extension in env": ("env", f"DATABASE_URL=timescaledb://{USER}:{CANARY}@db/app"),
    "uri of Java": ("uri", f"jdbc:postgresql://db:5432/app?user={USER}&password={CANARY}&ssl=true"),
    "uri of Java, no host": ("uri", f"jdbc:postgresql:app?password={CANARY}&user={USER}"),
    "uri in env": ("env", f"DEBUG=1\nDATABASE_URL=postgresql://{USER}:{CANARY}@db/app\n"),
    "uri in env, quoted": ("env", f"DATABASE_URI='postgres+asyncpg://{USER}:{CANARY}@${{HOST}}/a'"),
    "uri in env, the second": (
        "env",
        f"DATABASE_URL=mysql://root@db\nPOSTGRES_URL=postgres://{USER}:{CANARY}@db\n",
    ),
    "uri and half a pair": (
        "env",
        f"DB_PASSWORD=other\nDATABASE_URL=postgresql://{USER}:{CANARY}@db/app\n",
    ),
    "a whole pair and a uri": (
        "env",
        f"DATABASE_URL=postgresql://${{USER}}:x@db\nDB_USERNAME={USER}\nDB_PASSWORD={CANARY}\n",
    ),
    "uri in properties": (
        "properties",
        f"spring.datasource.url=jdbc\\:postgresql\\://db/app?user\\={USER}&password\\={CANARY}",
    ),
    "uri in JSON": ("json", json.dumps({"data": {"uri": f"postgresql://{USER}:{CANARY}@db"}})),
    "uri in map": ("map", f"uri: postgresql://{USER}:{CANARY}@db/app\n"),
    "map for YAML": ("map", f'host: db\nusername: "{USER}"\npassword: "{CANARY}"\n'),
    "map for YAML, single": ("map", f"password: '{CANARY}'\nusername: '{USER}'\n"),
    "YAML, Vault's answer": (
        "map",
        f"auth: null\ndata:\n    password: {CANARY}\n    username: {USER}\nlease_duration: 60\n",
    ),
    "YAML, nested": (
        "map",
        f"redis:\n  username: x\n  password: y\nusername: {USER}\ndb:\npassword: {CANARY}\n",
    ),
    "YAML, a list": (
        "map",
        (
            "hosts:\n  - db\n  -\n  - password: other\n    username: other\n"
            f"username: {USER}\npassword: {CANARY}\nports:\n- 5432\n"
        ),
    ),
    "YAML, a block": (
        "map",
        f"note: |\n  username: other\n\n  password: other\nusername: {USER}\npassword: {CANARY}\n",
    ),
    "map with a certificate": (
        "map",
        (
            "ca: -----BEGIN CERTIFICATE-----\nMII+==\nusername: x\n-----END CERTIFICATE-----\n"
            f"password: {CANARY}\nusername: {USER}\n"
        ),
    ),
    "conninfo": ("conninfo", f"host=db user={USER} password={CANARY} dbname=app\n"),
    "conninfo, lines": ("conninfo", f"host=db port=5432\nuser={USER} password={CANARY}\n"),
    "conninfo, quoted": ("conninfo", f"user = '{USER}'  password='{CANARY}'host=db"),
    "conninfo, with a semicolon": (
        "conninfo",
        f"host=db user={USER} options=a;b=c password={CANARY}",
    ),
    "properties": ("properties", SPRING),
    "properties, colons": ("properties", f"! made\n# so\n{SPRING.replace('=', ': ')}"),
    "properties, spaces": ("properties", SPRING.replace("=", "  = ")),
}

REFUSED: dict[str, tuple[str, type[EphemeralCredsError], str]] = {
    "json cut off": (f'{{"username": "{CANARY}", "pass', MalformedResponse, "line 1 column"),
    "json list": (f'["{CANARY}"]', ConfigurationError, "not an object"),
    "json number": (
        f'{{"username": "{CANARY}", "password": 12345678}}',
        ConfigurationError,
        "PASSWORD is a number, not text",
    ),
    "json null": ('{"username": null, "password": "x"}', ConfigurationError, "USERNAME is null"),
    "json object": ('{"username": {}, "password": "x"}', ConfigurationError, "USERNAME is missing"),
    "json, nothing": ('{"username": "", "password": "x"}', ConfigurationError, "no value: check"),
    "json, another's": ('{"host": "db"}', ConfigurationError, "neither a user name nor"),
    "json, raw quotes": (
        f'{{"username": "u", "password": "{CANARY}"x"}}',
        ConfigurationError,
        "not JSON, see line 1 column .* written by toJSON",
    ),
    "json, a raw backslash": (
        f'{{"username": "u", "password": "{CANARY}\\x"}}',
        ConfigurationError,
        "written by toJSON",
    ),
    "json, a raw backslash at the end": (
        f'{{"username": "u", "password": "{CANARY}\\"}}\n',
        ConfigurationError,
        "written by toJSON",
    ),
    "json, two": (f'{{"username": "{CANARY}"}}\n{{"a"', ConfigurationError, "line 2 column 1"),
    "json, a template": (
        '{"username": {{ .Data.username | toJSON }}, "password": "x"}',
        ConfigurationError,
        "the template has not been rendered",
    ),
    "json twice": (
        f'{{"username": "u", "password": "{CANARY}", "password": "other"}}',
        ConfigurationError,
        "PASSWORD has one value in the object itself and another in the object itself",
    ),
    "json in both places": (
        f'{{"username": "u", "password": "{CANARY}", "data": {{"username": "v"}}}}',
        ConfigurationError,
        "USERNAME has one value in the object itself and another in 'data'",
    ),
    "json, a whole answer": (
        json.dumps({"data": {"data": {"username": USER, "password": CANARY}}}),
        ConfigurationError,
        r"write \.Data\.data",
    ),
    "json, too deep": ('{"a":' * 100_000, ConfigurationError, "nested too deeply"),
    "json, too long a number": (
        '{"a": ' + "9" * 5000 + "}",
        ConfigurationError,
        "number too long",
    ),
    "json, NUL": ('{"username": "u", "password": "a\\u0000b"}', ConfigurationError, "NUL"),
    "json, surrogate": (
        '{"username": "u", "password": "\\ud800"}',
        ConfigurationError,
        "surrogate",
    ),
    "json, no value": (
        '{"username": "<no value>", "password": "x"}',
        ConfigurationError,
        "USERNAME is '<no value>'",
    ),
    "map cut off": (f"username: {CANARY}\npass", MalformedResponse, "line 2 is not key: value"),
    "map cut at the colon": (f"username: {CANARY}\npassword:", MalformedResponse, "no value"),
    "uri without user": (f"postgresql://db/{CANARY}", MalformedResponse, "neither a user name"),
    "uri without password": (f"postgresql://{CANARY}@db/app", MalformedResponse, "password is mis"),
    "uri with an @ in it": (f"postgresql://app:{CANARY}@x@db/app", ConfigurationError, "encoded"),
    "uri with a / in it": (f"postgresql://app:{CANARY}/x@db/app", ConfigurationError, "encoded"),
    "uri with a / and a ?": (f"postgresql://app:{CANARY}/?x@db", ConfigurationError, "encoded"),
    "uri with / ? =": (f"postgresql://app:{CANARY}/?x=@db", ConfigurationError, "encoded"),
    "uri with a % in it": (f"postgresql://app:{CANARY}%x@db/app", ConfigurationError, "two digits"),
    "uri, not UTF-8": (f"postgresql://app:{CANARY}%ff@db/app", ConfigurationError, "not UTF-8"),
    "uri, NUL": (f"postgresql://app:{CANARY}%00@db/app", ConfigurationError, "NUL"),
    "uri with a space": (f"postgresql://app:{CANARY} x@db/app", ConfigurationError, "not one conn"),
    "uri, no password in its line": (
        f"postgresql://{CANARY}@db/app\n",
        ConfigurationError,
        "password is missing: check",
    ),
    "uri of an extension, plus": (
        f"postgis:///app?user=app&password={CANARY}+x",
        ConfigurationError,
        "password in its parameters has a .*%2B",
    ),
    "uri of Java, user in front": (
        f"jdbc:postgresql://app:{CANARY}@db/app",
        ConfigurationError,
        r"\?user=…&password=…",
    ),
    "uri of Java, plus": (
        f"jdbc:postgresql://db/app?user=app&password={CANARY}+x",
        ConfigurationError,
        "password in its parameters has a .*%2B",
    ),
    "uri of Java, raw &": (
        f"jdbc:postgresql://db/app?user=app&password={CANARY}&x&ssl=true",
        ConfigurationError,
        "encoded",
    ),
    "uri of Java, raw & at the end": (
        f"jdbc:postgresql://db/app?user=app&password={CANARY}&x",
        MalformedResponse,
        "encoded.*half written",
    ),
    "uri of SQLAlchemy, raw /": (
        f"postgresql+psycopg://app:{CANARY}/x@db/app",
        ConfigurationError,
        "encoded",
    ),
    "uri in env, variables": (
        "DATABASE_URL=postgresql://${DB_USER}:${DB_PASSWORD}@db/app",
        ConfigurationError,
        "DATABASE_URL: user is a variable",
    ),
    "uri in env, no password": (
        f"DATABASE_URL=postgresql://{CANARY}@db/app",
        MalformedResponse,
        "DATABASE_URL: password is missing",
    ),
    "uri in env, a comment": (
        f"DATABASE_URL=postgresql://app:{CANARY}@db/app # main",
        ConfigurationError,
        "DATABASE_URL: it is not one connection URI",
    ),
    "uri in env, a comment after quotes": (
        f"DATABASE_URL='postgresql://app:{CANARY}@db/app' # main",
        ConfigurationError,
        "DATABASE_URL: it is not one connection URI",
    ),
    "map, a whole answer": (
        f"data:\n  data:\n    username: u\n    password: {CANARY}\n",
        ConfigurationError,
        r"write \.Data\.data",
    ),
    "map, nested": (
        f"redis:\n  username: u\n  password: {CANARY}\n",
        MalformedResponse,
        "neither a user name nor a password",
    ),
    "uri in env, twice": (
        f"DB_URL=postgresql://app:{CANARY}@a\nDB_URL=postgresql://app:{CANARY}@b",
        ConfigurationError,
        "DB_URL has one value in line 1 and another in line 2",
    ),
    "uri in env, another database's": (
        f"DATABASE_URL=mysql://app:{CANARY}@db/app",
        MalformedResponse,
        "a URI of PostgreSQL in DATABASE_URL or",
    ),
    **{
        f"map for YAML, {what}": (
            f"username: {user}\npassword: {password}\n",
            ConfigurationError,
            r"in line \d may be YAML.*format='map'",
        )
        for what, user, password in [
            ("one in quotes", "app", f'"{CANARY}"'),
            ("an escape", '"app"', f'"{CANARY}\\""'),
            ("quotes in quotes", "'app'", f"'{CANARY}''{CANARY}'"),
            ("a comment", '"app"', f'"{CANARY}" # of the app'),
            ("spaces in front", "app", f"   {CANARY}"),
            ("a space at the end", "app", f"{CANARY} "),
            ("a block", "app", "|-"),
            ("a comment on a bare value", "app", f"{CANARY} # of the app"),
        ]
    },
    "conninfo, open quote": (
        f"user=u password='{CANARY}",
        MalformedResponse,
        "setting 2 of the connection string is not key=value",
    ),
    "conninfo, no sign": (f"user=u password={CANARY} {CANARY}", MalformedResponse, "setting 3"),
    "conninfo, no sign in its line": (
        f"user=u password={CANARY} {CANARY}\n",
        ConfigurationError,
        "setting 3",
    ),
    "conninfo, a template": (
        "user={{ .Data.username }} password={{ .Data.password }}",
        ConfigurationError,
        "the template has not been rendered",
    ),
    "uri, a template": (
        "postgresql://{{ .Data.username }}:{{ .Data.password }}@db",
        ConfigurationError,
        "the template has not been rendered",
    ),
    "properties, escape in its line": (
        f"a.b=x\\u12\nspring.datasource.password={CANARY}",
        ConfigurationError,
        r"line 1 has an incomplete \\u escape",
    ),
    "properties, cut off": (
        f"spring.datasource.username={CANARY}\nspring.datasource.pass",
        MalformedResponse,
        "spring.datasource.password is missing",
    ),
    "properties, escape": (rf"a.b={CANARY}\u12", MalformedResponse, r"incomplete \\u escape"),
}


@pytest.mark.parametrize(("name", "text"), RECOGNISED.values(), ids=RECOGNISED)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_recognised_and_read(name: Any, text: str, end: str) -> None:
    text = text.replace("\n", end)
    assert recognise(text) == name
    # Quotes are part of the value in a map that is named.
    quoted = name == "map" and f'{CANARY}"' in text.replace("'", '"')
    for named in ("auto",) if quoted else ("auto", name):
        credentials = parse(text, format=named).credentials
        assert credentials.username == USER
        assert credentials.password.reveal() == CANARY


@pytest.mark.parametrize(("text", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_without_a_word_of_it(
    text: str, error: type[EphemeralCredsError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        parse(text)
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.args)
    assert CANARY not in shown
    assert USER not in shown
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_a_map_that_is_named_is_verbatim() -> None:
    text = f'username: "{USER}"\npassword:  "{CANARY}" # \n'
    credentials = parse(text, format="map").credentials
    assert credentials.username == f'"{USER}"'
    assert credentials.password.reveal() == f' "{CANARY}" # '


def test_keys_of_indented_lines_can_be_named() -> None:
    text = f"db:\n  main:\n    login: {USER}\n  other: x\n  pass: {CANARY}\n"
    credentials = parse(text, keys=Keys((("db.main.login", "db.pass"),), ())).credentials
    assert (credentials.username, credentials.password.reveal()) == (USER, CANARY)


def test_a_document_of_yaml_begins_with_a_line_that_means_nothing() -> None:
    for end in ("\n", "\r\n"):
        text = f"# db\n---\nusername: {USER}\npassword: {CANARY}\n".replace("\n", end)
        assert parse(text).credentials.password.reveal() == CANARY
    with pytest.raises(ConfigurationError, match="line 4 is not key: value"):
        parse(f"---\nusername: {USER}\npassword: {CANARY}\n---\n")


def test_a_java_uri_has_credentials_only_in_its_parameters() -> None:
    text = f"jdbc:postgresql://db?user={USER}&password={CANARY}@x/?y"
    assert parse(text).credentials.password.reveal() == f"{CANARY}@x/?y"


def test_json_keys_can_be_paths() -> None:
    text = json.dumps({"data": {"db": {"login": USER, "pass": CANARY}}})
    credentials = parse(text, keys=Keys((("db.login", "db.pass"),), ())).credentials
    assert (credentials.username, credentials.password.reveal()) == (USER, CANARY)


def test_java_escapes() -> None:
    text = (
        "spring.datasource.username=\\u0061pp\n"
        "spring.datasource.\\\n   password: \\ a\\=b\\\\c\\tä\\ud834\\udd1e\\\n  d \n"
    )
    credentials = parse(text).credentials
    assert credentials.username == "app"
    assert credentials.password.reveal() == " a=b\\c\tä𝄞d "


@pytest.mark.parametrize(
    ("lines", "at", "after"),
    [
        ("EXPIRES_AT=1790000000", 1790000000, None),
        ("DB_EXPIRES_AT=1790000000.5\nTTL=60", 1790000000.5, 60),
        ("EXPIRE_TIME=2026-09-21T14:13:20.123456789Z", 1790000000, None),
        ("VALID_UNTIL=2026-09-21T16:13:20+02:00", 1790000000, None),
        ("VALID_UNTIL=2026-09-21 10:13:20-04", 1790000000, None),
        ("VALID_UNTIL=2026-09-21t14:13:20z", 1790000000, None),
        ("VALID_UNTIL=2026-09-21T14:13:20.5Z", 1790000000, None),
        ("VALID_UNTIL=2026-09-21", None, None),
        ("LAST_VAULT_ROTATION=2026-09-21T14:12:20Z\nROTATION_PERIOD=60", 1790000000, None),
        ("LAST_VAULT_ROTATION=2026-09-21T14:12:20Z\nROTATION_PERIOD=1m0s", 1790000000, None),
        ("LEASE_DURATION=3600", None, 3600),
        ("LEASE_DURATION=1h0m0s\nTTL=30m", None, 1800),
        ("LEASE_DURATION=0\nEXPIRES_AT=0", None, None),
        ("LEASE_DURATION=soon\nEXPIRES_AT=2026-13-45T99:00:00Z", None, None),
        ("ROTATION_PERIOD=60", None, None),
    ],
)
def test_the_end_of_the_credentials_is_read(
    lines: str, at: float | None, after: float | None
) -> None:
    end = parse(f"DB_USERNAME=u\nDB_PASSWORD=p\n{lines}\n").end
    inf = float("inf")
    assert (end.at, end.after) == (at or inf, after or inf)


def test_json_numbers_say_it_too() -> None:
    text = json.dumps({"lease_duration": 3600, "data": {"username": "u", "password": "p"}})
    assert parse(text).end.after == 3600


# --- round trips ------------------------------------------------------------------------------

one_line = passwords.filter(lambda text: "\n" not in text)


def as_conninfo(user: str, password: str) -> str:
    return make_conninfo(user=user, password=password, host="db")


def as_quoted_conninfo(user: str, password: str) -> str:
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    return f"user='{user}' password='{quoted}'"


def as_uri(user: str, password: str) -> str:
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@db:5432/app"


def as_sqlalchemy(user: str, password: str) -> str:
    # It leaves a plus sign alone, as the URI itself does.
    return f"postgresql+psycopg://{quote(user, safe='')}:{quote(password, safe='+')}@db:5432/app"


def as_jdbc(user: str, password: str) -> str:
    encoded = urlencode({"user": user, "password": password}, quote_via=quote, safe="")
    return f"jdbc:postgresql://db:5432/app?ssl=true&{encoded}"


def as_properties(user: str, password: str) -> str:
    def escaped(text: str) -> str:
        units = text.encode("utf-16-be")
        pairs = [units[n : n + 2] for n in range(0, len(units), 2)]
        return "".join(f"\\u{pair.hex()}" for pair in pairs)

    return f"spring.datasource.username={user}\nspring.datasource.password={escaped(password)}\n"


@pytest.mark.slow
@given(one_line)
def test_round_trip_of_the_map(password: str) -> None:
    text = f"password: {password}\nusername: {USER}\n"
    assert read(text, format="map") == password
    outcome = read(text)
    if isinstance(outcome, ConfigurationError):
        assert "format='map'" in str(outcome)
        assert password[0] in " '\"|>" or password[-1] == " " or "#" in password
    else:
        assert outcome == password


@pytest.mark.slow
@given(one_line, st.sampled_from("\"'"))
def test_round_trip_of_quoted_yaml(password: str, quotes: str) -> None:
    text = f"username: {quotes}{USER}{quotes}\npassword: {quotes}{password}{quotes}\n"
    outcome = read(text)
    if isinstance(outcome, ConfigurationError):
        assert "format='map'" in str(outcome)
        assert quotes in password or "\\" in password
    else:
        assert outcome == password


@pytest.mark.slow
@pytest.mark.parametrize(
    "write",
    [
        lambda user, password: json.dumps({"username": user, "password": password}),
        lambda user, password: json.dumps({"data": {"password": password, "username": user}}),
        as_conninfo,
        as_quoted_conninfo,
        as_uri,
        as_sqlalchemy,
        as_jdbc,
        as_properties,
        lambda user, password: f"DATABASE_URL={as_uri(user, password)}\n",
        lambda user, password: f'DB_URL = "{as_sqlalchemy(user, password)}"\n',
        lambda user, password: f"url: '{as_uri(user, password)}'\n",
        lambda user, password: f"spring.datasource.url={as_jdbc(user, password)}\n",
        lambda user, password: json.dumps({"jdbc-uri": as_jdbc(user, password), "port": 5432}),
    ],
    ids=[
        "json", "json below data", "conninfo", "conninfo quoted", "uri", "SQLAlchemy", "JDBC",
        "properties", "uri in env", "SQLAlchemy in env", "uri in map", "JDBC in properties",
        "JDBC in json",
    ],
)  # fmt: skip
@given(password=passwords)
def test_round_trip(write: Callable[[str, str], str], password: str) -> None:
    assert parse(write(USER, password)).credentials.password.reveal() == password


# --- libpq's own parser as the judge ------------------------------------------------------------

settings = st.tuples(
    st.sampled_from(["user", "password", "host", "dbname"]),
    st.sampled_from(["=", " = ", "= ", " ="]),
    st.sampled_from(["a", "'b'", "'c d'", r"e\ f", r"'g\'h'", "", "''", "i\\", r"\\", "'j", "é="]),
    st.sampled_from([" ", "\n", "\t\v", ""]),
)


def as_libpq(text: str) -> tuple[Any, Any] | None:
    try:
        known = conninfo_to_dict(text)
    except Exception:
        return None
    return known.get("user") or None, known.get("password") or None


def compare(text: str, named: Any) -> None:
    theirs = as_libpq(text)
    try:
        ours = parse(text, format=named).credentials
    except ConfigurationError:
        return  # a key twice, which libpq takes; or something that is surely meant otherwise
    except MalformedResponse:
        assert theirs is None or None in theirs
        return
    if theirs is not None:
        assert (ours.username, ours.password.reveal()) == theirs


@pytest.mark.slow
@given(st.lists(settings, min_size=1, max_size=5))
def test_conninfo_is_read_as_by_libpq(parts: list[tuple[str, ...]]) -> None:
    compare("".join("".join(part) for part in parts), "conninfo")


@pytest.mark.slow
@given(
    st.lists(
        st.sampled_from(["user", "pass", ":", "@", "/", "?", "&", "%41", "%zz", "=", "password=x",
                         "user=y", "[::1]", "5432", ",", "#", "+", "é"]),
        max_size=9,
    )
)  # fmt: skip
def test_uris_are_read_as_by_libpq(parts: list[str]) -> None:
    compare("postgresql://" + "".join(parts), "uri")


# --- whatever comes -----------------------------------------------------------------------------

pieces = st.sampled_from(
    ["DB_USERNAME", "DB_PASSWORD", "username", "password", "user", "=", ": ", "\n", "\r\n", " ",
     "'", '"', "\\", "\\u", "{", "}", "[", ",", '"data":', "postgresql://", "@", "/", "?", "%",
     "%4", "#", "!", "\ufeff", "\0", "\ud800", "spring.datasource.username", "<no value>", CANARY]
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("named", sorted({*FORMATS} - {"directory"}))
@given(text=st.one_of(st.text(max_size=200), st.lists(pieces, max_size=20).map("".join)))
def test_any_text_is_parsed_or_refused_without_quoting_it(named: Any, text: str) -> None:
    refusal: Exception | None = None
    try:
        parse(text, format=named)
    except (ConfigurationError, MalformedResponse) as error:
        refusal = error
    assert CANARY not in repr(refusal)
    assert refusal is None or refusal.__context__ is None
