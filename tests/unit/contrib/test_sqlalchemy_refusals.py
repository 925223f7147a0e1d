"""What engines of SQLAlchemy are refused for, before anything is opened."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

import sqlalchemy

from ephemeral_creds import ConfigurationError, FixedProvider
from ephemeral_creds.contrib.sqlalchemy import attach, keeper_of

CANARY = "engine-secret-canary"
CREDENTIALS = "file%3A%2F%2F%2Fvault%2Fsecrets%2Fdb.json"
PLUGIN = f"plugin=ephemeral_creds&credentials={CREDENTIALS}"


def engine(url: str = "postgresql+psycopg://db/mydb", **options: Any) -> Any:
    return sqlalchemy.create_engine(url, **options)


def provider() -> FixedProvider:
    return FixedProvider("user", "password")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql+psycopg://me@db/mydb?{PLUGIN}", "username"),
        (f"postgresql+psycopg://me:{CANARY}@db/mydb?{PLUGIN}", "password, username"),
        (f"postgresql+psycopg://db/mydb?password={CANARY}&{PLUGIN}", "password"),
        (f"postgresql+psycopg://db/mydb?passfile={CANARY}&{PLUGIN}", "passfile"),
        (f"postgresql+psycopg://db/mydb?{PLUGIN}&credentials={CREDENTIALS}", "more than once"),
        ("postgresql+psycopg://db/mydb?plugin=ephemeral_creds", "EPHEMERAL_CREDS_URL is not set"),
        ("postgresql+psycopg://db/mydb?plugin=ephemeral_creds&credentials=vlt%3A%2F%2Fa", "vlt://"),
        (f"sqlite://?{PLUGIN}", "driver is pysqlite"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EPHEMERAL_CREDS_URL", raising=False)
    with pytest.raises(ConfigurationError, match=said) as caught:
        engine(url)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"creator": lambda: None},
        {"connect_args": {"password": CANARY}},
        {"connect_args": {"user": "me"}},
    ],
)
def test_other_ways_to_log_in_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"creator=|remove that") as caught:
        engine(f"postgresql+psycopg://db/mydb?{PLUGIN}", **options)
    assert CANARY not in str(caught.value)


def test_a_creator_is_noticed_with_its_first_connection() -> None:
    class Driver:
        closed = broken = False

        def add_notice_handler(self, handler: object) -> None: ...
        def close(self) -> None: ...

    attached = engine(creator=Driver, _initialize=False)
    attach(attached, provider())
    with pytest.raises(ConfigurationError, match="remove creator="):
        attached.raw_connection()


def test_an_engine_is_attached_once() -> None:
    attached = engine(f"postgresql+psycopg://db/mydb?{PLUGIN}")
    with pytest.raises(ConfigurationError, match="has credentials already"):
        attach(attached, provider())
    with pytest.raises(ConfigurationError, match="has credentials already"):
        attach(attached.execution_options(logging_token="x"), provider())


@pytest.mark.parametrize("credentials", [object(), FixedProvider, "vault://my-app-role"])
def test_only_providers_and_keepers_are_attached(credentials: Any) -> None:
    with pytest.raises(ConfigurationError, match="has to be a provider"):
        attach(engine(), credentials)


def test_an_engine_without_credentials_has_no_keeper() -> None:
    with pytest.raises(ConfigurationError, match="has no keeper"):
        keeper_of(engine())
