"""Never run: what users' type checkers should make of the public interface."""

from __future__ import annotations

from typing import Any, assert_type

import psycopg
from psycopg.rows import DictRow, TupleRow, dict_row
from psycopg_pool import NullConnectionPool  # noqa: TC002 - for type checkers only, as all here

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    AsyncRotatingNullConnectionPool,
    CheckoutFailed,
    CredentialKeeper,
    CredentialProvider,
    FilePolicy,
    FileProvider,
    FixedProvider,
    Grant,
    KeeperStatus,
    KubernetesAuth,
    PoolStatus,
    RefreshPolicy,
    RotatingConnectionPool,
    RotatingNullConnectionPool,
    VaultDynamicProvider,
)

provider: CredentialProvider = FixedProvider("me", "secret")
provider = FileProvider("/vault/secrets/db-creds.txt")
provider = FileProvider("db.properties", format="properties", username_key="u", password_key="p")
provider = FileProvider("db", parse=lambda text: (text[:8], text[8:]))
provider = FileProvider("db", parse=lambda text: {"user": text}, policy=FilePolicy(max_size=9))
provider = VaultDynamicProvider("app", auth=KubernetesAuth("app"))

with RotatingConnectionPool(provider, "host=db", max_size=20) as pool:
    assert_type(pool, RotatingConnectionPool[psycopg.Connection[TupleRow]])
    with pool.connection() as connection:
        assert_type(connection, psycopg.Connection[TupleRow])
        assert_type(connection.execute("SELECT 1").fetchone(), tuple[Any, ...] | None)
    assert_type(pool.getconn(timeout=1.0), psycopg.Connection[TupleRow])
    assert_type(pool.status(), PoolStatus)
    assert_type(pool.refresh(), Grant)
    assert_type(pool.keeper.status(), KeeperStatus)
    another = RotatingConnectionPool(pool.keeper, "host=other")

with RotatingNullConnectionPool(provider, "host=pgbouncer", max_size=20) as null_pool:
    assert_type(null_pool, RotatingNullConnectionPool[psycopg.Connection[TupleRow]])
    assert_type(null_pool.getconn(timeout=1.0), psycopg.Connection[TupleRow])
    theirs: NullConnectionPool[psycopg.Connection[TupleRow]] = null_pool
    ours: RotatingConnectionPool[psycopg.Connection[TupleRow]] = null_pool

try:
    pool.wait()
except CheckoutFailed as error:
    assert_type(error.last_error, Exception | None)
    assert_type(error.keeper_status, KeeperStatus | None)
    operational: psycopg.OperationalError = error

keeper = CredentialKeeper(provider, refresh=RefreshPolicy(margin=10.0, mint_burst=3))
RefreshPolicy(config_retry=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
assert_type(keeper.current(), Grant)
shared = RotatingConnectionPool(keeper, "host=db")
assert_type(shared, RotatingConnectionPool[psycopg.Connection[TupleRow]])
rows = RotatingConnectionPool(
    keeper,
    "host=db",
    connection_class=psycopg.Connection[DictRow],
    kwargs={"row_factory": dict_row},
)
with rows.connection() as dicts:
    assert_type(dicts.execute("SELECT 1").fetchone(), dict[str, Any] | None)


async def use() -> None:
    async with AsyncRotatingConnectionPool(provider, "host=db") as pool:
        assert_type(pool, AsyncRotatingConnectionPool[psycopg.AsyncConnection[TupleRow]])
        async with pool.connection() as connection:
            assert_type(connection, psycopg.AsyncConnection[TupleRow])
        assert_type(await pool.refresh(timeout=5.0), Grant)
    async with AsyncRotatingNullConnectionPool(provider, "host=db") as null_pool:
        assert_type(null_pool, AsyncRotatingNullConnectionPool[psycopg.AsyncConnection[TupleRow]])
        async with null_pool.connection() as connection:
            assert_type(connection, psycopg.AsyncConnection[TupleRow])
