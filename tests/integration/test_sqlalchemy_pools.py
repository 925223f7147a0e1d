"""Engines of SQLAlchemy that borrow their connections from pools of ours."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

import psycopg
import sqlalchemy
from engines import EngineFace
from minting import PATIENCE
from sqlalchemy import exc, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from twins import AsyncTwin, Setup, wait_until

from ephemeral_creds import ConfigurationError, retry_on_rotation
from ephemeral_creds.contrib.sqlalchemy import create_async_engine, create_engine

if TYPE_CHECKING:
    from sqlalchemy import Connection


def borrowing(setup: Setup, pool: Any, **options: Any) -> EngineFace:
    """Make an engine on a pool of the scenario's kind."""
    if isinstance(setup.twin, AsyncTwin):
        return EngineFace(create_async_engine(pool.raw, **options), setup.twin.loop)
    return EngineFace(create_engine(pool, **options), None)


def state(pool: Any) -> tuple[Any, ...]:
    """Return what the next borrower of a pool's only connection finds."""
    with pool.connection() as connection:
        raw = getattr(connection, "raw", connection)
        return (
            *(raw.autocommit, raw.isolation_level, raw.read_only, raw.deferrable),
            len(raw._notice_handlers),
            connection.execute("SELECT '{\"a\": 1}'::json").fetchone()[0],
        )


def test_notice_handlers_do_not_pile_up(setup: Setup) -> None:
    pool = setup.pool(min_size=1, max_size=1)
    face = borrowing(setup, pool)

    def handlers(connection: Connection) -> int:
        raw: Any = connection.connection.driver_connection
        return len(raw._notice_handlers)

    assert {face.run(handlers) for _ in range(100)} == {1}
    assert state(pool)[4] == 0


def test_adapters_of_the_engine_are_on_its_connections_only(setup: Setup) -> None:
    pool = setup.pool(min_size=1, max_size=1)
    before = state(pool)
    face = borrowing(
        setup,
        pool,
        json_deserializer=lambda value: ("read", json.loads(value)),
        json_serializer=lambda value: json.dumps(["written", value]),
        native_inet_types=False,
    )

    def work(connection: Connection) -> tuple[Any, ...]:
        statement = sqlalchemy.select(
            sqlalchemy.literal({"a": 1}, sqlalchemy.JSON), text("'10.0.0.1'::inet")
        )
        return tuple(connection.execute(statement).one())

    for _ in range(2):
        assert face.run(work) == (("read", ["written", {"a": 1}]), "10.0.0.1")
        assert state(pool) == before
    with pool.connection() as connection:
        row = connection.execute("SELECT '10.0.0.1'::inet").fetchone()
        assert row == (ipaddress.ip_address("10.0.0.1"),)


def test_adapters_of_the_pool_are_on_connections_of_the_engine(setup: Setup) -> None:
    def configure(connection: Any) -> None:
        psycopg.types.json.set_json_loads(lambda value: "configured", connection)

    pool = setup.pool(min_size=1, max_size=1, configure=configure)
    face = borrowing(setup, pool)
    assert face.value("SELECT '{}'::json") == "configured"


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE", "READ COMMITTED"])
def test_isolation_levels_do_not_leak(setup: Setup, level: str) -> None:
    pool = setup.pool(min_size=1, max_size=1)
    before = state(pool)
    face = borrowing(setup, pool, isolation_level=level)
    face.value()
    assert state(pool) == before
    characteristics = {"postgresql_readonly": True, "postgresql_deferrable": True}
    other = borrowing(setup, pool, execution_options=characteristics)
    assert other.value("SHOW transaction_read_only") == "on"
    assert state(pool) == before
    assert borrowing(setup, pool).value("SHOW transaction_isolation") == "read committed"


@pytest.mark.parametrize("close_returns", [False, True])
def test_an_invalidated_connection_is_closed_and_costs_no_slot(
    setup: Setup, close_returns: bool
) -> None:
    pool = setup.pool(min_size=1, max_size=1, close_returns=close_returns, timeout=PATIENCE)
    face = borrowing(setup, pool)
    pids: list[Any] = []

    def work(connection: Connection) -> None:
        pids.append(connection.scalar(text("SELECT pg_backend_pid()")))
        connection.rollback()
        connection.invalidate()

    for _ in range(3):
        face.run(work)
    assert len(set(pids)) == 3
    wait_until(lambda: pool.get_stats()["pool_available"] == 1)
    assert pool.get_stats()["pool_size"] == 1


