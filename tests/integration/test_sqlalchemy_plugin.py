"""SQLAlchemy's engine plugin: credentials from nothing but a database URL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
pytest.importorskip("asyncpg", reason="asyncpg is not installed")

from minting import PATIENCE
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from twins import wait_until

from ephemeral_creds.contrib.sqlalchemy import keeper_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine, PostgresServer, VaultServer

WHO = text("SELECT session_user::text")


@pytest.fixture
def credentials(role: str, vault: VaultServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The provider's URL, for a role in a real Vault."""
    monkeypatch.setenv("VAULT_TOKEN_FOR_TEST", vault.root_token.reveal())
    return f"vault://{role}?address={vault.address}&auth=token&token_env=VAULT_TOKEN_FOR_TEST"


@pytest.fixture
def url(postgres: PostgresServer, credentials: str) -> Callable[[str], str]:
    """Make the database URL for a driver."""
    plugin = f"plugin=ephemeral_creds&credentials={quote(credentials, safe='')}"
    where = f"{postgres.host}:{postgres.port}/postgres"
    return lambda driver: f"postgresql+{driver}://{where}?{plugin}"


def test_a_url_is_enough(
    url: Callable[[str], str], engine: DatabaseEngine, postgres: PostgresServer
) -> None:
    database = create_engine(url("psycopg"))
    with database.connect() as connection:
        first = connection.scalar(WHO)
    keeper_of(database).refresh(PATIENCE)
    with database.connect() as connection:
        second = connection.scalar(WHO)
    assert first != second
    assert str(database.url) == f"postgresql+psycopg://{postgres.host}:{postgres.port}/postgres"
    wait_until(lambda: first not in postgres.roles("v-"))
    database.dispose()
    wait_until(lambda: second not in postgres.roles("v-"))


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_url_is_enough_for_an_async_engine(
    url: Callable[[str], str], driver: str, postgres: PostgresServer
) -> None:
    async def main() -> Any:
        database = create_async_engine(url(driver))
        async with database.connect() as connection:
            first = await connection.scalar(WHO)
        await asyncio.to_thread(keeper_of(database).refresh, PATIENCE)
        async with database.connect() as connection:
            second = await connection.scalar(WHO)
        assert first != second
        await asyncio.to_thread(wait_until, lambda: first not in postgres.roles("v-"))
        await database.dispose()
        return second

    second = asyncio.run(main())
    wait_until(lambda: second not in postgres.roles("v-"))


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_an_async_engine_is_used_in_one_event_loop_after_the_other(
    url: Callable[[str], str], driver: str
) -> None:
    database = create_async_engine(url(driver))
    users = set()

    async def main() -> None:
        async with database.connect() as connection, database.connect() as other:
            users.update({await connection.scalar(WHO), await other.scalar(WHO)})
        await asyncio.to_thread(keeper_of(database).refresh, PATIENCE)
        async with database.connect() as connection:
            users.add(await connection.scalar(WHO))
        await database.dispose()

    for _ in range(3):
        asyncio.run(main())
    assert len(users) == 6


def test_engines_of_one_url_share_a_role_until_the_last_is_disposed_of(
    url: Callable[[str], str], postgres: PostgresServer
) -> None:
    engines = [create_engine(url("psycopg")) for _ in range(2)]
    users = set()
    for database in engines:
        with database.connect() as connection:
            users.add(connection.scalar(WHO))
    [user] = users
    keepers = {id(keeper_of(database)) for database in engines}
    assert len(keepers) == 1
    engines[0].dispose()
    with engines[1].connect() as connection:
        assert connection.scalar(WHO) == user
    engines[1].dispose()
    wait_until(lambda: user not in postgres.roles("v-"))
    with engines[0].connect() as connection:
        assert connection.scalar(WHO) != user
    engines[0].dispose()


def test_the_environment_may_name_the_provider(
    postgres: PostgresServer, credentials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPHEMERAL_CREDS_URL", credentials)
    where = f"{postgres.host}:{postgres.port}/postgres"
    database = create_engine(f"postgresql+psycopg://{where}?plugin=ephemeral_creds")
    with database.connect() as connection:
        assert str(connection.scalar(WHO)).startswith("v-")
    database.dispose()
