"""The keeper's thread, on a clock that stands still."""

from __future__ import annotations

import gc
import math
import os
import pickle
import signal
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from keepers import PATIENCE, BrokenClock, World

from ephemeral_creds import (
    AccessDenied,
    AsyncCredentialKeeper,
    ConfigurationError,
    CredentialKeeper,
    CredentialsExpired,
    KeeperClosed,
    NotReady,
    ProviderUnavailable,
    RefreshPolicy,
)
from ephemeral_creds.events import (
    CredentialsEnding,
    CredentialsPublished,
    Event,
    FetchFailed,
    KeeperFailed,
    LeaseRenewed,
    LeaseRevoked,
)
from ephemeral_creds.keeper.registry import close_all
from ephemeral_creds.lifecycle.signals import (
    Close,
    ConsumerReleased,
    EndLearned,
    LoginAccepted,
    RefreshRequested,
    SourceChanged,
)
from ephemeral_creds.testing import FakeClock, ScriptedProvider
from ephemeral_creds.testing._process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds import Grant
    from ephemeral_creds._values import Lease


def test_fetches_and_publishes(world: World) -> None:
    keeper = world.started()
    assert keeper.current().credentials.username == "user-1"
    assert keeper.current().generation == 1
    assert keeper.current() is keeper.current()


def test_renews_when_time_comes(world: World) -> None:
    keeper = world.started()
    world.clock.advance(2400.0)
    world.recorder.wait_for(LeaseRenewed)
    assert world.provider.calls == ["fetch", "renew 1"]
    assert keeper.status().expires_in == 3600.0


def test_current_never_blocks(world: World) -> None:
    keeper = world.started()
    world.provider.gate.clear()
    world.clock.advance(2400.0)
    assert keeper.current().generation == 1


def test_r3_nothing_past_its_deadline_is_handed_out(world: World) -> None:
    keeper = world.started()
    world.provider.gate.clear()
    world.clock.advance(3600.0)
    with pytest.raises(CredentialsExpired, match="generation 1"):
        keeper.current()
    assert not keeper.status().ready


def test_r13_comes_back_by_itself_when_vault_does(world: World) -> None:
    world.provider.failures["fetch"] = [ProviderUnavailable("sealed")] * 3
    keeper = world.keeper(refresh=RefreshPolicy(mint_interval=0.0, jitter=0.0))
    keeper.start()
    for failures in range(1, 4):
        world.recorder.wait_for(FetchFailed, failures)
        world.clock.advance(60.0)
    world.recorder.wait_for(CredentialsPublished)
    assert keeper.current().generation == 1


class TestWaiting:
    def test_says_why_there_is_nothing(self, world: World) -> None:
        world.provider.failures["fetch"] = [ProviderUnavailable("vault is sealed")] * 100
        keeper = world.keeper()
        keeper.start()
        world.recorder.wait_for(FetchFailed)
        waiting = world.in_thread(lambda: keeper.wait(30.0))
        # Its deadline counts from when it began: the keeper's thread waits as well.
        while len(world.clock._waiting) < 2:
            pass
        world.clock.advance(30.0)
        error = waiting.get()
        assert isinstance(error, NotReady)
        assert "vault is sealed" in str(error)
        assert isinstance(error.__cause__, ProviderUnavailable)

    @pytest.mark.parametrize("error", [ConfigurationError("no such role"), AccessDenied("403")])
    def test_fails_at_once_where_only_a_person_can_help(
        self, world: World, error: Exception
    ) -> None:
        world.provider.failures["fetch"] = [error]
        keeper = world.keeper()
        keeper.start()
        with pytest.raises(type(error), match=str(error)):
            keeper.wait(math.inf)

    def test_a_keeper_that_was_not_started_says_so(self, world: World) -> None:
        keeper = world.keeper()
        with pytest.raises(NotReady, match="not been started"):
            keeper.current()

    def test_a_keeper_that_was_not_started_does_not_wait_for_a_refresh(self, world: World) -> None:
        keeper = world.keeper()
        with pytest.raises(NotReady, match="not been started"):
            keeper.refresh(math.inf)

    def test_close_ends_it(self, world: World) -> None:
        world.provider.gate.clear()
        keeper = world.keeper()
        keeper.start()
        waiting = world.in_thread(lambda: keeper.wait(math.inf))
        closing = world.in_thread(keeper.close)
        assert isinstance(waiting.get(), KeeperClosed)
        world.provider.gate.set()
        closing.get()


