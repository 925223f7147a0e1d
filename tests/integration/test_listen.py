"""LISTEN through rotations and outages, on a real PostgreSQL."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from minting import BRIEF, PATIENCE
from psycopg_kinds import KINDS, World
from twins import Worker, wait_until

from ephemeral_creds import ConfigurationError, KeeperClosed
from ephemeral_creds.contrib import psycopg as doors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import PostgresServer


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(kind: str, postgres: PostgresServer, unique: Callable[[str], str]) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(KINDS[kind](), postgres, unique("listen"), stack)


class Sender:
    """Sends 1, 2, 3 … on a channel without a pause, until the block ends."""

    def __init__(self, server: PostgresServer, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._done = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Sender:  # noqa: PYI034
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(PATIENCE)

    def _send(self) -> None:
        with self._server.admin() as admin:
            while not self._done.wait(0.001):
                admin.execute("SELECT pg_notify(%s, %s)", [self._channel, str(self.sent + 1)])
                self.sent += 1


def notify(server: PostgresServer, channel: str, payload: str = "") -> None:
    with server.admin() as admin:
        admin.execute("SELECT pg_notify(%s, %s)", [channel, payload])


@pytest.mark.slow
@pytest.mark.parametrize("end_sessions", [True, False], ids=["sessions-end", "role-dropped"])
def test_ten_rotations_lose_and_repeat_no_notification(world: World, end_sessions: bool) -> None:
    world.provider.end_sessions = end_sessions
    keeper = world.keeper()
    channel = f'{world.prefix}-"jobs"'
    caught_up: list[int] = []
    received: list[int] = []
    with world.kind.listen(
        keeper, world.conninfo, channel, catch_up=lambda: caught_up.append(len(received))
    ) as listener:

        def consume() -> None:
            for note in listener:
                assert note.channel == channel
                received.append(int(note.payload))

        consumer = Worker(consume)
        with Sender(world.server, channel) as sender:
            for number in range(2, 12):
                keeper.refresh(PATIENCE)
                live = {world.role(number)}
                wait_until(lambda: world.provider.live == live, "revocation")  # noqa: B023
                before = len(received)
                wait_until(lambda: len(received) > before + 5, "notifications")  # noqa: B023
        wait_until(lambda: len(received) >= sender.sent, "the last one")
        listener.stop()
        consumer.get()
        assert listener.generation == 11
    assert received == list(range(1, sender.sent + 1))
    assert caught_up == [0]


def test_a_connection_that_breaks_is_replaced_and_what_was_missed_is_announced(
    world: World,
) -> None:
    keeper = world.keeper()
    caught_up: list[str] = []
    with world.kind.listen(
        keeper, world.conninfo, world.prefix, catch_up=lambda: caught_up.append("again")
    ) as listener:
        assert caught_up == ["again"]
        notify(world.server, world.prefix, "before")
        assert listener.get(PATIENCE).payload == "before"
        world.end_sessions(1)
        assert listener.get(BRIEF) is None
        wait_until(lambda: listener.get(0.0) is None and len(caught_up) == 2, "another connection")
        notify(world.server, world.prefix, "after")
        assert listener.get(PATIENCE).payload == "after"


@pytest.mark.slow
def test_a_server_that_is_restarted_is_found_again(
    kind: str, own_postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    with ExitStack() as stack:
        world = World(KINDS[kind](), own_postgres, unique("listen"), stack)
        keeper = world.keeper()
        caught_up: list[str] = []
        with world.kind.listen(
            keeper, world.conninfo, "jobs", catch_up=lambda: caught_up.append("again")
        ) as listener:
            own_postgres.stop()
            assert listener.get(BRIEF) is None
            own_postgres.start()
            world.provider._admin.close()
            world.provider._admin = own_postgres.admin()
            wait_until(lambda: listener.get(BRIEF) is None and len(caught_up) == 2, "LISTEN")
            notify(own_postgres, "jobs", "after")
            assert listener.get(PATIENCE).payload == "after"


def test_a_notification_that_does_not_come_is_waited_for_in_vain(world: World) -> None:
    with world.kind.listen(world.keeper(), world.conninfo, ["a", "b"]) as listener:
        assert listener.get(0.0) is None
        assert listener.get(0.01) is None


def test_an_iteration_is_stopped_from_another_thread(world: World) -> None:
    with world.kind.listen(world.keeper(), world.conninfo, world.prefix) as listener:
        consumer = Worker(lambda: list(listener))
        notify(world.server, world.prefix)
        listener.stop()
        consumer.get()
        assert listener.get(PATIENCE) is None


def test_a_closed_keeper_ends_the_wait(world: World) -> None:
    keeper = world.keeper()
    with world.kind.listen(keeper, world.conninfo, world.prefix) as listener:
        consumer = Worker(listener.get)
        keeper.close()
        assert isinstance(consumer.join().error, KeeperClosed)


def test_a_first_connect_that_fails_is_raised(world: World) -> None:
    conninfo = f"{world.conninfo} dbname=none_such"
    with (
        pytest.raises(psycopg.OperationalError, match="none_such"),
        world.kind.listen(world.keeper(), conninfo, "jobs"),
    ):
        pass


def test_a_user_of_the_users_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match="user"):
        doors.listen(world.keeper(), f"{world.conninfo} user=app", "jobs")


def test_a_connection_that_breaks_while_it_is_replaced_is_announced(
    world: World,
) -> None:
    keeper = world.keeper()
    caught_up: list[str] = []
    with world.kind.listen(
        keeper, world.conninfo, world.prefix, catch_up=lambda: caught_up.append("again")
    ) as listener:
        raw: Any = getattr(listener, "raw", listener)
        # The mark is sent on a channel that the old connection does not LISTEN on.
        raw._mark_channel = "unheard"
        raw._channels = (*raw._channels, "unheard")
        keeper.refresh(PATIENCE)
        wait_until(lambda: listener.get(0.01) is None and raw._old is not None, "an overlap")
        world.end_sessions(1)
        wait_until(lambda: listener.get(0.01) is None and len(caught_up) == 2, "its end")
        notify(world.server, world.prefix, "after")
        assert listener.get(PATIENCE).payload == "after"
