"""What a pool does to move from generation to generation, and when: the machine alone."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from rotations import (
    AWAY,
    REFUSED,
    Session,
    failed,
    grant,
    jobs,
    only,
    opened,
    rotation_of,
    succeed,
    told,
)

from ephemeral_creds import (
    ConfigurationError,
    CredentialsExpired,
    KeeperClosed,
    NotReady,
    RotationPolicy,
)
from ephemeral_creds.events import BorrowedAtDeadline, PoolRotated
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    ConsumerReleased,
    EndLearned,
    LoginAccepted,
    LoginRejected,
)
from ephemeral_creds.pool.jobs import (
    AskEnd,
    CloseUnwanted,
    CutOff,
    Preconnect,
    Prove,
    ReplaceIdle,
    Report,
    Retry,
    TellOutage,
)
from ephemeral_creds.pool.ledger import Borrowed
from ephemeral_creds.pool.reconnects import ConnectFailure
from ephemeral_creds.pool.rotation import LOOK_AGAIN, Rotation

if TYPE_CHECKING:
    from ephemeral_creds import Grant


@pytest.fixture
def rotation() -> Rotation[Any]:
    """One that serves generation 1 and may open a single connection ahead."""
    return rotation_of(1, overshoot=1, park=2.0)


def proven(rotation: Rotation[Any], generation: int, now: float = 0.0) -> Session:
    """Prove a candidate, which leaves a connection of it."""
    rotation.prove(grant(generation))
    (job,) = only(jobs(rotation, now), Prove)
    assert job.grant == grant(generation)
    return succeed(rotation, job, now)


def endless(generation: int) -> Grant:
    return grant(generation, duration=math.inf)


def test_with_nothing_old_there_is_nothing_to_do(rotation: Rotation[Any]) -> None:
    opened(rotation, 1)
    assert told(jobs(rotation, 0.0)) == [LoginAccepted(7, 1)]
    assert jobs(rotation, 1e9) == []
    assert rotation.deadline == math.inf


def test_the_driver_is_woken_for_each_order() -> None:
    woken: list[int] = []
    rotation: Rotation[Any] = Rotation(RotationPolicy(), nullcontext, lambda: woken.append(1))
    rotation.join(7, grant(1))
    orders = (
        rotation.prove, rotation.publish, rotation.extend, rotation.retire, rotation.reclaim,
        rotation.ask_end,
    )  # fmt: skip
    rotation.publish(grant(3))
    for order in orders:
        woken.clear()
        order(grant(2 if order == rotation.reclaim else 3))
        assert woken, order
    woken.clear()
    rotation.failed()
    rotation.stop()
    assert len(woken) == 2


def test_it_is_woken_too_when_there_may_be_more_to_do() -> None:
    woken: list[int] = []
    policy = RotationPolicy(overshoot=1)
    rotation: Rotation[Any] = Rotation(policy, nullcontext, lambda: woken.append(1))
    rotation.join(7, grant(1))
    opened(rotation, 1)
    rotation.prove(grant(2))
    (prove,) = only(jobs(rotation, 0.0), Prove)
    woken.clear()
    succeed(rotation, prove, 0.0)
    assert woken
    rotation.publish(grant(2))
    spare = rotation.take_spare()
    woken.clear()
    rotation.replaced(spare)
    assert woken
    woken.clear()
    rotation.done(ReplaceIdle(), True, 0.0)
    assert woken
    woken.clear()
    rotation.hold("a connect of psycopg_pool's", 0.0)
    assert woken


class TestProof:
    def test_it_accepts(self, rotation: Rotation[Any]) -> None:
        proven(rotation, 2)
        assert told(jobs(rotation, 0.0)) == [LoginAccepted(7, 2)]

    @pytest.mark.parametrize(
        ("failure", "reason"),
        [(REFUSED, LoginFailure.CREDENTIALS), (AWAY, LoginFailure.UNREACHABLE)],
    )
    def test_it_rejects_and_bars_nothing(
        self, rotation: Rotation[Any], failure: Any, reason: LoginFailure
    ) -> None:
        rotation.prove(grant(2))
        (job,) = jobs(rotation, 0.0)
        rotation.done(job, failure, 1.0)
        assert told(jobs(rotation, 1.0)) == [LoginRejected(7, 2, reason)]
        assert not rotation.barred(1.0)
        assert rotation.overview.failure is None

    def test_a_candidate_is_queued_once(self, rotation: Rotation[Any]) -> None:
        for _ in range(3):
            rotation.prove(grant(2))
        (job,) = jobs(rotation, 0.0)
        rotation.done(job, None, 0.0)
        assert jobs(rotation, 0.0) == []

    def test_one_that_was_discarded_is_not_proven(self, rotation: Rotation[Any]) -> None:
        rotation.prove(grant(2))
        rotation.retire(grant(2))
        found = jobs(rotation, 0.0)
        assert told(found) == [ConsumerReleased(7, 2)]
        assert only(found, Prove) == []

    def test_one_that_was_overtaken_is_not_either(self, rotation: Rotation[Any]) -> None:
        rotation.prove(grant(2))
        rotation.publish(grant(3))
        assert jobs(rotation, 0.0) == []

    def test_one_that_is_discarded_during_its_login_is_released_when_it_is_closed(
        self, rotation: Rotation[Any]
    ) -> None:
        rotation.prove(grant(2))
        (job,) = only(jobs(rotation, 0.0), Prove)
        rotation.retire(grant(2))
        assert jobs(rotation, 0.0) == []
        session = succeed(rotation, job, 0.0)
        (close,) = only(rotation.jobs(0.0), CloseUnwanted)
        assert close.connections == (session,)
        session.closed = True
        rotation.done(close, None, 0.0)
        assert told(jobs(rotation, 0.0)) == [ConsumerReleased(7, 2)]

    def test_a_proof_takes_precedence_over_replacements(self, rotation: Rotation[Any]) -> None:
        opened(rotation, 1)
        session = proven(rotation, 2)
        rotation.publish(grant(2))
        rotation.prove(grant(3))
        (close,) = only(found := rotation.jobs(0.0), CloseUnwanted)
        assert close.connections == (session,)
        # Until it is closed there is no room.
        assert only(found, Prove) == []
        rotation.done(close, None, 0.0)
        found = jobs(rotation, 0.0)
        assert [job.grant for job in only(found, Prove)] == [grant(3)]
        assert only(found, Preconnect) == []

    def test_it_is_the_next_to_be_opened(self) -> None:
        rotation = rotation_of(1, overshoot=2)
        for _ in range(4):
            opened(rotation, 1)
        rotation.publish(grant(2))
        first, _ = only(jobs(rotation, 0.0), Preconnect)
        rotation.prove(grant(3))
        assert only(jobs(rotation, 0.0), Prove) == []
        rotation.done(first, None, 0.0)
        found = jobs(rotation, 0.0)
        assert (len(only(found, Prove)), only(found, Preconnect)) == (1, [])


class TestQuestion:
    def test_one_login_of_each_asks(self, rotation: Rotation[Any]) -> None:
        rotation.publish(endless(2))
        assert rotation.claim_question(endless(2))
        assert not rotation.claim_question(endless(2))
        rotation.ask_end(endless(2))
        (job,) = only(jobs(rotation, 0.0), AskEnd)
        assert rotation.claim_question(job.grant)
        rotation.end_learned(2, 60.0)
        rotation.end_learned(2, None)
        assert told(jobs(rotation, 0.0)) == [EndLearned(2, 60.0), EndLearned(2, math.inf)]

    def test_none_asks_where_the_lease_says(self, rotation: Rotation[Any]) -> None:
        assert not rotation.claim_question(grant(2))

    def test_none_is_opened_for_it_where_another_asks(self, rotation: Rotation[Any]) -> None:
        rotation.publish(endless(2))
        rotation.ask_end(endless(2))
        assert rotation.claim_question(endless(2))
        assert only(jobs(rotation, 0.0), AskEnd) == []

    def test_the_connection_that_asked_for_the_end_is_closed_if_none_is_old(
        self, rotation: Rotation[Any]
    ) -> None:
        rotation.publish(endless(2))
        rotation.ask_end(endless(2))
        (job,) = only(jobs(rotation, 0.0), AskEnd)
        session = succeed(rotation, job, 0.0)
        assert only(jobs(rotation, 0.0), CloseUnwanted) == [CloseUnwanted((session,))]

    def test_a_failure_is_reported(self, rotation: Rotation[Any]) -> None:
        rotation.ask_end(endless(1))
        (job,) = jobs(rotation, 0.0)
        rotation.done(job, REFUSED, 0.0)
        assert told(jobs(rotation, 0.0)) == [LoginRejected(7, 1, LoginFailure.CREDENTIALS)]


class TestMove:
    @pytest.mark.parametrize(
        ("old", "overshoot", "opened_ahead"), [(1, 1, 1), (1, 5, 1), (5, 2, 2), (8, 5, 5)]
    )
    def test_as_many_are_opened_ahead_as_help(
        self, old: int, overshoot: int, opened_ahead: int
    ) -> None:
        rotation = rotation_of(1, overshoot=overshoot)
        for _ in range(old):
            opened(rotation, 1)
        rotation.publish(grant(2))
        found = only(jobs(rotation, 0.0), Preconnect)
        assert [job.grant for job in found] == [grant(2)] * opened_ahead

    def test_a_spare_connection_replaces_an_old_connection_of_ours(
        self, rotation: Rotation[Any]
    ) -> None:
        old = opened(rotation, 1)
        ready = proven(rotation, 2)
        jobs(rotation, 0.0)
        assert not rotation.is_stale(old)
        assert rotation.take_spare() is None
        rotation.publish(grant(2))
        assert rotation.is_stale(old)
        assert not rotation.is_stale(Session(1))
        assert jobs(rotation, 1.0) == [ReplaceIdle()]
        assert rotation.take_spare() is ready
        # As long as the old one is open, no other may be opened.
        assert jobs(rotation, 1.0) == []
        old.closed = True
        rotation.replaced(ready)
        assert jobs(rotation, 3.0) == [
            Report(PoolRotated(pool="", generation=2, connections=1, duration=2.0))
        ]

    def test_it_is_looked_for_idle_ones_when_one_is_ready(self, rotation: Rotation[Any]) -> None:
        for _ in range(2):
            opened(rotation, 1)
        rotation.publish(grant(2))
        found = jobs(rotation, 0.0)
        (look,), (job,) = only(found, ReplaceIdle), only(found, Preconnect)
        rotation.done(look, True, 0.0)
        assert jobs(rotation, 0.1) == []
        succeed(rotation, job, 0.1)
        assert only(jobs(rotation, 0.1), ReplaceIdle) == [ReplaceIdle()]

    def test_idle_connections_are_looked_for_again_after_an_unnoticed_return(
        self, rotation: Rotation[Any]
    ) -> None:
        opened(rotation, 1)
        rotation.publish(grant(2))
        assert ReplaceIdle() in jobs(rotation, 1.0)
        assert rotation.deadline == 1.0 + LOOK_AGAIN
        assert jobs(rotation, 1.0 + LOOK_AGAIN - 0.01) == []
        assert jobs(rotation, 1.0 + LOOK_AGAIN) == [ReplaceIdle()]

    def test_nothing_takes_a_place_in_a_pool_that_is_closed(self, rotation: Rotation[Any]) -> None:
        opened(rotation, 1)
        ready = proven(rotation, 2)
        jobs(rotation, 0.0)
        rotation.publish(grant(2))
        rotation.stop()
        assert rotation.take_spare() is None
        assert jobs(rotation, 0.0) == [CloseUnwanted((ready,))]

    def test_a_spare_connection_is_unwanted_once_none_is_old(self, rotation: Rotation[Any]) -> None:
        old = opened(rotation, 1)
        ready = proven(rotation, 2)
        assert only(jobs(rotation, 0.0), CloseUnwanted) == []
        rotation.publish(grant(2))
        assert only(jobs(rotation, 0.0), CloseUnwanted) == []
        old.closed = True
        assert only(jobs(rotation, 0.0), CloseUnwanted) == [CloseUnwanted((ready,))]

    def test_the_connection_of_a_proof_waits_no_longer_than_any_other(
        self, rotation: Rotation[Any]
    ) -> None:
        opened(rotation, 1)
        session = proven(rotation, 2)
        jobs(rotation, 0.0)
        assert rotation.deadline == 2.0
        rotation.publish(grant(2))
        assert only(jobs(rotation, 1.9), CloseUnwanted) == []
        assert only(jobs(rotation, 2.0), CloseUnwanted) == [CloseUnwanted((session,))]

    @pytest.mark.parametrize("comes_back", ["told", "seen", "replaced again"])
    def test_while_all_that_is_old_is_borrowed_none_is_opened(
        self, rotation: Rotation[Any], comes_back: str
    ) -> None:
        """The one that waited is closed; another is opened when something came back."""
        opened(rotation, 1)
        rotation.publish(grant(2))
        (job,) = only(jobs(rotation, 0.0), Preconnect)
        succeed(rotation, job, 0.0)
        for now in (0.0, 2.0, 2.5, 3.0, 100.0):
            assert only(jobs(rotation, now), Preconnect) == []
        if comes_back == "told":
            rotation.look_again()
        elif comes_back == "replaced again":
            rotation.publish(grant(3))
        else:
            rotation.done(ReplaceIdle(), False, 100.0)
            assert jobs(rotation, 100.0) == []
            rotation.done(ReplaceIdle(), True, 100.0)
        assert len(only(jobs(rotation, 100.0), Preconnect)) == 1

    @pytest.mark.parametrize("renewed", [False, True])
    def test_none_is_opened_with_credentials_that_have_expired(
        self, rotation: Rotation[Any], renewed: bool
    ) -> None:
        opened(rotation, 1)
        rotation.publish(grant(2))
        rotation.expire(grant(2))
        assert only(jobs(rotation, 0.0), Preconnect) == []
        if renewed:
            rotation.extend(grant(2, requested_at=3600.0))
        assert len(only(jobs(rotation, 0.0), Preconnect)) == renewed

    def test_it_continues_when_a_connect_may_be_tried_again(self) -> None:
        rotation = rotation_of(1, overshoot=1, retry_initial=1.0, retry_max=8.0)
        opened(rotation, 1)
        rotation.publish(grant(2))
        for now, pause in ((0.0, 1.0), (1.0, 2.0), (3.0, 4.0)):
            (job,) = only(jobs(rotation, now), Preconnect)
            rotation.done(job, AWAY, now)
            assert told(found := jobs(rotation, now)) == [
                LoginRejected(7, 2, LoginFailure.UNREACHABLE)
            ]
            assert only(found, Preconnect) == []
            assert only(jobs(rotation, now + pause - 0.01), Preconnect) == []
            assert rotation.deadline <= now + pause

    def test_a_connect_that_succeeds_ends_the_delays(self, rotation: Rotation[Any]) -> None:
        for _ in range(2):
            opened(rotation, 1)
        rotation.publish(grant(2))
        (job,) = only(jobs(rotation, 0.0), Preconnect)
        failed(rotation, AWAY, 0.0)
        assert rotation.barred(0.0)
        succeed(rotation, job, 0.0)
        assert not rotation.barred(0.0)
        assert LoginAccepted(7, 2) in told(jobs(rotation, 0.0))

    def test_an_error_gives_back_the_room(self, rotation: Rotation[Any]) -> None:
        opened(rotation, 1)
        rotation.publish(grant(2))
        (job,) = only(jobs(rotation, 0.0), Preconnect)
        rotation.done(job, None, 0.0)
        assert rotation.overview.size == 1
        assert len(only(jobs(rotation, 0.0), Preconnect)) == 1

    def test_a_replacement_of_a_superseded_generation_is_unwanted(
        self, rotation: Rotation[Any]
    ) -> None:
        opened(rotation, 1)
        rotation.publish(grant(2))
        (job,) = only(jobs(rotation, 0.0), Preconnect)
        rotation.publish(grant(3))
        session = succeed(rotation, job, 0.0)
        assert only(jobs(rotation, 0.0), CloseUnwanted) == [CloseUnwanted((session,))]

    def test_a_stopped_one_opens_and_releases_nothing(self, rotation: Rotation[Any]) -> None:
        opened(rotation, 1)
        jobs(rotation, 0.0)
        rotation.publish(grant(2))
        (job,) = only(jobs(rotation, 0.0), Preconnect)
        rotation.prove(grant(3))
        rotation.retire(grant(1))
        rotation.stop()
        assert jobs(rotation, 0.0) == []
        session = succeed(rotation, job, 0.0)
        assert only(jobs(rotation, 0.0), CloseUnwanted) == [CloseUnwanted((session,))]


class TestRelease:
    def test_a_generation_is_not_released_while_a_login_is_about_to_start(
        self, rotation: Rotation[Any]
    ) -> None:
        opening = rotation.begin(0.0)
        assert rotation.log_in(opening, 1)
        rotation.publish(grant(2))
        rotation.retire(grant(1))
        assert told(jobs(rotation, 0.0)) == []
        rotation.end(opening)
        assert told(jobs(rotation, 0.0)) == [ConsumerReleased(7, 1)]

    def test_a_generation_is_not_released_while_a_connection_is_open(
        self, rotation: Rotation[Any]
    ) -> None:
        old = opened(rotation, 1)
        jobs(rotation, 0.0)
        rotation.publish(grant(2))
        rotation.retire(grant(1))
        assert told(jobs(rotation, 0.0)) == []
        # It breaks in its borrower's hands.
        old.closed = True
        assert rotation.deadline == LOOK_AGAIN
        assert told(jobs(rotation, LOOK_AGAIN)) == [ConsumerReleased(7, 1)]
        assert jobs(rotation, LOOK_AGAIN) == []

    def test_no_login_starts_with_a_generation_that_was_overtaken(
        self, rotation: Rotation[Any]
    ) -> None:
        opened(rotation, 1)
        rotation.publish(grant(2))
        opening = rotation.begin(0.0)
        assert not rotation.log_in(opening, 1)
        assert rotation.overview.size == 1
        assert rotation.log_in(opening, 2)
        assert rotation.overview.size == 2


class TestBorrowed:
    @pytest.fixture
    def held(self) -> Session:
        session = Session(1)
        session._lease.borrowed = Borrowed(4.0, "orders.py:7 in pay")
        return session

    def overdue(self, held: Session, **policy: Any) -> Rotation[Any]:
        rotation = rotation_of(1, **policy)
        rotation.name = "orders"
        opening = rotation.begin(0.0)
        assert rotation.log_in(opening, 1)
        rotation.logged_in(opening, held)
        rotation.succeeded(opening)
        rotation.publish(grant(2))
        jobs(rotation, 5.0)
        rotation.reclaim(grant(1))
        return rotation

    @pytest.mark.parametrize("borrowed", ["leave", "cancel"])
    def test_it_is_reported_and_perhaps_cut_off(self, held: Session, borrowed: str) -> None:
        rotation = self.overdue(held, borrowed=borrowed)
        found = jobs(rotation, 10.0)
        assert only(found, Report) == [
            Report(
                BorrowedAtDeadline(
                    pool="orders",
                    generation=1,
                    connections=1,
                    age=6.0,
                    where=("orders.py:7 in pay",),
                    cancelled=borrowed == "cancel",
                )
            )
        ]
        cut_off = only(found, CutOff)
        assert cut_off == ([CutOff((held,))] if borrowed == "cancel" else [])
        assert rotation.cut_off == len(cut_off)
        assert rotation.overdue == 1
        assert only(jobs(rotation, 10.0), Report) == []

    def test_without_a_trace_it_is_as_old_as_the_move(self) -> None:
        rotation = self.overdue(session := Session(1))
        (report,) = only(jobs(rotation, 10.0), Report)
        assert isinstance(report.event, BorrowedAtDeadline)
        assert (report.event.age, report.event.where) == (5.0, ())
        assert not session.closed

    def test_a_closed_connection_is_not_reported(self, held: Session) -> None:
        rotation = self.overdue(held)
        held.closed = True
        assert not any(
            isinstance(report.event, BorrowedAtDeadline)
            for report in only(jobs(rotation, 10.0), Report)
        )

    def test_a_candidate_that_was_given_up_has_nothing_borrowed(
        self, rotation: Rotation[Any]
    ) -> None:
        proven(rotation, 2)
        rotation.reclaim(grant(2))
        assert only(jobs(rotation, 0.0), Report) == []


class TestRetries:
    def test_one_connect_finds_out_and_the_others_wait(self) -> None:
        rotation = rotation_of(1, retry_initial=1.0)
        failed(rotation, AWAY, 0.0)
        assert rotation.barred(0.5)
        for task in "abc":
            rotation.hold(task, 0.0)
        assert only(jobs(rotation, 0.5), Retry) == []
        assert rotation.deadline == 1.0
        assert only(rotation.jobs(1.0), Retry) == [Retry(("a",))]
        opened(rotation, 1)
        assert only(jobs(rotation, 1.1), Retry) == [Retry(("b", "c"))]
        assert rotation.overview.held == 0

    def test_new_credentials_are_tried_at_once(self) -> None:
        rotation = rotation_of(1, retry_initial=60.0)
        failed(rotation, REFUSED, 0.0)
        rotation.hold("a", 0.0)
        assert rotation.barred(1.0)
        rotation.publish(grant(2))
        assert not rotation.barred(1.0)
        assert only(jobs(rotation, 1.0), Retry) == [Retry(("a",))]

    def test_a_failure_around_the_login_is_not_reported(self, rotation: Rotation[Any]) -> None:
        opening = rotation.begin(0.0)
        assert rotation.log_in(opening, 1)
        rotation.failed_to_open(opening, AWAY, 0.0)
        assert told(jobs(rotation, 0.0)) == []
        assert rotation.overview.failure is AWAY
        assert rotation.barred(0.0)

    def test_an_outage_is_reported_once(self) -> None:
        rotation = rotation_of(1, retry_initial=1.0)
        rotation.patience = 8.0
        failed(rotation, AWAY, 10.0)
        rotation.hold("a", 10.0)
        assert only(rotation.jobs(17.9), TellOutage) == []
        assert rotation.deadline == pytest.approx(18.0)
        assert only(rotation.jobs(18.0), TellOutage) == [TellOutage()]
        assert only(rotation.jobs(99.0), TellOutage) == []

    def test_a_configuration_error_ends_waiting_if_no_connection_is_open(
        self, rotation: Rotation[Any]
    ) -> None:
        hopeless = ConnectFailure(ConfigurationError("no role"), None)
        failed(rotation, hopeless, 0.0)
        assert rotation.overview.misconfigured
        opened(rotation, 1)
        failed(rotation, hopeless, 1.0)
        assert not rotation.overview.misconfigured


class TestPoolThatKeepsNothing:
    @pytest.fixture
    def rotation(self) -> Rotation[Any]:
        return rotation_of(1, keeps=False)

    def test_each_checkout_goes_the_long_way(self, rotation: Rotation[Any]) -> None:
        assert rotation.must_vet

    def test_the_connection_of_a_proof_is_closed_at_once(self, rotation: Rotation[Any]) -> None:
        opened(rotation, 1)
        proof = proven(rotation, 2, 5.0)
        assert rotation.deadline == 5.0
        found = jobs(rotation, 5.0)
        assert told(found)[-1] == LoginAccepted(7, 2)
        assert only(found, CloseUnwanted) == [CloseUnwanted((proof,))]

    def test_no_connection_is_opened_for_old_ones(self, rotation: Rotation[Any]) -> None:
        old = opened(rotation, 1)
        rotation.publish(grant(2))
        rotation.retire(grant(1))
        assert only(jobs(rotation, 1.0), Preconnect) == []
        rotation.stale_returned()
        old.closed = True
        found = jobs(rotation, 3.0)
        assert only(found, Report) == [
            Report(PoolRotated(pool="", generation=2, connections=1, duration=2.0))
        ]
        assert told(found) == [ConsumerReleased(7, 1)]

    def test_a_child_of_a_fork_keeps_nothing_either(self, rotation: Rotation[Any]) -> None:
        rotation.abandon()
        assert not rotation.keeps

    @pytest.mark.parametrize(
        ("failure", "until"),
        [
            (REFUSED, 3.25),
            (ConnectFailure(CredentialsExpired("at noon"), None), 3.25),
            (ConnectFailure(NotReady("none yet"), None), 3.25),
            (ConnectFailure(KeeperClosed("closed"), None), -math.inf),
            (AWAY, -math.inf),
        ],
    )
    def test_other_credentials_are_waited_for_where_they_may_help(
        self, rotation: Rotation[Any], failure: ConnectFailure, until: float
    ) -> None:
        assert rotation.refused_until() == -math.inf
        failed(rotation, failure, 3.0)
        assert rotation.refused_until() == until
        rotation.publish(grant(2))
        assert rotation.refused_until() == -math.inf