@pytest.mark.parametrize("close_returns", [False, True])
def test_broken_connections_cost_no_slot(setup: Setup, close_returns: bool) -> None:
    pool = setup.pool(min_size=2, max_size=2, close_returns=close_returns, timeout=PATIENCE)
    face = borrowing(setup, pool)
    for _ in range(4):
        with pytest.raises(exc.OperationalError):
            face.value("SELECT pg_terminate_backend(pg_backend_pid())")
    assert face.value() == setup.role(1)
    wait_until(lambda: pool.get_stats()["pool_available"] == 2)


def test_a_broken_transaction_is_repeated(setup: Setup) -> None:
    if setup.twin.name == "async":
        pytest.skip("retry_on_rotation of an async function is tested with pools")
    pool = setup.pool(min_size=2, max_size=2, timeout=PATIENCE)
    engine = create_engine(pool)
    broken: list[int] = []

    @retry_on_rotation(pool)
    def transaction() -> str:
        with engine.begin() as connection:
            if not broken:
                broken.append(1)
                connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            return str(connection.scalar(text("SELECT current_user")))

    assert transaction() == setup.role(1)


def test_a_dropped_role_is_noticed_with_autocommit(setup: Setup) -> None:
    pool = setup.pool(min_size=1, max_size=1, timeout=PATIENCE)
    face = borrowing(setup, pool, isolation_level="AUTOCOMMIT")
    face.value()
    setup.provider._admin.execute(f"DROP ROLE {setup.role(1)}")
    with pytest.raises(exc.ProgrammingError):
        face.value("SELECT current_user")
    assert face.value() == setup.role(2)


def test_a_detached_connection_is_returned(setup: Setup) -> None:
    if setup.twin.name == "async":
        pytest.skip("SQLAlchemy forgets it, and says so")
    pool = setup.pool(min_size=1, max_size=1, timeout=PATIENCE)
    face = borrowing(setup, pool)

    def work(connection: Connection) -> Any:
        connection.detach()
        return connection.scalar(text("SELECT pg_backend_pid()"))

    assert face.run(work) == face.run(work)


@pytest.mark.slow
def test_ten_rotations_under_load_cost_no_transaction(setup: Setup) -> None:
    pool = setup.pool(min_size=4, max_size=4, timeout=PATIENCE)
    setup.provider.end_sessions = True
    face = borrowing(setup, pool)
    with face.load() as load:
        for generation in range(2, 12):
            load.goes_on()
            setup.rotate(generation)
            setup.revoked(generation - 1)
    assert load.failures == []
    assert setup.provider.live == {setup.role(11)}


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "borrowed_orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def test_the_orm_goes_on_through_rotations(setup: Setup) -> None:
    with setup.server.admin() as admin:
        admin.execute("DROP TABLE IF EXISTS borrowed_orders")
        admin.execute("CREATE TABLE borrowed_orders (number int PRIMARY KEY, text text)")
        admin.execute("GRANT ALL ON borrowed_orders TO public")
    pool = setup.pool(min_size=1, max_size=2, timeout=PATIENCE)
    face = borrowing(setup, pool)

    def work(connection: Connection) -> int:
        with Session(connection) as session:
            session.add(Order(number=number, text="x"))
            session.flush()
            return len(session.scalars(sqlalchemy.select(Order)).all())

    for number in range(1, 4):
        assert face.run(work) == number
        setup.rotate(number + 1)
    # The grant is to public, so that the roles own nothing.
    setup.revoked(2)


@pytest.mark.parametrize("option", ["creator", "poolclass", "connect_args"])
def test_options_that_open_connections_are_refused(setup: Setup, option: str) -> None:
    if setup.twin.name == "async":
        pytest.skip("it is the same code")
    pool = setup.make()
    with pytest.raises(ConfigurationError, match=option):
        create_engine(pool, **{option: None})


def test_the_wrong_kind_of_pool_is_refused(setup: Setup) -> None:
    pool: Any = setup.make()
    wrong = create_engine if isinstance(setup.twin, AsyncTwin) else create_async_engine
    with pytest.raises(ConfigurationError, match="given was"):
        wrong(getattr(pool, "raw", pool))


def test_the_url_says_where_the_pool_connects_to(setup: Setup) -> None:
    face = borrowing(setup, setup.make())
    server = setup.server
    assert str(face.raw.url) == f"postgresql+psycopg://{server.host}:{server.port}/postgres"