class TestRefresh:
    def test_returns_the_credentials_in_use_afterwards(self, world: World) -> None:
        keeper = world.started()
        grant = keeper.refresh(math.inf)
        assert grant.generation == 2

    def test_r5_two_at_once_are_one(self, world: World) -> None:
        keeper = world.started()
        world.provider.gate.clear()
        posted = keeper._thread._posted
        refreshing = [world.in_thread(lambda: keeper.refresh(math.inf)) for _ in range(3)]
        while keeper._thread._posted < posted + 3:
            pass
        world.provider.gate.set()
        assert {getattr(one.get(), "generation", None) for one in refreshing} == {2}
        assert world.provider.calls.count("fetch") == 2

    def test_raises_the_providers_error_and_keeps_the_credentials(self, world: World) -> None:
        keeper = world.started()
        world.provider.failures["fetch"] = [ProviderUnavailable("away")]
        with pytest.raises(ProviderUnavailable, match="away"):
            keeper.refresh(math.inf)
        assert keeper.current().generation == 1

    def test_says_that_it_waits_for_a_login(self, world: World) -> None:
        keeper = world.started()
        member = SilentMember(keeper)
        refreshing = world.in_thread(lambda: keeper.refresh(5.0))
        assert member.asked.wait(PATIENCE)
        world.clock.advance(5.0)
        error = refreshing.get()
        assert isinstance(error, NotReady)
        assert "no pool has logged in to PostgreSQL with the new credentials" in str(error)
        assert keeper.current().generation == 1
        keeper.signal(LoginAccepted(member.number, 2))
        world.recorder.wait_for(CredentialsPublished, 2)

    def test_gives_up_waiting_but_not_the_refresh(self, world: World) -> None:
        keeper = world.started()
        world.provider.gate.clear()
        refreshing = world.in_thread(lambda: keeper.refresh(5.0))
        while len(world.provider.calls) < 2:
            pass
        world.clock.advance(5.0)
        error = refreshing.get()
        assert isinstance(error, NotReady)
        assert "new credentials" not in str(error)
        world.provider.gate.set()
        world.recorder.wait_for(CredentialsPublished, 2)


class MeetingProvider(ScriptedProvider):
    """Revokes only while all the others do."""

    def __init__(self, clock: FakeClock, meeting: threading.Barrier) -> None:
        super().__init__(clock)
        self._meeting = meeting

    def revoke(self, grant: Grant) -> None:
        self._meeting.wait(PATIENCE)
        super().revoke(grant)


def refuse() -> None:
    raise RuntimeError("no")


class OwnError(ConfigurationError):
    """A provider's own error, whose constructor takes what others do not."""

    def __init__(self, role: str, *, mount: str) -> None:
        super().__init__(f"no role {role} at {mount}")
        self.role = role


class Local:
    """Something that a caller holds while it asks."""


class TestErrorsThatAreRaised:
    """The keeper keeps the last error; it must keep nothing else by that."""

    def asking(self, ask: Callable[[], object]) -> weakref.ref[Local]:
        local = Local()
        try:
            raise ValueError("the caller's own trouble")
        except ValueError:
            with pytest.raises((ConfigurationError, NotReady)):
                ask()
        return weakref.ref(local)

    @pytest.mark.parametrize("how", ["wait", "refresh"])
    def test_do_not_keep_the_callers_variables(self, world: World, how: str) -> None:
        world.provider.failures["fetch"] = [ConfigurationError("no such role")] * 2
        keeper = world.keeper()
        keeper.start()
        world.recorder.wait_for(FetchFailed)
        caller = self.asking(lambda: getattr(keeper, how)(math.inf))
        gc.collect()
        assert caller() is None

    def test_the_chained_cause_is_a_copy_without_the_callers_variables(self, world: World) -> None:
        world.provider.failures["fetch"] = [ProviderUnavailable("away")]
        keeper = world.keeper()
        keeper.start()
        world.recorder.wait_for(FetchFailed)
        with pytest.raises(NotReady) as caught:
            keeper.wait(0.0)
        assert str(caught.value.__cause__) == "away"
        assert caught.value.__cause__ is not keeper._machine.last_error

    def test_are_the_providers_own_with_any_constructor(self, world: World) -> None:
        world.provider.failures["fetch"] = [OwnError("app", mount="db")]
        keeper = world.keeper()
        keeper.start()
        with pytest.raises(OwnError, match="no role app at db") as caught:
            keeper.wait(math.inf)
        assert caught.value.role == "app"


