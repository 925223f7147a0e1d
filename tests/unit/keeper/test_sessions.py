"""The consumer for drivers that are not ours."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import threading
import weakref
from typing import TYPE_CHECKING

import pytest
from keepers import PATIENCE, Recorder, World

from ephemeral_creds import (
    AsyncCredentialKeeper,
    CredentialKeeper,
    Credentials,
    Grant,
    KeeperClosed,
    Lease,
    LoginFailure,
    NotReady,
    ProviderUnavailable,
    RefreshPolicy,
    Secret,
    Sessions,
)
from ephemeral_creds.events import (
    CandidateDiscarded,
    CredentialsPublished,
    FetchFailed,
    KeeperFailed,
    LeaseRevoked,
    LoginRejected,
    PasswordChanged,
)
from ephemeral_creds.testing import FakeClock, ScriptedProvider
from ephemeral_creds.testing._process import wait_until

if TYPE_CHECKING:
    from ephemeral_creds import Session


class Driver:
    """Logs in wherever it is told to."""

    def __init__(self, keeper: CredentialKeeper) -> None:
        self.proofs: list[int] = []
        self.changes = 0
        self.refuses: LoginFailure | None = None
        self.sessions = Sessions(keeper, self.prove, on_change=self.change)

    def prove(self, session: Session) -> None:
        self.proofs.append(session.generation)
        if session.wants_end:
            session.end_learned(None)
        if self.refuses is not None:
            session.rejected(self.refuses, "28P01")
        else:
            session.accepted()
            session.closed()

    def change(self) -> None:
        self.changes += 1

    def open(self) -> Session:
        session = self.sessions.begin()
        session.accepted()
        return session


@pytest.fixture
def driver(world: World) -> Driver:
    return Driver(world.started())


def test_a_session_is_of_the_generation_in_use(driver: Driver) -> None:
    session = driver.open()
    assert session.generation == driver.sessions.serving == 1
    assert session.credentials.username == "user-1"
    assert not session.is_stale
    assert not session.is_overdue
    assert driver.sessions.open == {1: 1}
    assert repr(session) == "<Session of generation 1>"


def test_new_credentials_are_proven_before_they_are_used(world: World, driver: Driver) -> None:
    session = driver.open()
    driver.sessions.keeper.refresh()
    assert driver.proofs == [2]
    assert session.is_stale
    assert driver.sessions.stale == 1
    world.recorder.wait_for(CredentialsPublished, 2)
    assert driver.changes >= 1
    assert driver.sessions.begin().generation == 2


def test_a_lease_is_revoked_when_its_last_session_is_closed(world: World, driver: Driver) -> None:
    first, second = driver.open(), driver.open()
    driver.sessions.keeper.refresh()
    first.closed()
    first.closed()
    assert world.provider.live == {"user-1", "user-2"}
    second.closed()
    world.recorder.wait_for(LeaseRevoked)
    assert world.provider.live == {"user-2"}


def test_a_login_under_way_holds_its_lease(world: World, driver: Driver) -> None:
    session = driver.sessions.begin()
    driver.sessions.keeper.refresh()
    assert driver.sessions.open[1] == 1
    session.rejected(LoginFailure.UNREACHABLE)
    world.recorder.wait_for(LeaseRevoked)
    assert 1 not in driver.sessions.open


def test_refused_credentials_are_replaced(world: World, driver: Driver) -> None:
    driver.open()
    driver.sessions.begin().rejected(LoginFailure.CREDENTIALS, "28P01")
    world.recorder.wait_for(CredentialsPublished, 2)
    assert driver.sessions.serving == 2
    [event] = [e for e in world.recorder.events if isinstance(e, LoginRejected)]
    assert (event.reason, event.sqlstate, event.current) == ("credentials", "28P01", True)


def test_refused_candidates_stay_candidates(world: World, driver: Driver) -> None:
    driver.open()
    driver.refuses = LoginFailure.CREDENTIALS
    with pytest.raises(NotReady, match="did not finish"):
        driver.sessions.keeper.refresh(0.0)
    world.recorder.wait_for(LoginRejected)
    assert driver.sessions.serving == 1
    assert world.recorder.count(CandidateDiscarded) == 0


def test_a_proof_that_raises_counts_as_no_answer(
    world: World, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.open()
    failed = threading.Event()

    def prove(session: Session) -> None:
        failed.set()
        raise ValueError("proof-secret-text")

    driver.sessions._prove = prove
    with pytest.raises(NotReady, match="did not finish"):
        driver.sessions.keeper.refresh(0.0)
    assert failed.wait(PATIENCE)
    driver.sessions._prove = driver.prove
    keeper, retry_by = world.keepers[0], world.clock.now() + 2.0
    with keeper._thread.changed:
        is_planned = keeper._thread.changed.wait_for(
            lambda: keeper._machine.deadline <= retry_by, PATIENCE
        )
    assert is_planned
    world.clock.advance(2.0)
    world.recorder.wait_for(CredentialsPublished, 2)
    assert "ValueError at test_sessions.py" in caplog.text
    assert "proof-secret-text" not in caplog.text


def test_sessions_are_tested_after_a_refused_login(world: World, driver: Driver) -> None:
    session = driver.open()
    assert not session.needs_test
    driver.sessions.begin().rejected(LoginFailure.CREDENTIALS)
    assert session.needs_test
    session.tested(alive=True)
    assert not session.needs_test


def test_a_dead_role_is_replaced(world: World, driver: Driver) -> None:
    session = driver.open()
    driver.sessions.verify()
    assert session.needs_test
    session.tested(alive=False)
    session.closed()
    world.recorder.wait_for(CredentialsPublished, 2)


def test_sessions_past_their_deadline_are_tested_at_once(world: World, driver: Driver) -> None:
    session = driver.open()
    world.clock.suspend(3600.0)
    assert session.needs_test
    session.tested(alive=True)
    # The server may drop the role at any time.
    assert session.needs_test


def test_an_old_session_is_overdue_shortly_before_its_deadline(
    world: World, driver: Driver
) -> None:
    session = driver.open()
    driver.sessions.keeper.refresh()
    overdue = threading.Event()

    def change() -> None:
        # The refresh may still be reported.
        if session.is_overdue:
            overdue.set()

    driver.sessions._on_change = change
    assert not session.is_overdue
    world.clock.advance(3596.0)
    assert overdue.wait(PATIENCE)


def test_one_login_asks_for_the_end_of_credentials_without_a_lease(world: World) -> None:
    world.provider.duration = math.inf
    driver = Driver(world.started())
    first, second = driver.sessions.begin(), driver.sessions.begin()
    assert first.wants_end
    assert not second.wants_end
    first.end_learned(120.0)
    driver.sessions.keeper.refresh()
    assert driver.sessions.keeper.generation == 2


def test_begin_waits_for_the_first_credentials(world: World) -> None:
    world.provider.gate.clear()
    keeper = world.keeper()
    keeper.start()
    driver = Driver(keeper)
    waiting = world.in_thread(driver.sessions.begin)
    world.provider.gate.set()
    session = waiting.get()
    assert getattr(session, "generation", session) == 1


def test_begin_raises_the_error_of_wait(world: World) -> None:
    keeper = world.keeper()
    driver = Driver(keeper)
    with pytest.raises(NotReady, match="not been started"):
        driver.sessions.begin(0.0)


def test_no_session_begins_after_the_close(world: World, driver: Driver) -> None:
    session = driver.open()
    with driver.sessions:
        pass
    driver.sessions.close()
    with pytest.raises(KeeperClosed, match="the sessions of the keeper 'keeper-"):
        driver.sessions.begin()
    session.closed()
    driver.sessions.keeper.refresh()
    # Nothing was proven: there is no consumer any more.
    assert driver.proofs == []
    world.recorder.wait_for(LeaseRevoked)


def test_a_failing_callback_stops_nothing(world: World, driver: Driver) -> None:
    def fail() -> None:
        raise ValueError("callback-secret-text")

    driver.sessions._on_change = fail
    driver.sessions.keeper.refresh()
    assert driver.sessions.serving == 2
    world.recorder.wait_for(KeeperFailed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_has_no_sessions(world: World, driver: Driver) -> None:
    session = driver.open()
    child = os.fork()
    if not child:
        try:
            assert session.is_stale
            session.closed()
            driver.sessions.begin(0.0)
        except KeeperClosed:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert driver.sessions.open == {1: 1}
    assert not session.is_stale


# -- what keepers tell those that are no consumers ---------------------------------------------


def test_generation_never_raises(world: World) -> None:
    keeper = world.keeper()
    assert keeper.generation == 0
    keeper.start()
    keeper.wait(math.inf)
    assert keeper.generation == 1
    world.clock.advance(1e6)
    assert keeper.generation >= 1
    keeper.close()
    assert keeper.generation >= 0


def test_listeners_are_called_until_they_are_removed(world: World) -> None:
    keeper = world.started()
    seen: list[int] = []
    ignore = keeper.on_change(lambda: seen.append(keeper.generation))
    keeper.refresh()
    # The event follows the call.
    world.recorder.wait_for(CredentialsPublished, 2)
    assert seen[-1] == 2
    ignore()
    ignore()
    count = len(seen)
    world.clock.advance(60.0)
    keeper.refresh()
    world.recorder.wait_for(CredentialsPublished, 3)
    assert len(seen) == count


def test_listeners_hear_of_the_close(world: World) -> None:
    keeper = world.started()
    closed = threading.Event()
    keeper.on_change(closed.set)
    keeper.close()
    assert closed.is_set()


def async_keeper(world: World) -> AsyncCredentialKeeper:
    return AsyncCredentialKeeper(
        world.provider, clock=world.clock, refresh=RefreshPolicy(jitter=0.0), observers=[]
    )


def test_changed_is_awaited(world: World) -> None:
    async def main() -> None:
        async with async_keeper(world) as keeper:
            grant = await keeper.wait(PATIENCE)
            assert (await keeper.changed(0)).generation == keeper.generation == 1
            waiting = asyncio.ensure_future(keeper.changed(grant.generation))
            await keeper.refresh()
            assert (await waiting).generation == 2

    asyncio.run(main())


def test_changed_ends_with_the_keeper(world: World) -> None:
    async def main() -> None:
        async with async_keeper(world) as keeper:
            await keeper.wait(PATIENCE)
            waiting = asyncio.ensure_future(keeper.changed(1))
            await asyncio.sleep(0)
            await keeper.close()
            with pytest.raises(KeeperClosed):
                await waiting

    asyncio.run(main())


def test_begin_async_waits_in_the_loop() -> None:
    clock = FakeClock()
    provider = ScriptedProvider(clock)
    provider.failures["fetch"].append(ProviderUnavailable("away"))
    recorder = Recorder()

    async def main() -> None:
        observers = [recorder]
        async with AsyncCredentialKeeper(provider, clock=clock, observers=observers) as keeper:
            sessions = Sessions(keeper, lambda session: session.accepted())
            waiting = asyncio.ensure_future(sessions.begin_async(math.inf))
            await asyncio.to_thread(recorder.wait_for, FetchFailed)
            clock.advance(2.0)
            session = await waiting
            assert session.generation == 1
            assert (await sessions.begin_async()).generation == 1

    asyncio.run(main())


class _TwoPasswords(ScriptedProvider):
    """A static role, of which it knows an earlier password as well."""

    mints = False

    def fetch(self) -> Grant:
        return self._grant("two-passwords-new")

    def fetch_instead(self, refused: Grant) -> Grant:
        assert refused.credentials.password == Secret("two-passwords-new")
        return self._grant("two-passwords-old")

    def _grant(self, password: str) -> Grant:
        self.calls.append(password)
        lease = Lease(self._clock.now(), rotates_in=math.inf)
        return Grant(Credentials("app", Secret(password)), lease)


def test_a_provider_learns_which_credentials_are_refused(world: World) -> None:
    world.provider = _TwoPasswords(world.clock)
    keeper = world.started()
    driver, thread = Driver(keeper), keeper._thread
    driver.sessions.begin().rejected(LoginFailure.CREDENTIALS, "28P01")
    world.recorder.wait_for(LoginRejected)
    with thread.changed:
        # The fetch that it asks for has been answered.
        assert thread.changed.wait_for(lambda: thread.machine.settled, PATIENCE)
    driver.sessions.begin().rejected(LoginFailure.CREDENTIALS, "28P01")
    world.recorder.wait_for(LoginRejected, 2)
    world.clock.advance(1.0)
    world.recorder.wait_for(PasswordChanged)
    assert keeper.current().credentials.password == Secret("two-passwords-old")
    assert world.provider.calls == ["two-passwords-new", "two-passwords-new", "two-passwords-old"]


def test_forgotten_sessions_are_not_kept_by_the_fork_registry(world: World) -> None:
    driver = Driver(world.started())
    reference = weakref.ref(driver.sessions)
    driver.sessions.close()
    del driver
    # The keeper's thread may still be telling them of the first credentials.
    assert wait_until(lambda: gc.collect() >= 0 and reference() is None, PATIENCE)


@pytest.mark.parametrize(
    ("sqlstate", "routine", "reason"),
    [
        (None, None, LoginFailure.UNREACHABLE),
        ("28P01", None, LoginFailure.CREDENTIALS),
        ("28000", None, LoginFailure.CREDENTIALS),
        ("28000", "InitializeSessionUserId", LoginFailure.CREDENTIALS),
        ("28000", "ClientAuthentication", LoginFailure.PG_HBA),
        ("53300", None, LoginFailure.SERVER),
    ],
)
def test_a_code_tells_why_a_login_failed(
    sqlstate: str | None, routine: str | None, reason: LoginFailure
) -> None:
    assert LoginFailure.from_sqlstate(sqlstate, routine) is reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("no such user: app", LoginFailure.CREDENTIALS),
        ("unsupported startup parameter: options", LoginFailure.SERVER),
    ],
)
def test_a_pooler_has_one_code_for_all_that_it_says(message: str, reason: LoginFailure) -> None:
    assert LoginFailure.from_sqlstate("08P01", None, message) is reason
