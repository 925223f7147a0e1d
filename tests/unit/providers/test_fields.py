"""A secret's fields, or its text, to credentials."""

from __future__ import annotations

import re
import traceback

import pytest

from ephemeral_creds import ConfigurationError, Credentials, Secret
from ephemeral_creds.providers.fields import SecretFields

WHERE = "secret 'app/db' at https://vault:8200"
# Put together at run time, so that no line of source in a traceback holds it.
PASSWORD = "-".join(["canary", "field", "password"])
WANTED = Credentials("app", Secret(PASSWORD))


def refused(fields: SecretFields, secret: dict[str, object] | str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        fields.read(secret, WHERE)
    shown = "".join(traceback.TracebackException.from_exception(caught.value).format())
    assert PASSWORD not in shown
    assert caught.value.__context__ is None
    message = str(caught.value)
    assert message.startswith(WHERE)
    assert "the template" not in message
    assert "sidecar" not in message
    return message


@pytest.mark.parametrize(
    "secret",
    [
        {"username": "app", "password": PASSWORD},
        {"user": "app", "password": PASSWORD, "host": "db", "port": 5432},
        {"DB_USERNAME": "app", "DB_PASSWORD": PASSWORD},
        {"DATABASE_URL": f"postgresql://app:{PASSWORD}@db/mydb"},
        f'{{"username": "app", "password": "{PASSWORD}", "engine": "postgres", "port": 5432}}',
        f"postgresql://app:{PASSWORD}@db/mydb\n",
    ],
)
def test_the_usual_keys_are_found(secret: dict[str, object] | str) -> None:
    assert SecretFields().read(secret, WHERE) == WANTED


@pytest.mark.parametrize(
    ("fields", "secret"),
    [
        ({"username": "who", "password": "pw"}, {"who": "app", "pw": PASSWORD}),
        ({"password": "pw"}, {"username": "app", "pw": PASSWORD, "password": "another"}),
        ({"username": "db.user", "password": "db.pass"}, {"db": {"user": "app", "pass": PASSWORD}}),
        ({"url": "dsn"}, {"dsn": f"postgresql://app:{PASSWORD}@db/mydb", "url": "https://x"}),
    ],
)
def test_keys_of_its_own(fields: dict[str, str], secret: dict[str, object]) -> None:
    assert SecretFields(fields).read(secret, WHERE) == WANTED


@pytest.mark.parametrize(
    "secret",
    [
        {"password": PASSWORD},
        {"username": "app", "password": PASSWORD},
        f'{{"password": "{PASSWORD}"}}',
        f"postgresql://:{PASSWORD}@db/mydb",
        PASSWORD,
        f"{PASSWORD}\n",
        f"{PASSWORD}\r\n",
    ],
)
def test_a_constant_user_name(secret: dict[str, object] | str) -> None:
    assert SecretFields(username="app").read(secret, WHERE) == WANTED


@pytest.mark.parametrize("password", ["{a=b}", "a b", "user=x", "postgresql://x", '{"a": "b"}'])
def test_a_password_alone_may_look_like_anything(password: str) -> None:
    fields = SecretFields(username="app", format="password")
    assert fields.read(password, WHERE).password.reveal() == password


@pytest.mark.parametrize(
    ("fields", "secret", "message"),
    [
        (SecretFields(), {"username": "app"}, "PASSWORD is missing: correct the secret"),
        (SecretFields(), {"password": PASSWORD}, "correct the secret, or .* username=$"),
        (SecretFields(), {"a": "b"}, "in a URL username_field= and password_field="),
        (SecretFields(), {"a": "b"}, "neither a user name nor a password: expected DB_USERNAME"),
        (SecretFields(), {"username": "app", "password": 1234}, "PASSWORD is a number, not text"),
        (SecretFields(), {"username": "app", "password": None}, "PASSWORD is null, not text"),
        (SecretFields(), {"username": "app", "password": ""}, "PASSWORD has no value"),
        (
            SecretFields(),
            {"username": "app", "password": "<no value>"},
            "'<no value>': correct the secret",
        ),
        (
            SecretFields(),
            {"PGUSER": "a", "PGPASSWORD": PASSWORD, "DB_USER": "b", "DB_PASSWORD": PASSWORD},
            "two sets of credentials.*choose the keys with fields=",
        ),
        (
            SecretFields(username="other"),
            {"username": "app", "password": PASSWORD},
            "USERNAME is not the user name in username=",
        ),
        (SecretFields(username="app"), {"secret": "x"}, "it has no password: expected"),
        (SecretFields(), PASSWORD, "give the user name as username="),
        (SecretFields(), " \n", "it is empty"),
        (SecretFields(username="app"), f'{{"password": "{PASSWORD}', "not a JSON object.*format="),
        (SecretFields(username="app"), f'{{{PASSWORD}": }}', "begins with { and is not a JSON"),
        (SecretFields(), f"postgresql://app:{PASSWORD}%@db", "percent-encoded|followed by two"),
    ],
)
def test_an_unusable_secret_is_named(
    fields: SecretFields, secret: dict[str, object] | str, message: str
) -> None:
    assert re.search(message, refused(fields, secret))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fields": {"user": "x"}}, r"fields=\{'user': …\}"),
        ({"fields": {"username": ""}}, "cannot be empty"),
        ({"fields": {"url": "x", "password": "y"}}, r"fields\['url'\]"),
        ({"fields": {"username": "x"}, "username": "app"}, "contradict each other"),
        ({"username": "app "}, "begins or ends with a space"),
        ({"format": "password"}, "has no user name"),
        ({"format": "password", "username": "app", "fields": {"password": "x"}}, "remove fields"),
        ({"format": "env"}, "must be one of auto, password"),
    ],
)
def test_arguments_that_cannot_be_right(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SecretFields(**arguments)  # type: ignore[arg-type]
