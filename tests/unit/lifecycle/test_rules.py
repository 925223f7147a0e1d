"""The rules that have a time of their own, each by itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ephemeral_creds import events
from ephemeral_creds._values import Lease
from ephemeral_creds.exceptions import ProviderUnavailable
from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.lifecycle.expected_end import ExpectedEnd
from ephemeral_creds.lifecycle.lease import Renewal
from ephemeral_creds.lifecycle.password import PasswordReading
from ephemeral_creds.lifecycle.policy import RefreshPolicy, Tuning
from ephemeral_creds.lifecycle.refusals import LoginFailure, Refusals
from ephemeral_creds.lifecycle.source_trouble import SourceTrouble
from ephemeral_creds.lifecycle.statistics import Statistics
from ephemeral_creds.lifecycle.trial import Trial
from ephemeral_creds.lifecycle.wishes import Reason

POLICY = RefreshPolicy(jitter=0.0)
HOUR = Lease(1000.0, 3600.0, renewable=True, lease_id="lease")


class TestRenewal:
    def test_it_is_renewed_or_replaced_if_it_cannot_be_renewed(self) -> None:
        renewal = Renewal(POLICY, 3600.0)
        assert renewal.at == renewal.replace_at == math.inf
        renewal.schedule(HOUR, 0.0)
        assert (renewal.at, renewal.replace_at) == (3400.0, math.inf)
        renewal.schedule(replace(HOUR, renewable=False), 0.0)
        assert (renewal.at, renewal.replace_at) == (math.inf, 3400.0)
        assert renewal.replace_reason is Reason.NOT_RENEWABLE

    def test_it_can_be_stopped(self) -> None:
        renewal = Renewal(POLICY, 3600.0)
        renewal.schedule(HOUR, 0.0)
        renewal.stop()
        assert renewal.at == math.inf

    def test_the_first_failure_says_when_to_mint_instead(self) -> None:
        renewal = Renewal(POLICY, 3600.0)
        renewal.fail(3400.0, 1.0, 1200.0)
        assert (renewal.at, renewal.replace_at) == (3401.0, 4000.0)
        assert renewal.replace_reason is Reason.RENEWALS_FAIL
        renewal.fail(3401.0, 2.0, 1199.0)
        assert (renewal.at, renewal.replace_at) == (3403.0, 4000.0)
        renewal.schedule(HOUR, 0.0)
        assert (renewal.at, renewal.replace_at, renewal.failures) == (3400.0, math.inf, 0)

    @pytest.mark.parametrize(
        ("answered", "shortened"), [(3600.0, False), (3421.0, False), (3419.0, True)]
    )
    def test_less_than_at_first_announces_the_maximum(
        self, answered: float, shortened: bool
    ) -> None:
        renewed = replace(HOUR, duration=answered)
        assert Renewal(POLICY, 3600.0).is_shortened(renewed) is shortened


class TestTrial:
    def trial(self, *consumers: int, accepted: set[int] | None = None) -> Trial:
        policy = RefreshPolicy(jitter=0.0, proof_timeout=30.0, _tuning=Tuning(proof_attempts=3))
        trial = Trial(policy, accepted if accepted is not None else set())
        assert trial.at == -math.inf
        assert trial.ask(consumers, 1000.0) == sorted(consumers)
        return trial

    def test_it_is_passed_when_each_has_logged_in(self) -> None:
        accepted = set[int]()
        trial = self.trial(2, 1, accepted=accepted)
        assert trial.at == math.inf
        accepted.add(1)
        trial.excuse(1)
        assert not trial.is_passed(1000.0)
        accepted.add(2)
        trial.excuse(2)
        assert trial.is_complete
        assert trial.is_passed(1000.0)

    def test_a_silent_consumer_delays_the_candidate_for_a_while(self) -> None:
        trial = self.trial(1, 2, accepted={1})
        assert trial.at == 1030.0
        assert not trial.is_passed(1029.9)
        assert trial.is_passed(1030.0)
        assert not trial.is_complete

    def test_a_refused_consumer_delays_the_candidate_until_it_is_accepted(self) -> None:
        trial = self.trial(1, 2, accepted={1})
        trial.fail(2, 1000.0, 3600.0, 0.0, blamed=True, worse=True)
        assert not trial.is_passed(9999.0)

    def test_not_where_those_in_use_are_refused_as_well(self) -> None:
        trial = self.trial(1, 2, accepted={1})
        trial.fail(2, 1000.0, 3600.0, 0.0, blamed=True, worse=False)
        assert trial.is_passed(1030.0)

    def test_when_all_have_left_others_are_asked(self) -> None:
        trial = self.trial(1)
        trial.excuse(1)
        assert trial.at == -math.inf
        assert not trial.is_complete
        assert trial.ask([2], 1001.0) == [2]

    def test_no_consumer_is_asked_twice_before_an_answer(self) -> None:
        trial = self.trial(1)
        assert trial.awaits(1)
        assert trial.ask([1], 2000.0) == []
        trial.fail(1, 1000.0, 3600.0, 0.0, blamed=True, worse=True)
        assert not trial.awaits(1)
        assert trial.at == 1000.1
        assert trial.ask([1], 1000.1) == [1]
        assert not trial.awaits(2)

    @pytest.mark.parametrize(
        ("blamed", "delays"), [(True, [0.1, 0.2, 0.4]), (False, [1.0, 2.0, 4.0])]
    )
    def test_the_delays_grow(self, blamed: bool, delays: list[float]) -> None:
        trial = self.trial(1)
        found = []
        for _ in delays:
            trial.fail(1, 1000.0, 3600.0, 0.0, blamed=blamed, worse=True)
            found.append(round(trial.at - 1000.0, 3))
            trial.ask([1], 2000.0)
        assert found == delays

    def test_it_is_hopeless_when_it_was_refused_enough_and_time_is_short(self) -> None:
        trial = self.trial(1)
        trial.start(3600.0)
        for attempt in range(1, 4):
            assert not trial.is_hopeless(360.0)
            trial.fail(1, 1000.0 * attempt, 3600.0, 0.0, blamed=True, worse=True)
            trial.ask([1], math.inf)
        assert trial.is_hopeless(360.0)
        assert not trial.is_hopeless(360.1)
        assert not trial.is_hopeless(0.0), "too late for another"

    def test_it_is_stuck_whatever_the_logins_failed_of(self) -> None:
        trial = self.trial(1)
        for blamed in (True, False, True):
            assert not trial.is_stuck
            trial.fail(1, 1000.0, 3600.0, 0.0, blamed=blamed, worse=True)
        assert trial.is_stuck
        trial.excuse(1)
        assert not trial.is_stuck


class TestPassword:
    def test_a_password_that_does_not_change_is_not_read_again(self) -> None:
        reading = PasswordReading(POLICY)
        reading.schedule(Lease(1000.0), 1000.0, 0.0)
        assert reading.at == math.inf

    def test_it_is_read_after_the_change_or_when_the_provider_wants(self) -> None:
        reading = PasswordReading(POLICY)
        reading.schedule(Lease(1000.0, rotates_in=60.0), 1000.0, 0.5)
        assert reading.at == 1061.5
        reading.schedule(Lease(1000.0, rotates_in=60.0, ask_again_in=10.0), 1000.0, 0.5)
        assert reading.at == 1010.0

    def test_polls_of_a_fleet_are_spread(self) -> None:
        reading = PasswordReading(RefreshPolicy(jitter=0.1))
        reading.schedule(Lease(1000.0, rotates_in=math.inf, ask_again_in=100.0), 1000.0, 0.5)
        assert reading.at == 1095.0

    def test_the_announced_change_of_a_password_is_not_the_end_of_a_token(self) -> None:
        reading = PasswordReading(POLICY)
        reading.schedule(Lease(1000.0, rotates_in=60.0, announced_duration=60.0), 1000.0, 0.0)
        assert reading.at == 1061.0

    def test_a_slow_answer_does_not_make_a_loop(self) -> None:
        reading = PasswordReading(POLICY)
        reading.schedule(Lease(1000.0, rotates_in=60.0), 2000.0, 0.0)
        assert reading.at == 2001.0

    def test_the_same_password_is_read_again_soon_and_then_believed(self) -> None:
        reading, lease = PasswordReading(POLICY), Lease(1000.0, rotates_in=60.0)
        found = []
        for _ in range(4):
            reading.note_same(lease, 1060.0, refused=False)
            reading.schedule(Lease(1060.0, rotates_in=60.0), 1060.0, 0.0)
            found.append(reading.at - 1060.0)
        assert found == [1.0, 2.0, 4.0, 61.0]
        reading.note_change()
        reading.schedule(Lease(1060.0, rotates_in=60.0), 1060.0, 0.0)
        assert reading.at == 1121.0

    @pytest.mark.parametrize(("refused", "delay"), [(False, 51.0), (True, 1.0)])
    def test_before_its_time_only_a_refused_login_makes_it_suspicious(
        self, refused: bool, delay: float
    ) -> None:
        reading = PasswordReading(POLICY)
        reading.note_same(Lease(1000.0, rotates_in=60.0), 1010.0, refused=refused)
        reading.schedule(Lease(1010.0, rotates_in=50.0), 1010.0, 0.0)
        assert reading.at - 1010.0 == delay


class TestRefusals:
    def test_the_first_is_answered_at_once_and_more_of_the_same_slowly(self) -> None:
        refusals = Refusals(POLICY)
        delays = []
        for second in range(8):
            refusals.refuse(1000.0 + second, worked=False)
            delays.append(refusals.delay(0.0))
            refusals.answer(1, others_work=False)
        assert delays == [0.0, *[30.0] * 5, 32.0, 60.0]

    def test_a_quiet_time_success_or_other_credentials_make_it_the_first_again(self) -> None:
        refusals = Refusals(POLICY)

        def again(at: float, *, worked: bool = False) -> bool:
            refusals.refuse(at, worked=worked)
            is_first = refusals.delay(0.0) == 0.0
            refusals.answer(1, others_work=False)
            return is_first

        assert again(1000.0)
        assert not again(1059.9)
        assert again(1119.9)
        assert again(1120.0, worked=True)
        refusals.forget()
        assert again(1121.0)

    def test_pg_hba_is_about_the_role_where_the_consumer_was_accepted(self) -> None:
        refusals = Refusals(POLICY)
        assert refusals.blames_credentials(1, LoginFailure.CREDENTIALS)
        assert not refusals.blames_credentials(1, LoginFailure.PG_HBA)
        refusals.accept(1)
        assert refusals.blames_credentials(1, LoginFailure.PG_HBA)
        assert not refusals.blames_credentials(2, LoginFailure.PG_HBA)
        assert not refusals.blames_credentials(1, LoginFailure.SERVER)
        assert not refusals.blames_credentials(1, LoginFailure.UNREACHABLE)
        refusals.leave(1)
        assert not refusals.blames_credentials(1, LoginFailure.PG_HBA)

    def test_another_role_helps_once_a_replica_had_its_time_and_only_once(self) -> None:
        refusals = Refusals(POLICY)
        assert not refusals.may_help(1, 29.9, others_work=False)
        assert refusals.may_help(1, 30.0, others_work=True)
        refusals.answer(1, others_work=True)
        assert not refusals.may_help(1, 30.0, others_work=True)
        assert refusals.may_help(1, 30.0, others_work=False)
        assert refusals.may_help(2, 30.0, others_work=True)
        refusals.accept(1)
        assert refusals.may_help(1, 30.0, others_work=True)


class TestExpectedEnd:
    def test_a_lease_with_a_deadline_makes_a_hint_needless(self) -> None:
        end = ExpectedEnd(5.0, 5.0)
        end.note_lease(Lease(1000.0, announced_duration=100.0))
        assert (end.ends_at, end.at) == (1100.0, 1105.0)
        end.note_lease(HOUR)
        assert (end.ends_at, end.at) == (math.inf, math.inf)

    def test_postgresql_is_asked_once_and_its_answer_counts(self) -> None:
        end = ExpectedEnd(5.0, 5.0)
        end.learn(1000.0, 3600.0)
        assert (end.ends_at, end.at) == (4600.0, 4595.0)
        assert end.due(4594.0, can_ask=True) is None
        assert end.due(4595.0, can_ask=True) == "ask"
        assert end.at == 4600.0
        end.learn(4596.0, 4.0)
        assert end.due(4596.0, can_ask=True) == "tell"
        assert end.at == math.inf
        end.note_lease(Lease(1000.0, announced_duration=100.0))
        assert end.ends_at == 4600.0, "PostgreSQL's word counts more"

    def test_another_end_is_asked_about_as_well(self) -> None:
        end = ExpectedEnd(5.0, 5.0)
        for duration in (100.0, 200.0):
            end.note_lease(Lease(1000.0, announced_duration=duration))
            assert end.due(end.at, can_ask=True) == "ask"


def test_a_problem_of_the_source_is_reported_when_it_lasts() -> None:
    trouble = SourceTrouble(3.0)
    trouble.see(1000.0, "gone")
    assert (trouble.at, trouble.error) == (1003.0, "")
    trouble.see(1001.0, "garbage")
    assert trouble.at == 1003.0
    assert trouble.take() == trouble.error == "garbage"
    assert trouble.at == math.inf
    trouble.see(1010.0, "")
    assert trouble.at == 1010.0
    assert trouble.take() == ""


class TestStatistics:
    @pytest.mark.parametrize(
        ("event", "counted"),
        [
            (events.LeaseRenewed(generation=1, duration=1.0, shortened=False), "renewals"),
            (events.LeaseRevoked(generation=1), "revocations"),
            (events.LoginRejected(generation=1, current=True, reason="pg_hba"), "rejected_logins"),
            (events.FetchFailed(error="e", failures=1, retry_in=1.0), "failed_fetches"),
            (events.RenewalFailed(generation=1, error="e", retry_in=1.0), "failed_renewals"),
            (events.RevocationFailed(generation=1, error="e", final=True), "failed_revocations"),
        ],
    )
    def test_each_event_is_counted_once(self, event: events.Event, counted: str) -> None:
        statistics = Statistics()
        statistics.count([a.Fetch(), a.Report(event)], issued=7)
        counts = statistics.counts
        assert (counts.fetches, counts.grants, getattr(counts, counted)) == (1, 7, 1)

    def test_refused_logins_are_counted_by_their_reason(self) -> None:
        statistics = Statistics()
        refused = events.LoginRejected(generation=1, current=True, reason="pg_hba")
        statistics.count([a.Report(refused), a.Report(refused)], issued=1)
        by_reason = {"credentials": 0, "pg_hba": 2, "server": 0, "client": 0}
        assert statistics.counts.rejected_by_reason == by_reason

    @pytest.mark.parametrize(("previous", "rotations"), [(None, 0), (1, 1)])
    def test_the_first_publication_is_no_rotation(
        self, previous: int | None, rotations: int
    ) -> None:
        statistics = Statistics()
        published = events.CredentialsPublished(
            generation=2, username="u", previous=previous, proven=True
        )
        statistics.count([a.Report(published)], issued=2)
        assert statistics.counts.rotations == rotations

    def test_the_last_failure_may_be_the_sources(self) -> None:
        statistics = Statistics()
        error = ProviderUnavailable("away")
        statistics.note_error(error)
        assert statistics.last_error is error
        assert statistics.last_failure == "ProviderUnavailable: away"
        statistics.count([a.Report(events.SourceUnusable(error="gone"))], issued=0)
        assert statistics.last_failure == "gone"
        assert statistics.last_error is error
