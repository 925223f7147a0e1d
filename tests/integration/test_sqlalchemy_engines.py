"""Engines of SQLAlchemy on its own pools, with a keeper's credentials."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
pytest.importorskip("asyncpg", reason="asyncpg is not installed")

from engines import KINDS, World
from sqlalchemy import exc, text
from sqlalchemy.pool import NullPool
from twins import wait_until

from ephemeral_creds import ProviderUnavailable
from ephemeral_creds.events import CredentialsPublished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from ephemeral_creds.testing import PostgresServer


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=KINDS)
def world(
    request: pytest.FixtureRequest,
    postgres: PostgresServer,
    unique: Callable[[str], str],
    stack: ExitStack,
) -> World:
    return World(request.param, postgres, unique("sql"), stack)


# -- rotations -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end_sessions", [False, True], ids=["drop", "end"])
@pytest.mark.parametrize(
    "options",
    [{}, {"poolclass": NullPool}, {"pool_use_lifo": True}],
    ids=["fifo", "null", "lifo"],
)
def test_ten_rotations_under_load_cost_no_transaction(
    kind: str,
    end_sessions: bool,
    options: dict[str, Any],
    postgres: PostgresServer,
    unique: Callable[[str], str],
    stack: ExitStack,
) -> None:
    world = World(kind, postgres, unique("sql"), stack)
    world.provider.end_sessions = end_sessions
    face = world.engine(**options)
    with face.load() as load:
        for generation in range(2, 12):
            load.goes_on()
            world.rotate(generation)
            world.revoked(generation - 1)
    assert load.failures == []
    assert load.succeeded > 40
    assert world.provider.live == {world.role(11)}
    assert set(world.provider.sessions()) <= {world.role(11)}


def test_idle_connections_are_replaced_without_traffic(world: World) -> None:
    face = world.engine()
    assert len(face.hold(3)) == 3
    world.provider.wait_for_sessions({1: 3})
    world.rotate(2)
    world.revoked(1)
    world.provider.wait_for_sessions({2: 3})
    # They are where they were: nothing is opened for what comes.
    pids = face.hold(3)
    assert len(pids) == 3
    world.provider.wait_for_sessions({2: 3})
    assert face.sync.pool.checkedin() == 3  # type: ignore[attr-defined]


def test_a_borrowed_connection_is_replaced_after_its_return(world: World) -> None:
    face = world.engine()

    def work(connection: Connection) -> tuple[Any, Any]:
        before = connection.scalar(text("SELECT current_user::text"))
        world.rotate(2)
        return before, connection.scalar(text("SELECT current_user::text"))

    if face._loop is None:
        assert face.run(work) == (world.role(1), world.role(1))
    else:
        face.value()
        world.rotate(2)
    world.revoked(1)
    assert face.value() == world.role(2)


def test_nothing_is_minted_before_the_first_connection(world: World) -> None:
    face = world.engine(world.keeper())
    assert face.sync.pool.status()
    face.value()
    assert world.provider.calls == ["fetch"]


# -- roles that are gone -------------------------------------------------------------------------


def test_a_dropped_role_costs_the_operation_that_notices(world: World) -> None:
    face = world.engine()
    face.hold(2)
    world.drop(1, end_sessions=False)
    with pytest.raises(exc.DBAPIError) as caught:
        face.value()
    assert getattr(caught.value.orig, "sqlstate", None) == "42704"
    assert face.value() == world.role(2)
    world.provider.wait_for_sessions({2: 2})


def test_pre_ping_notices_a_dropped_role(world: World) -> None:
    face = world.engine(pool_pre_ping=True)
    face.hold(2)
    world.drop(1, end_sessions=False)
    assert face.value() == world.role(2)


def test_pre_ping_notices_sessions_that_were_ended_with_their_role(world: World) -> None:
    face = world.engine(pool_pre_ping=True)
    face.hold(2)
    world.drop(1, end_sessions=True)
    assert face.value() == world.role(2)


def test_sessions_that_were_ended_while_idle_cost_nothing(world: World) -> None:
    face = world.engine()
    face.hold(3)
    world.drop(1, end_sessions=True)
    face.catch_up()
    with face.load(3) as load:
        load.goes_on()
    assert load.failures == []
    assert face.value() == world.role(2)


def test_a_login_waits_for_others_where_its_role_is_gone(world: World) -> None:
    face = world.engine(poolclass=NullPool)
    face.value()
    world.drop(1, end_sessions=True)
    assert face.value() == world.role(2)


# -- sources that are unreachable ----------------------------------------------------------------


def test_a_source_that_is_away_for_longer_than_the_lease_costs_nothing(world: World) -> None:
    clock = world.with_fake_clock()
    face = world.engine()
    face.hold(2)
    world.provider.failures["fetch"] += [ProviderUnavailable("away")] * 100
    world.provider.failures["renew"] += [ProviderUnavailable("away")] * 100
    with face.load(2) as load:
        for _ in range(10):
            clock.advance(1000.0)
            load.goes_on()
    assert load.failures == []
    world.provider.failures["fetch"].clear()

    def is_back() -> bool:
        # An attempt that was under way may fail after this, and plan the next from then on.
        clock.advance(1.0)
        return len(world.events.of(CredentialsPublished)) == 2

    wait_until(is_back)
    wait_until(lambda: world.role(1) not in world.provider.sessions())
    assert face.value() == world.role(2)


def test_no_credentials_are_an_operational_error(world: World) -> None:
    world.provider.failures["fetch"] += [ProviderUnavailable("away")] * 1000
    face = world.engine(pool_timeout=0.1)
    with pytest.raises(exc.OperationalError, match="away") as caught:
        face.value()
    assert type(caught.value.orig.__cause__).__name__ == "NotReady"  # type: ignore[union-attr]
    world.provider.failures["fetch"].clear()
    world.events.wait_for(CredentialsPublished)
    assert face.value() == world.role(1)


# -- ends ----------------------------------------------------------------------------------------


def test_an_engine_goes_on_after_dispose(world: World) -> None:
    face = world.engine()
    face.value()
    face.dispose()
    world.provider.wait_for_sessions({})
    assert face.value() == world.role(1)
    world.rotate(2)
    world.revoked(1)
    assert face.value() == world.role(2)


def test_a_detached_connection_holds_its_lease(world: World) -> None:
    if not world.kind.startswith("sync"):
        pytest.skip("a detached connection of an async engine is closed in its loop")
    face = world.engine()
    with face.raw.connect() as connection:
        connection.detach()
        world.rotate(2)
        assert connection.scalar(text("SELECT current_user::text")) == world.role(1)
        assert world.provider.live == {world.role(1), world.role(2)}
    world.revoked(1)
