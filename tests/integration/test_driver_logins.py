"""Why a login of a driver's own failed, as a real PostgreSQL says it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine, text

from ephemeral_creds import (
    CredentialKeeper,
    FixedProvider,
    LoginFailure,
    RotatingConnectionPool,
    Session,
    Sessions,
)
from ephemeral_creds.contrib import asyncpg as asyncpg_contrib
from ephemeral_creds.contrib._login import new_diagnosis, psycopg_failure
from ephemeral_creds.contrib.psycopg import connect
from ephemeral_creds.contrib.sqlalchemy import attach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import PostgresServer

WHO = "SELECT current_user::text"


@pytest.fixture
def refused(postgres: PostgresServer) -> Iterator[Session]:
    """A session whose password is wrong."""
    with ExitStack() as stack:
        provider = FixedProvider(postgres.superuser, "not-this-password")
        keeper = stack.enter_context(CredentialKeeper(provider, observers=[]))
        sessions = stack.enter_context(Sessions(keeper, lambda _: None))
        yield sessions.begin()


def psycopg_pool(provider: FixedProvider, url: str) -> object:
    with RotatingConnectionPool(provider, url, min_size=1) as pool, pool.connection(10) as conn:
        return conn.execute(WHO).fetchone()


def psycopg_connect(provider: FixedProvider, url: str) -> object:
    with CredentialKeeper(provider, observers=[]) as keeper, connect(keeper, url) as conn:
        return conn.execute(WHO).fetchone()


def asyncpg_pool(provider: FixedProvider, url: str) -> object:
    async def main() -> object:
        async with asyncpg_contrib.create_pool(provider, url, min_size=1) as pool:
            return tuple(await pool.fetchrow(WHO))

    return asyncio.run(main())


def sqlalchemy_engine(provider: FixedProvider, url: str) -> object:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with CredentialKeeper(provider, observers=[]) as keeper:
        attach(engine, keeper)
        with engine.connect() as conn:
            found = tuple(conn.execute(text(WHO)).one())
        engine.dispose()
    return found


@pytest.mark.parametrize("login", [psycopg_pool, psycopg_connect, asyncpg_pool, sqlalchemy_engine])
def test_no_answer_about_valid_until_costs_no_login(
    postgres: PostgresServer, unique: Callable[[str], str], login: Callable[..., object]
) -> None:
    """Not everything that speaks PostgreSQL's protocol need have all of its catalogues."""
    name = unique("blind")
    with closing(postgres.admin()) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'blind-password'".encode())
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            with closing(postgres.admin(name)) as inside:
                inside.execute("REVOKE SELECT ON pg_catalog.pg_roles FROM PUBLIC")
            url = f"postgresql://{postgres.host}:{postgres.port}/{name}"
            assert login(FixedProvider(name, "blind-password"), url) == (name,)
        finally:
            admin.execute(f"DROP DATABASE {name} (FORCE)".encode())
            admin.execute(f"DROP ROLE {name}".encode())


def test_psycopg_is_refused_the_password(postgres: PostgresServer, refused: Session) -> None:
    credentials = refused.credentials
    conninfo = f"host={postgres.host} port={postgres.port} dbname=postgres"
    try:
        psycopg.connect(conninfo, user=credentials.username, password=credentials.password.reveal())
    except psycopg.OperationalError as error:
        failure = psycopg_failure(error, refused, new_diagnosis(), conninfo)
    assert (failure.reason, failure.sqlstate) == (LoginFailure.CREDENTIALS, "28P01")
    assert isinstance(failure.error, psycopg.OperationalError)
    assert failure.error.pgconn is None