class TestStarting:
    @pytest.fixture
    def unable(self, world: World, monkeypatch: pytest.MonkeyPatch) -> CredentialKeeper:
        """A keeper that was to start while the process was at its limit of threads."""
        keeper = world.keeper()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", self.refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                keeper.start()
        return keeper

    @staticmethod
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def test_without_a_thread_to_be_had_can_be_repeated(
        self, world: World, unable: CredentialKeeper
    ) -> None:
        with pytest.raises(NotReady, match="not been started"):
            unable.current()
        unable.start()
        assert unable.wait(math.inf).generation == 1

    def test_without_a_thread_to_be_had_can_be_closed(
        self, world: World, unable: CredentialKeeper
    ) -> None:
        unable.close()
        assert world.provider.closed


class TestClosing:
    def test_revokes_and_closes_the_provider(self, world: World) -> None:
        keeper = world.started()
        keeper.close(PATIENCE)
        assert world.provider.live == set()
        assert world.provider.closed
        with pytest.raises(KeeperClosed):
            keeper.current()
        keeper.close()

    def test_is_bounded_while_the_provider_hangs(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper = world.started()
        world.provider.gate.clear()
        world.provider.change()
        keeper.close(0.05)
        assert "does not answer" in caplog.text

    def test_credentials_from_a_fetch_that_hung_are_revoked(self, world: World) -> None:
        keeper = world.started()
        world.provider.gate.clear()
        world.provider.change()
        keeper.close(0.05)
        world.provider.gate.set()
        keeper.close(PATIENCE)
        assert world.provider.live == set()

    def test_before_the_start_closes_the_provider(self, world: World) -> None:
        keeper = world.keeper()
        keeper.close()
        assert world.provider.closed
        with pytest.raises(KeeperClosed):
            keeper.start()

    def test_at_exit_they_are_closed_side_by_side(self, world: World) -> None:
        """None has to wait for another one whose provider takes its time."""
        meeting = threading.Barrier(3)
        providers = [MeetingProvider(world.clock, meeting) for _ in range(3)]
        keepers = [CredentialKeeper(p, clock=world.clock, observers=[]) for p in providers]
        for keeper in keepers:
            keeper.start()
            keeper.wait(math.inf)
        close_all([k._thread for k in keepers], PATIENCE)
        assert [p.live for p in providers] == [set()] * 3
        assert all(p.closed for p in providers)

    def test_at_exit_a_hung_keeper_is_not_waited_for(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        hanging = [world.started() for _ in range(2)]
        world.provider.gate.clear()
        close_all([k._thread for k in hanging], 0.0)
        assert caplog.text.count("does not answer") == 2

    @pytest.mark.parametrize("started", [False, True])
    def test_a_provider_that_cannot_be_closed_is_reported(
        self, world: World, started: bool
    ) -> None:
        keeper = world.started() if started else world.keeper()
        world.provider.close = refuse  # type: ignore[method-assign]
        keeper.close(PATIENCE)
        assert "closing failed: RuntimeError at test_keeper.py" in str(world.recorder.events[-1])

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_r19_a_forked_child_is_refused_and_revokes_nothing(self, world: World) -> None:
        keeper = world.started()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                keeper.current()
            except KeeperClosed as error:
                status = 0 if "after the fork" in str(error) else 2
            finally:
                keeper.close()
                os._exit(status if world.provider.live == {"user-1"} else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert keeper.current().generation == 1


class TestAThreadThatEnded:
    @pytest.fixture
    def ended(self, world: World) -> CredentialKeeper:
        world.clock = clock = BrokenClock()
        world.provider = ScriptedProvider(clock)
        keeper = world.started()
        clock.advance(1.0)
        world.recorder.wait_for(KeeperFailed)
        return keeper

    def test_is_reported_without_what_may_be_a_secret(
        self, world: World, ended: CredentialKeeper, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert "has crashed: SystemExit at keepers.py" in str(world.recorder.events[-1])
        (logged,) = caplog.get_records("setup")
        assert "the thread that renews credentials has crashed" in logged.getMessage()
        assert "clock-secret-text" not in logged.getMessage()
        assert ended.status().state == "failed"

    def test_leaves_the_credentials_in_use_to_their_deadline(
        self, world: World, ended: CredentialKeeper
    ) -> None:
        assert ended.current().generation == 1
        assert ended.status().ready
        world.clock.advance(3600.0)
        assert not ended.status().ready
        for ask in (ended.current, lambda: ended.wait(math.inf)):
            with pytest.raises(CredentialsExpired, match=r"thread of the keeper .* has crashed"):
                ask()

    def test_tells_its_pools(self, world: World) -> None:
        world.clock = clock = BrokenClock()
        world.provider = ScriptedProvider(clock)
        told = threading.Event()
        member = Member(world.started())
        member.failed = told.set  # type: ignore[method-assign]
        clock.advance(1.0)
        assert told.wait(PATIENCE)

    def test_cannot_refresh(self, ended: CredentialKeeper) -> None:
        with pytest.raises(NotReady, match=r"SystemExit at keepers\.py"):
            ended.refresh(math.inf)

    def test_can_be_closed(self, world: World, ended: CredentialKeeper) -> None:
        ended.close()
        assert world.provider.closed
        with pytest.raises(KeeperClosed):
            ended.refresh()


class TestDefects:
    @pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
    def test_an_observer_cannot_end_the_thread(
        self, world: World, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(event: Event) -> None:
            raise error

        keeper = world.started(observers=[broken, world.recorder])
        world.clock.advance(2400.0)
        world.recorder.wait_for(LeaseRenewed)
        assert keeper.status().state == "serving"
        assert f"{type(error).__name__} at test_keeper.py" in caplog.text

    def test_an_interrupt_of_the_main_thread_is_not_an_observers(self, world: World) -> None:
        def interrupted(event: Event) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            world.keeper(observers=[interrupted]).report(KeeperFailed(error="a test"))

    def test_a_provider_that_wants_to_exit_is_tried_again(self, world: World) -> None:
        world.provider.failures["fetch"] = [SystemExit(1)]  # type: ignore[list-item]
        keeper = world.keeper()
        keeper.start()
        world.recorder.wait_for(FetchFailed)
        world.clock.advance(60.0)
        world.recorder.wait_for(CredentialsPublished)

    def test_asking_while_others_signal_walks_no_inbox(self, world: World) -> None:
        class Changing(deque[Any]):
            def __iter__(self) -> Iterator[Any]:
                raise RuntimeError("deque mutated during iteration")

        keeper = world.keeper()
        keeper._thread._inbox = Changing()
        keeper.signal(SourceChanged())
        with pytest.raises(NotReady):
            keeper.current()

    def test_an_observer_that_raises_stops_nothing(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(event: Event) -> None:
            raise ValueError("observer-secret-text")

        keeper = world.started(observers=[broken, world.recorder])
        assert keeper.current().generation == 1
        world.clock.advance(2400.0)
        world.recorder.wait_for(LeaseRenewed)
        assert "ValueError at test_keeper.py" in caplog.text
        assert "observer-secret-text" not in caplog.text

    def test_a_provider_that_raises_anything_is_tried_again(self, world: World) -> None:
        """Its text may hold a secret, so that only kind and place are told."""
        world.provider.failures["fetch"] = [ZeroDivisionError("defective-secret-text")]
        keeper = world.keeper()
        keeper.start()
        world.recorder.wait_for(FetchFailed)
        last_error = keeper.status().last_error
        assert last_error is not None
        assert "ZeroDivisionError at _fakes.py" in last_error
        assert "defective-secret-text" not in last_error
        world.clock.advance(60.0)
        world.recorder.wait_for(CredentialsPublished)

    def test_a_watch_that_fails_is_reported(self, world: World) -> None:
        def watch(on_change: Callable[[], None]) -> None:
            raise OSError("no inotify")

        world.provider.watch = watch  # type: ignore[method-assign]
        keeper = world.started()
        assert world.recorder.count(KeeperFailed) == 1
        assert keeper.current().generation == 1

    def test_a_provider_without_renewal_is_replaced_in_time(self, world: World) -> None:
        world.provider.renewable = False
        keeper = world.started()
        world.clock.advance(2400.0)
        world.recorder.wait_for(CredentialsPublished, 2)
        assert keeper.current().generation == 2


def test_the_status_holds_no_secret(world: World) -> None:
    keeper = world.started()
    status = keeper.status()
    assert status.ready
    assert status.state == "serving"
    assert (status.generation, status.username, status.fetches) == (1, "user-1", 1)
    assert "scripted-password" not in repr(status) + repr(keeper)
    assert pickle.loads(pickle.dumps(status)) == status


def test_events_carry_the_keepers_name(world: World) -> None:
    world.started(name="orders")
    assert {event.keeper for event in world.recorder.events} == {"orders"}


def test_a_source_that_changed_is_fetched(world: World) -> None:
    keeper = world.started()
    world.provider.change()
    world.recorder.wait_for(CredentialsPublished, 2)
    assert keeper.current().generation == 2


class Member:
    """A pool that accepts everything."""

    def __init__(self, keeper: CredentialKeeper) -> None:
        self.seen: list[str] = []
        self.keeper = keeper
        self.number, self.given = keeper.join(self)

    def prove(self, grant: Grant) -> None:
        self.seen.append(f"prove {grant.generation}")
        self.keeper.signal(LoginAccepted(self.number, grant.generation))

    def publish(self, grant: Grant) -> None:
        self.seen.append(f"publish {grant.generation}")

    def extend(self, grant: Grant) -> None:
        self.seen.append(f"extend {grant.generation}")

    def retire(self, grant: Grant) -> None:
        self.seen.append(f"retire {grant.generation}")

    def expire(self, grant: Grant) -> None:
        self.seen.append(f"expire {grant.generation}")

    def reclaim(self, grant: Grant) -> None:
        self.seen.append(f"reclaim {grant.generation}")

    def ask_end(self, grant: Grant) -> None:
        self.seen.append(f"ask {grant.generation}")

    def suspect(self, grant: Grant) -> None:
        self.seen.append(f"suspect {grant.generation}")

    def failed(self) -> None:
        self.seen.append("failed")


def published(world: World) -> CredentialKeeper:
    """Start a keeper, and wait until its thread has told everyone of the first credentials."""
    keeper = world.started()
    world.recorder.wait_for(CredentialsPublished)
    return keeper


def test_pools_are_notified_in_order(world: World) -> None:
    member = Member(keeper := published(world))
    keeper.refresh(math.inf)
    # The old credentials are retired a moment after the new ones have been reported.
    assert wait_until(lambda: "retire 1" in member.seen, PATIENCE)
    keeper.leave(member.number)
    keeper.close(PATIENCE)
    assert member.seen == ["prove 2", "publish 2", "retire 1"]


class AskingMember(Member):
    """A pool that asks the keeper as soon as it hears of a failure."""

    def failed(self) -> None:
        try:
            self.keeper.wait(0.0)
        except Exception as error:
            self.seen.append(type(error).__name__)


class TestPoolsAreToldThatThereAreNoCredentials:
    def test_when_a_fetch_has_failed(self, world: World) -> None:
        world.provider.failures["fetch"] = [ProviderUnavailable("away"), AccessDenied("403")]
        keeper = world.keeper()
        member = AskingMember(keeper)
        keeper.start()
        world.recorder.wait_for(FetchFailed)
        world.clock.advance(60.0)
        world.recorder.wait_for(FetchFailed, 2)
        assert member.seen == ["NotReady", "AccessDenied"]

    @pytest.mark.parametrize("by_signal", [False, True])
    def test_when_the_keeper_is_closed_while_its_thread_is_busy(
        self, world: World, by_signal: bool
    ) -> None:
        world.provider.gate.clear()
        keeper = world.keeper()
        member = AskingMember(keeper)
        keeper.start()
        if by_signal:
            keeper.signal(Close())
        else:
            keeper.close(0.0)
        assert member.seen == ["KeeperClosed"]

    def test_when_it_is_closed_before_its_start(self, world: World) -> None:
        keeper = world.keeper()
        member = AskingMember(keeper)
        keeper.close()
        assert member.seen == ["KeeperClosed"]

    def test_a_consumer_whose_callback_fails_does_not_stop_the_others(self, world: World) -> None:
        keeper = world.keeper()
        member = Member(keeper)
        member.failed = refuse  # type: ignore[method-assign]
        other = AskingMember(keeper)
        keeper.close()
        assert other.seen == ["KeeperClosed"]
        assert world.recorder.count(KeeperFailed) == 1


def test_pools_are_asked_about_an_unconfirmed_end(world: World) -> None:
    world.provider.duration = math.inf
    member = Member(keeper := published(world))
    assert keeper.status().ends_in is None
    keeper.signal(EndLearned(1, 0.0))
    keeper.signal(EndLearned(1, 0.0))
    world.recorder.wait_for(CredentialsEnding)
    assert wait_until(lambda: member.seen, PATIENCE) == ["ask 1"]
    assert keeper.status().ends_in == 0.0
    assert keeper.current().generation == 1


class SilentMember(Member):
    """A pool whose server does not answer."""

    def __init__(self, keeper: CredentialKeeper) -> None:
        self.asked = threading.Event()
        super().__init__(keeper)

    def prove(self, grant: Grant) -> None:
        self.asked.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_r19_a_child_that_starts_the_keeper_does_not_wait_for_the_parents_pools(
    world: World,
) -> None:
    keeper = world.keeper()
    SilentMember(keeper)
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))  # its clock stands still: it would wait for the pool
        status = 1
        try:
            keeper.start()
            keeper.wait(PATIENCE)
            status = 0 if keeper.refresh(PATIENCE).generation == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class HeldMember(Member):
    """A pool that keeps the keeper's thread busy, as a slow server does, when it has proven."""

    def __init__(self, keeper: CredentialKeeper) -> None:
        self.held, self.go = threading.Event(), threading.Event()
        super().__init__(keeper)

    def prove(self, grant: Grant) -> None:
        super().prove(grant)
        self.held.set()
        self.go.wait(PATIENCE)


def test_credentials_that_a_new_pool_receives_are_not_revoked(world: World) -> None:
    keeper = world.started(refresh=RefreshPolicy(mint_interval=0.0))
    first = HeldMember(keeper)
    keeper.signal(RefreshRequested())
    assert first.held.wait(PATIENCE)
    second = Member(keeper)
    assert second.given is not None
    assert second.given.generation == 1
    first.go.set()
    world.recorder.wait_for(CredentialsPublished, 2)
    keeper.signal(ConsumerReleased(first.number, 1))
    keeper.refresh(math.inf)
    assert "revoke 1" not in world.provider.calls
    assert second.seen[:2] == ["publish 2", "retire 1"]
    keeper.signal(ConsumerReleased(second.number, 1))
    world.recorder.wait_for(LeaseRevoked)
    assert "revoke 1" in world.provider.calls


def test_a_refresh_of_a_lease_that_cannot_be_renewed_ends(world: World) -> None:
    world.provider.renewable = False
    keeper = world.started()
    assert keeper.refresh(math.inf).generation == 2


def test_a_lease_without_an_end_expires_never(world: World) -> None:
    world.provider.duration = math.inf
    keeper = world.started()
    lease: Lease = keeper.current().lease
    assert lease.expires_at == math.inf
    assert keeper.status().expires_in is None


@pytest.mark.parametrize("kind", [CredentialKeeper, AsyncCredentialKeeper])
def test_the_old_name_of_refresh_warns(world: World, kind: Any) -> None:
    policy = RefreshPolicy(margin=1.0)
    with pytest.warns(
        DeprecationWarning, match=rf"{kind.__name__}\(policy=\) is now refresh="
    ) as told:
        keeper = kind(world.provider, policy=policy)
    assert told[0].filename == __file__
    assert getattr(keeper, "keeper", keeper)._machine._core.policy is policy
    with pytest.raises(TypeError, match="policy= is the old name of refresh="):
        kind(world.provider, policy=policy, refresh=policy)


@pytest.mark.parametrize("kind", [CredentialKeeper, AsyncCredentialKeeper])
def test_one_whose_constructor_failed_has_a_repr(kind: Any) -> None:
    assert repr(kind.__new__(kind)) == f"<{kind.__name__} not made>"
