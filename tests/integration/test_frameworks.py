"""The pool under SQLAlchemy, whose errors wrap psycopg's and who closes what it has borrowed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from minting import PATIENCE
from twins import Setup, Twin, wait_until

from ephemeral_creds import retry_on_rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import PostgresServer

sqlalchemy: Any = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")


@pytest.fixture
def setup(postgres: PostgresServer, unique: Callable[[str], str]) -> Iterator[Setup]:
    """Its synchronous engine has a synchronous pool."""
    with ExitStack() as stack:
        yield Setup(Twin(), postgres, unique("pool"), stack)


def engine_on(pool: Any) -> Any:
    return sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=pool.getconn, poolclass=sqlalchemy.NullPool
    )


def test_sessions_that_break_cost_no_slot_and_their_transactions_are_repeated(
    setup: Setup,
) -> None:
    pool = setup.pool(min_size=2, max_size=2, close_returns=True, timeout=PATIENCE)
    engine = engine_on(pool)
    broken: list[int] = []

    @retry_on_rotation(pool)
    def transaction() -> str:
        with engine.begin() as connection:
            if len(broken) < 2:
                broken.append(1)
                connection.execute(sqlalchemy.text("SELECT pg_terminate_backend(pg_backend_pid())"))
            return str(connection.execute(sqlalchemy.text("SELECT current_user")).scalar())

    for _ in range(3):
        broken.clear()
        assert transaction() == setup.role(1)
    wait_until(lambda: pool.get_stats()["pool_available"] == 2)


def test_it_continues_through_rotations(setup: Setup) -> None:
    pool = setup.pool(min_size=2, max_size=2, close_returns=True, timeout=PATIENCE)
    engine = engine_on(pool)
    for generation in (2, 3):
        with engine.begin() as connection:
            setup.rotate(generation)
            seen = connection.execute(sqlalchemy.text("SELECT current_user")).scalar()
            assert seen == setup.role(generation - 1)
        setup.revoked(generation - 1)
        with engine.begin() as connection:
            seen = connection.execute(sqlalchemy.text("SELECT current_user")).scalar()
            assert seen == setup.role(generation)
