"""What is no credential is told as what it is, at once, and never tried out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from watched_file import read

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.file import FilePolicy, FileProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from canary import Canary

QUIET = FilePolicy(world_readable="allow")
CANARY = "A1a-canary-Pw9"


@pytest.fixture(autouse=True)
def files_with_secrets(tmp_path: Path, canary: Canary) -> None:
    canary.allow_secret_file(tmp_path)


PLACEHOLDERS = {
    "{{ .Data.password }}": "a template's expression: the template has not been rendered",
    "{{- .Data.data.password -}}": "a template's expression",
    "{{ with secret `a` }}{{ .Data.b }}{{ end }}": "a template's expression",
    "prefix-{{ password }}": "a template's expression",
    "{% password %}": "a template's expression",
    "<%= password %>": "a template's expression",
    "[[ .password ]]": "a template's expression",
    "((password))": "a template's expression",
    "${DB_PASSWORD}": "a variable",
    "${DB_PASSWORD:-postgres}": "a variable",
    "${db.password}": "a variable",
    "${file:/etc/password}": "a variable",
    "a${DB_PASSWORD}b": "a variable",
    "$DB_PASSWORD": "a variable",
    "$(DB_PASSWORD)": "a variable or a command",
    "$(cat /run/secret)": "a variable or a command",
    "%(password)s": "a variable",
    "%DB_PASSWORD%": "a variable",
    "<no value>": "'<no value>': the template asks for a field",
    "<no+value>": "'<no value>': the template asks for a field",
    "<nil>": "a word for nothing",
    "null": "a word for nothing",
    "None": "a word for nothing",
    "undefined": "a word for nothing",
    "~": "a word for nothing",
    "map[]": "a word for nothing",
    "%!s(<nil>)": "an error of the template's printf",
    "%!s(MISSING)": "an error of the template's printf",
    "%!d(string=5)": "an error of the template's printf",
    "x%!(EXTRA string=5)": "an error of the template's printf",
    "map[password:x username:y]": r"a whole object, .*\.Data\.data\.password",
    "vault:database/creds/app#password": "a reference to a secret",
    ">>vault:secret/data/app#password": "a reference to a secret",
    "ref+vault://secret/app#/password": "a reference to a secret",
    "op://vault/item/password": "a reference to a secret",
    "<path:secret/data/app#password>": "a reference to a secret",
    "arn:aws:secretsmanager:eu-west-1:1:secret:app": "a reference to a secret",
    "@Microsoft.KeyVault(SecretUri=x)": "a reference to a secret",
    "file:///etc/password": "a reference to a secret",
    "/run/secrets/db-password": "a reference to a secret",
    "SCRAM-SHA-256$4096:c2FsdA==$a:b": "the hash that PostgreSQL stores",
    "md5d41d8cd98f00b204e9800998ecf8427e": "the hash that PostgreSQL stores",
    "vault:v1:8SDd3WHDOjf7mq69": "encrypted",
    "ENC[AES256_GCM,data:p673w==]": "encrypted",
    "ENC(G6N718UuyPE5bHyWKyuLQSm02auQPUtm)": "encrypted",
    "{cipher}AQA4": "encrypted",
    "<password>": "a placeholder",
    "<your-password>": "a placeholder",
    "__DB_PASSWORD__": "a placeholder",
    "@DB_PASSWORD@": "a placeholder",
    "********": "a placeholder",
    "(sensitive value)": "a placeholder",
    "[REDACTED]": "a placeholder",
}

HONEST = [
    "a$b{{c", "}}a{{", "a{{b", "$a", "$HOMEb", "a$HOME", "$ecret", "%s", "100%", "%!", "a%!x(b",
    "<a", "a<b>c", "<1>", "vault:", "vault:a", "a#b", "op:", "map[", "nullable", "none", "nil2",
    "*", "**", "__a__", "@b@", "[a]", "((a)", "${", "${}", "/run", "md5a", "~a",
    "$()", "${x}a", "a${b}", "w${bH7+_+}9", "a${b+c-d}e", "a${bcd}e", "ENC", "{cipher}", "map[a]b",
]  # fmt: skip

WRITERS: Mapping[str, Callable[[str], str]] = {
    "env": lambda value: f"DB_USERNAME=v-x\nDB_PASSWORD={value}\n",
    "env in quotes": lambda value: f"DB_USERNAME=v-x\nDB_PASSWORD='{value}'\n",
    "map": lambda value: f"password: {value}\nusername: v-x\n",
    "json": lambda value: json.dumps({"username": "v-x", "password": value}),
    "uri": lambda value: f"postgresql://v-x:{quote(value, safe='')}@db/app\n",
    "conninfo": lambda value: f"user=v-x password='{value}'\n",
    "properties": lambda value: (
        f"spring.datasource.username=v-x\nspring.datasource.password={value}\n"
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(("value", "what"), PLACEHOLDERS.items())
def test_a_placeholder_is_no_password(write: Callable[[str], str], value: str, what: str) -> None:
    outcome = read(write(value))
    assert isinstance(outcome, ConfigurationError)
    with pytest.raises(ConfigurationError, match=f"(?i)password is {what}"):
        raise outcome


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_a_placeholder_is_no_user_name_and_no_password_in_a_directory(
    value: str, tmp_path: Path
) -> None:
    assert isinstance(read(json.dumps({"username": value, "password": "x"})), ConfigurationError)
    (tmp_path / "username").write_text("app")
    (tmp_path / "password").write_text(value)
    with pytest.raises(ConfigurationError, match=f"{tmp_path}: PASSWORD is "):
        FileProvider(tmp_path, policy=QUIET).fetch()


@pytest.mark.parametrize("value", HONEST)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_value_that_only_resembles_a_placeholder_is_a_password(
    write: Callable[[str], str], value: str
) -> None:
    assert read(write(value)) == value


def test_parse_can_vouch_for_any_value(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.write_text("${really}")
    credentials = Credentials("app", Secret("${really}"))
    provider = FileProvider(path, parse=lambda _: credentials, policy=QUIET)
    assert provider.fetch().credentials == credentials
    with pytest.raises(ConfigurationError, match="password is a variable"):
        FileProvider(path, parse=lambda text: ("app", text), policy=QUIET).fetch()


OTHER_FILES = {
    "a template": (
        '{{- with secret "database/creds/app" -}}\nDB_USERNAME={{ .Data.username }}\n{{- end -}}',
        "it is a template: the template has not been rendered",
    ),
    "a template further down": (
        'HOST=db\n{{ with secret "database/creds/app" }}\n',
        "it contains template expressions: the template has not been rendered",
    ),
    "key-value, version 2": (
        f"data: map[password:{CANARY} username:app]\nmetadata: map[version:3]\n",
        r"the whole reply of a key-value engine of version 2: .* write \.Data\.data",
    ),
    "Vault's error": ('{"errors":["permission denied"]}\n', "an error of Vault's"),
    "Vault's table": (
        f"Key                Value\n---                -----\npassword           {CANARY}\n",
        "vault read -format=json",
    ),
    "a manifest": (
        f"apiVersion: v1\ndata:\n  password: {CANARY}\n  username: YXBw\nkind: Secret\n",
        "a manifest of Kubernetes.*mount the Secret",
    ),
    "a manifest in JSON": (
        json.dumps({"apiVersion": "v1", "data": {"username": "YXBw", "password": CANARY}}),
        "a manifest of Kubernetes",
    ),
    "INI": (f"# db\n[database]\nuser={CANARY}\n", "INI, as a pg_service.conf is"),
    "INI with a comment": (f"[my db] ; main\r\nuser={CANARY}\n", "INI"),
    "pgpass": (f"db:5432:*:app:{CANARY}\n", "a .pgpass, .* write user=… password=… instead"),
    "pgpass, any": (f"*:*:*:app:{CANARY}", "a .pgpass"),
    ".NET's": (f"Host=db;Username=app;Password={CANARY}\n", r"a connection string of \.NET"),
    ".NET's other": (f"Server=db;User Id=app;Password={CANARY};\n", r"connection string of \.NET"),
    "another database's URI": (f"mysql://app:{CANARY}@db/app\n", "a URI: PostgreSQL's is"),
    "Java's other one": (f"jdbc:mysql://db/app?user={CANARY}\n", "a URI"),
    "HTML": (f"<!DOCTYPE html>\n<html>{CANARY}", "HTML or XML: a proxy's error"),
    "Ansible's": ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", "encrypted by Ansible"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), OTHER_FILES.values(), ids=OTHER_FILES)
def test_another_kind_of_file_is_named(text: str, words: str) -> None:
    outcome = read(text)
    assert isinstance(outcome, ConfigurationError)
    assert CANARY not in str(outcome)
    with pytest.raises(ConfigurationError, match=words):
        raise outcome


def test_utf16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    for encoding in ("utf-16", "utf-16-be"):
        path.write_text("\ufeffDB_USERNAME=app\nDB_PASSWORD=x\n", encoding=encoding)
        with pytest.raises(ConfigurationError, match="is UTF-16, as PowerShell"):
            FileProvider(path, policy=QUIET).fetch()


WHOLE = {
    "env": f"# db\nDB_USERNAME=v-x\nDB_PASSWORD='{CANARY}'\nNOTE=\"a\nb\"\nTTL=1h",
    "env, a certificate": (
        f"DB_USERNAME=v-x\nDB_PASSWORD={CANARY}\n"
        "CA=-----BEGIN CERTIFICATE-----\nMII/+==\n-----END CERTIFICATE-----\n"
    ),
    "map": f"password: {CANARY}\nusername: v-x\n",
    "json": json.dumps({"data": {"username": "v-x", "password": f'{CANARY}"\\\u1234'}, "ttl": 1.5}),
    "json, pretty": json.dumps(
        {"data": {"username": "v-x", "password": CANARY}, "warnings": None}, indent=2
    ),
    "uri": f"postgresql://v-x:{CANARY}%2b@db:5432/app?sslmode=require&x=1",
    "uri of Java": f"jdbc:postgresql://db/app?user=v-x&password={CANARY}%2b%40",
    "conninfo": f"user=v-x password='{CANARY}' host=db",
    "properties": f"spring.datasource.username=v-x\nspring.datasource.password={CANARY}\\u0041",
}


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
def test_a_half_written_file_is_never_a_configuration_error(text: str) -> None:
    """A writer in place leaves the beginning of the text for a moment."""
    for end in range(len(text)):
        outcome = read(text[:end])
        assert not isinstance(outcome, ConfigurationError), (text[:end], outcome)


# --- A user name that is not in the file --------------------------------------------------------

ALONE = {
    "the password alone": CANARY,
    "in its line": f"{CANARY}\n",
    "in Windows' line": f"{CANARY}\r\n",
    "env": f"DB_PASSWORD={CANARY}\n",
    "env, anybody's": f"HOST=db\nPASSWORD={CANARY}\n",
    "env, the same user": f"DB_USER=app\nDB_PASSWORD={CANARY}\n",
    "json": json.dumps({"password": CANARY}),
    "map": f"password: {CANARY}\nttl: 3600\n",
    "uri": f"postgresql://:{CANARY}@db/app",
    "uri in env": f"DATABASE_URL=postgresql://db/app?password={CANARY}",
    "conninfo": f"user=app password={CANARY}",
}


def with_name(path: Path, text: str | None = None, **options: str) -> FileProvider:
    if text is not None:
        path.write_text(text)
    query = "".join(f"&{name}={value}" for name, value in options.items())
    return FileProvider.from_url(f"file://{path}?username=app&world_readable=allow{query}")


@pytest.mark.parametrize("text", ALONE.values(), ids=ALONE)
def test_a_password_alone_has_the_users_name_from_elsewhere(text: str, tmp_path: Path) -> None:
    credentials = with_name(tmp_path / "creds", text).fetch().credentials
    assert credentials == Credentials("app", Secret(CANARY))


@pytest.mark.parametrize(
    "text",
    [
        f"DB_USER=other\nDB_PASSWORD={CANARY}\n",
        f"DB_USERNAME=app\nDB_USER=other\nDB_PASSWORD={CANARY}\n",
        json.dumps({"username": "other", "password": CANARY}),
        f"postgresql://other:{CANARY}@db/app",
        f"DATABASE_URL=postgresql://other:{CANARY}@db/app",
        f"user=other password={CANARY}",
    ],
)
def test_a_file_that_names_another_user_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not the user name in username="):
        with_name(tmp_path / "creds", text).fetch()


def test_a_parse_function_that_returns_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.write_text(CANARY)
    other = Credentials("other", Secret(CANARY))

    def read(parsed: Credentials | tuple[str, str] | Mapping[str, str]) -> Credentials:
        provider = FileProvider(path, username="app", parse=lambda _: parsed, policy=QUIET)
        return provider.fetch().credentials

    for parsed in (other, ("other", CANARY), {"username": "other", "password": CANARY}):
        with pytest.raises(
            ConfigurationError, match=r"(?:not the user name in|differs from) username="
        ):
            read(parsed)
    assert read({"password": CANARY}) == Credentials("app", Secret(CANARY))


def test_the_format_of_a_password_alone_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    awkward = '{"a"=b: #c'
    with pytest.raises(EphemeralCredsError):
        with_name(path, f"{awkward}\n").fetch()
    provider = with_name(path, format="password")
    assert provider.fetch().credentials == Credentials("app", Secret(awkward))
    for text, words in {"a\n\n": r"U\+000A", "{{ x }}\n": "a template's expression"}.items():
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=words):
            provider.fetch()
    path.write_text("\n")
    with pytest.raises(MalformedResponse, match="it is empty"):
        provider.fetch()


def test_a_missing_password_is_named(tmp_path: Path) -> None:
    with pytest.raises(MalformedResponse, match=r"it has no password: .* format='password'"):
        with_name(tmp_path / "creds", "HOST=db\n").fetch()
    with pytest.raises(MalformedResponse, match="DB_PASSWORD is missing"):
        with_name(tmp_path / "creds", "DB_USER=app\n").fetch()


def test_a_directory_with_a_password_alone(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{CANARY}\n")
    credentials = FileProvider(tmp_path, username="app", policy=QUIET).fetch().credentials
    assert credentials == Credentials("app", Secret(CANARY))
    (tmp_path / "username").write_text("other\n")
    with pytest.raises(ConfigurationError, match="USERNAME is not the user name"):
        FileProvider(tmp_path, username="app", policy=QUIET).fetch()


# --- A directory in the place of a file ---------------------------------------------------------


def test_an_empty_directory_may_be_a_container_engines(tmp_path: Path) -> None:
    made = "container engines make one if the source file of a bind mount does not exist yet"
    path = tmp_path / "creds"
    path.mkdir()
    with pytest.raises(ProviderUnavailable, match=f"is an empty directory: .*{made}"):
        FileProvider(path).fetch()
    with pytest.raises(ConfigurationError, match=f"is an empty directory, not a regular .*{made}"):
        FileProvider(path, format="env").fetch()
    named = tmp_path / "creds.txt"
    named.mkdir()
    with pytest.raises(ConfigurationError, match=f"is an empty directory, not a file: {made}"):
        FileProvider(named).fetch()
    (named / "username").write_text("app")
    with pytest.raises(MalformedResponse, match="PASSWORD is missing"):
        FileProvider(named, policy=QUIET).fetch()
