"""Which password a login sends to which server, and what it needs for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from ephemeral_creds import ConfigurationError, Credentials, Secret
from ephemeral_creds.contrib._login import asyncpg_credentials
from ephemeral_creds.pool.target import attempts, credentials_for

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = Credentials("app", Secret("an-ordinary-password"))
TOKEN = Credentials("app", Secret("the-first-database-token"), requires_tls=True)
SECOND = Secret("the-second-database-token")
TOKENS = Credentials(
    "app", TOKEN.password, passwords=(("one:5432", TOKEN.password), ("two:5433", SECOND))
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSSLMODE", "PGSERVICE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "services"
    file.write_text("[safe]\nhost=db\nsslmode=verify-full\n[unsafe]\nhost=db\nsslmode=allow\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))


@pytest.mark.parametrize(
    ("conninfo", "kwargs"),
    [
        ("host=db sslmode=require", {}),
        ("host=db", {"sslmode": "verify-ca"}),
        ("host=db sslmode=disable", {"sslmode": "verify-full"}),
        ("postgresql://db/mydb?sslmode=verify-full", {"row_factory": None}),
        ("service=safe", {}),
        ("host=/run/postgresql", {}),
        ("host=/run/postgresql,@abstract", {}),
        ("dbname=mydb", {}),
    ],
)
def test_a_token_goes_where_it_is_encrypted_or_stays_on_this_machine(
    conninfo: str, kwargs: dict[str, Any]
) -> None:
    kwargs = {name: value for name, value in kwargs.items() if name != "row_factory"}
    assert credentials_for(conninfo, kwargs, TOKEN) is TOKEN


@pytest.mark.parametrize(
    ("conninfo", "kwargs", "said"),
    [
        ("host=db", {}, "sslmode=prefer lets a login send its token to db without TLS"),
        ("host=db sslmode=verify-full", {"sslmode": "allow"}, "sslmode=allow"),
        ("host=/run/postgresql,db", {}, "sslmode=prefer"),
        ("host=/run/postgresql hostaddr=192.0.2.1", {}, "sslmode=prefer"),
        ("hostaddr=127.0.0.1 sslmode=disable", {}, "token to 127.0.0.1 without TLS"),
        ("service=unsafe", {}, "sslmode=allow"),
    ],
)
def test_it_goes_nowhere_else(conninfo: str, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        credentials_for(conninfo, kwargs, TOKEN)
    assert credentials_for(conninfo, kwargs, PASSWORD) is PASSWORD


def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    assert credentials_for("host=db", {}, TOKEN) is TOKEN
    monkeypatch.setenv("PGSSLMODE", "prefer")
    monkeypatch.setenv("PGHOST", "db")
    with pytest.raises(ConfigurationError, match="token to db"):
        credentials_for("", {}, TOKEN)


def test_each_server_has_its_password() -> None:
    assert credentials_for("host=one", {}, TOKENS).password == TOKEN.password
    assert credentials_for("host=TWO", {"port": 5433}, TOKENS).password == SECOND
    assert credentials_for("host=two port=5433", {}, TOKENS).passwords == ()
    for conninfo in ("host=two", "host=one,two port=5432,5433", ""):
        with pytest.raises(ConfigurationError, match="only for one:5432, two:5433: name the same"):
            credentials_for(conninfo, {}, TOKENS)


def test_servers_with_passwords_of_their_own_are_tried_one_by_one() -> None:
    given = {"hostaddr": "127.0.0.1,127.0.0.2", "autocommit": True, "connect_timeout": 7}
    found = attempts("host=one,two port=5432,5433 dbname=mydb", given, TOKENS)
    where = [conninfo_to_dict(conninfo) for conninfo, _ in found]
    assert [(each["host"], each["hostaddr"], each["port"]) for each in where] == [
        ("one", "127.0.0.1", "5432"),
        ("two", "127.0.0.2", "5433"),
    ]
    assert all((each["dbname"], each["connect_timeout"]) == ("mydb", "7") for each in where)
    assert [others for _, others in found] == [{"autocommit": True}] * 2
    assert attempts("host=one,two", given, TOKEN) == [("host=one,two", given)]


class TestAsyncpg:
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            (("postgresql://db/mydb?sslmode=require",), {}),
            (("postgresql://db/mydb",), {"ssl": "verify-full"}),
            ((), {"host": "db", "ssl": True}),
            ((), {"host": "/run/postgresql"}),
            ((), {"dsn": "postgresql:///mydb?host=/run/postgresql"}),
        ],
    )
    def test_a_token_goes_where_it_is_encrypted(
        self, args: tuple[str, ...], kwargs: dict[str, Any]
    ) -> None:
        assert asyncpg_credentials(args, kwargs, TOKEN) is TOKEN

    @pytest.mark.parametrize(
        ("args", "kwargs", "said"),
        [
            (("postgresql://db/mydb",), {}, "ssl=prefer lets a login send its token to db"),
            (("postgresql://db/mydb?sslmode=require",), {"ssl": False}, "ssl=False"),
            ((), {"dsn": "postgresql://db/mydb?sslmode=allow"}, "ssl=allow"),
            ((), {}, "token to localhost"),
        ],
    )
    def test_it_goes_nowhere_else(
        self, args: tuple[str, ...], kwargs: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=said):
            asyncpg_credentials(args, kwargs, TOKEN)
        assert asyncpg_credentials(args, kwargs, PASSWORD) is PASSWORD

    def test_it_sends_one_password_to_all(self) -> None:
        with pytest.raises(ConfigurationError, match="each of one:5432, two:5433 takes a token"):
            asyncpg_credentials((), {"host": "one", "ssl": True}, TOKENS)
