"""Single connections of psycopg's through rotations, on a real PostgreSQL."""

from __future__ import annotations

import threading
import traceback
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from minting import PATIENCE
from psycopg_kinds import KINDS, World
from twins import user_of, wait_until

from ephemeral_creds import ConfigurationError, CredentialKeeper, CredentialsExpired, FixedProvider
from ephemeral_creds.contrib.psycopg import shared
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import PostgresServer


@pytest.fixture(params=list(KINDS))
def world(
    request: pytest.FixtureRequest, postgres: PostgresServer, unique: Callable[[str], str]
) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(KINDS[request.param](), postgres, unique("single"), stack)


def test_a_connection_keeps_its_lease_until_it_is_closed(world: World) -> None:
    keeper = world.keeper()
    connection = world.kind.open(keeper, world.conninfo)
    assert connection.generation == 1
    assert not world.kind.is_stale(connection)
    keeper.refresh(PATIENCE)
    assert world.kind.is_stale(connection)
    assert user_of(connection) == world.role(1)
    assert world.provider.live == {world.role(1), world.role(2)}
    connection.close()
    wait_until(lambda: world.provider.live == {world.role(2)}, "revocation")
    connection.close()


def test_a_block_that_fails_closes_its_connection(world: World) -> None:
    keeper = world.keeper()
    with pytest.raises(ZeroDivisionError), world.kind.connect(keeper, world.conninfo) as kept:
        _ = 1 / 0
    assert kept.closed
    assert list(shared._registry.of(keeper).values()) == [0]


def test_connections_with_the_same_parameters_share_one_consumer(world: World) -> None:
    keeper = world.keeper()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(world.kind.connect(keeper, world.conninfo))
        stack.enter_context(world.kind.connect(keeper, world.conninfo, application_name="other"))
        assert list(shared._registry.of(keeper).values()) == [3, 1]
    assert list(shared._registry.of(keeper).values()) == [0, 0]
    keeper.close()
    wait_until(lambda: not shared._registry.of(keeper), "the end of its consumers", PATIENCE)


def test_only_a_few_consumers_without_a_connection_are_kept(world: World) -> None:
    keeper = world.keeper()
    for number in range(6):
        with world.kind.connect(keeper, world.conninfo, application_name=f"app{number}"):
            pass
    assert len(shared._registry.of(keeper)) == 5
    keeper.refresh(PATIENCE)
    wait_until(lambda: world.provider.live == {world.role(2)}, "revocation")


@pytest.mark.slow
@pytest.mark.parametrize("end_sessions", [True, False], ids=["sessions-end", "role-dropped"])
def test_ten_rotations_under_load_cost_no_query(world: World, end_sessions: bool) -> None:
    world.provider.end_sessions = end_sessions
    keeper = world.keeper()
    keeper.wait(PATIENCE)
    failures: list[BaseException] = []
    done = threading.Event()
    succeeded: list[str] = []

    def work() -> None:
        while not done.is_set():
            try:
                with world.kind.connect(keeper, world.conninfo) as connection:
                    succeeded.extend(user_of(connection) for _ in range(5))
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        # What is replaced before anything has joined the keeper works until its deadline.
        wait_until(lambda: failures or len(succeeded) > 20, "queries")
        for number in range(2, 12):
            keeper.refresh(PATIENCE)
            before = len(succeeded)
            wait_until(lambda: failures or len(succeeded) > before + 20, "queries")  # noqa: B023
            live = {world.role(number)}
            wait_until(lambda: failures or world.provider.live == live, "revocation")  # noqa: B023
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert failures == []
    assert set(succeeded) >= {world.role(number) for number in range(2, 12)}


def test_a_connect_that_is_refused_waits_for_other_credentials(world: World) -> None:
    keeper = world.keeper()
    with world.kind.connect(keeper, world.conninfo) as connection:
        assert user_of(connection) == world.role(1)
    with world.server.admin() as admin:
        admin.execute(f"ALTER ROLE {world.role(1)} NOLOGIN")
    with world.kind.connect(keeper, world.conninfo) as connection:
        assert user_of(connection) == world.role(2)


def test_a_missing_role_is_found_when_its_transaction_is_rolled_back(world: World) -> None:
    keeper = world.keeper()

    def use_a_dropped_role() -> None:
        with world.kind.connect(keeper, world.conninfo) as connection:
            with world.server.admin() as admin:
                admin.execute(f"DROP ROLE {world.role(1)}")
            user_of(connection)

    with pytest.raises(psycopg.Error):
        use_a_dropped_role()
    wait_until(lambda: keeper.generation == 2, "other credentials")


def test_a_missing_grant_costs_no_credentials(world: World) -> None:
    keeper = world.keeper()
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        world.kind.connect(keeper, world.conninfo) as connection,
    ):
        connection.execute("SELECT * FROM pg_authid")
    assert keeper.status().fetches == 1


def test_a_source_unreachable_for_longer_than_the_lease_costs_no_open_connection(
    world: World,
) -> None:
    clock = FakeClock()
    keeper = world.keeper(clock)
    with world.kind.connect(keeper, world.conninfo) as connection:
        for call in ("fetch", "renew"):
            world.provider.failures[call] += [ConnectionError() for _ in range(50)]
        clock.advance(2 * world.provider.duration)
        assert user_of(connection) == world.role(1)
        with pytest.raises(CredentialsExpired):
            world.kind.open(keeper, world.conninfo, timeout=0.0)


def test_a_session_acts_as_the_session_role(world: World, unique: Callable[[str], str]) -> None:
    owner = unique("owner")
    with world.server.admin() as admin:
        admin.execute(f"CREATE ROLE {owner}")
    world.provider.grants = [owner]
    with world.kind.connect(world.keeper(), world.conninfo, session_role=owner) as connection:
        assert user_of(connection) == owner
    with world.server.admin() as admin:
        admin.execute(f"DROP OWNED BY {owner}; DROP ROLE {owner}")


def test_a_wrong_password_is_reported_without_leading_to_it(world: World) -> None:
    provider = FixedProvider(world.server.superuser, "not-this-password")
    keeper = CredentialKeeper(provider, observers=[world.events])
    world.stack.callback(keeper.close)
    keeper.start()
    keeper.wait(PATIENCE)
    with pytest.raises(psycopg.OperationalError) as caught:
        world.kind.open(keeper, world.conninfo, timeout=0.2)
    assert caught.value.pgconn is None
    frames = traceback.walk_tb(caught.value.__traceback__)
    # The first is the test's own.
    leaks = [
        f"{frame.f_code.co_qualname}: {name}"
        for frame, _ in list(frames)[1:]
        for name, value in frame.f_locals.items()
        if "not-this-password" in repr(value)
    ]
    assert leaks == []
    assert caught.value.__context__ is None


def test_a_user_or_a_password_of_the_users_is_refused(world: World) -> None:
    keeper = world.keeper()
    with pytest.raises(ConfigurationError, match="user"):
        world.kind.open(keeper, f"{world.conninfo} user=app")
    with pytest.raises(ConfigurationError, match="password"):
        world.kind.open(keeper, world.conninfo, password="x")


def test_a_forgotten_connection_does_not_keep_its_lease(
    postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    with ExitStack() as stack:
        world = World(KINDS["sync"](), postgres, unique("single"), stack)
        keeper = world.keeper()
        kept: list[Any] = [world.kind.open(keeper, world.conninfo)]
        assert list(shared._registry.of(keeper).values()) == [1]
        with pytest.warns(ResourceWarning):
            kept.clear()
        assert list(shared._registry.of(keeper).values()) == [0]
