"""The rules about time, one test each, named by what they demand."""

from __future__ import annotations

import math

import pytest
from lifecycle_driver import Driver, grant

from ephemeral_creds import events
from ephemeral_creds._values import Lease
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    LeaseLost,
    ProviderUnavailable,
)
from ephemeral_creds.lifecycle.actions import (
    Expire,
    Fetch,
    Prove,
    Publish,
    Reclaim,
    Renew,
    Retire,
    Revoke,
    Stop,
    Suspect,
)
from ephemeral_creds.lifecycle.machine import State
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    Close,
    ConsumerLeft,
    ConsumerReleased,
    Failed,
    Granted,
    LoginAccepted,
    LoginRejected,
    RefreshRequested,
    Renewed,
    Revoked,
    SourceChanged,
    Start,
    Tick,
)
from ephemeral_creds.lifecycle.wishes import CHANGE_BURST, CHANGE_INTERVAL

AWAY = ProviderUnavailable("vault is away")


def number(action: object) -> int:
    """Return the generation that an action is about."""
    assert isinstance(action, Publish | Retire | Revoke | Renew | Prove | Reclaim)
    return action.grant.generation


def rotate(driver: Driver, generation: int, duration: float = 3600.0) -> list[object]:
    """Answer the fetch in flight and accept the proof."""
    assert isinstance(driver.in_flight, Fetch)
    wanted = driver.send(Granted(grant(generation, driver.now, duration)))
    assert [type(a) for a in wanted] == [Prove]
    return list(driver.send(LoginAccepted(1, generation)))


def minted_at(driver: Driver) -> float:
    """Let all renewals fail until new credentials are fetched, and return when that is."""
    while driver.in_flight != Fetch():
        if driver.in_flight is not None:
            driver.failed(AWAY)
        else:
            driver.at(driver.machine.deadline)
    return driver.now


class TestStart:
    def test_first_grant_is_published_without_proof(self) -> None:
        driver = Driver()
        assert driver.send(Start()) == [Fetch()]
        (published,) = driver.send(Granted(grant(1, driver.now)))
        assert isinstance(published, Publish)
        assert published.grant.generation == 1
        assert driver.machine.state is State.SERVING

    def test_r6_an_absent_vault_is_asked_again_for_ever_with_growing_delays(self) -> None:
        driver = Driver(mints=False)
        driver.send(Start())
        delays = []
        for _ in range(10):
            assert driver.failed(AWAY) == []
            delays.append(driver.machine.deadline - driver.now)
            assert driver.at(driver.machine.deadline) == [Fetch()]
        assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]

    def test_r18_configuration_errors_are_retried_slowly(self) -> None:
        driver = Driver()
        driver.send(Start())
        driver.failed(ConfigurationError("no such role"))
        assert driver.machine.deadline - driver.now == 30.0

    def test_r18_the_servers_own_wish_is_honoured(self) -> None:
        driver = Driver()
        driver.send(Start())
        driver.failed(ProviderUnavailable("quota", status=429, retry_after=17.0))
        assert driver.machine.deadline - driver.now == 17.0

    def test_r6_the_servers_own_wish_is_no_reason_to_stop_asking(self) -> None:
        driver = Driver()
        driver.send(Start())
        driver.failed(ProviderUnavailable("quota", status=429, retry_after=86400.0))
        assert driver.machine.deadline - driver.now == 300.0

    def test_r6_retry_after_does_not_let_the_credentials_in_use_expire(self) -> None:
        """Each wish is granted half of what is left at most, down to our own pace."""
        driver = Driver().serving(600.0)
        refused = ProviderUnavailable("quota", status=429, retry_after=86400.0)
        asked = []
        while driver.now < 1600.0:
            while driver.in_flight is not None:
                asked.append((type(driver.in_flight), driver.now - 1000.0))
                driver.failed(refused)
            driver.at(driver.machine.deadline)
        assert asked[:4] == [(Renew, 400.0), (Renew, 500.0), (Fetch, 500.0), (Renew, 550.0)]
        assert driver.machine.state is State.ACQUIRING
        assert driver.machine.deadline - driver.now <= 300.0

    def test_an_answer_that_took_longer_than_the_lease_is_a_failure(self) -> None:
        driver = Driver()
        driver.send(Start())
        slow = grant(1, driver.now, 5.0)
        driver.after(6.0)
        assert driver.send(Granted(slow)) == []
        assert driver.machine.usable(driver.now) is None
        assert driver.events_of(events.FetchFailed)


class TestRenewal:
    def test_r1_renews_at_two_thirds(self) -> None:
        driver = Driver().serving(3600.0)
        assert driver.machine.deadline == driver.now + 2400.0
        (renew,) = driver.after(2400.0)
        assert isinstance(renew, Renew)

    def test_r1_never_later_than_the_margin_before_the_end(self) -> None:
        driver = Driver(RefreshPolicy(renew_at=0.95)).serving(120.0)
        assert driver.machine.deadline == driver.now + 90.0

    def test_r1_short_leases_are_renewed_at_half(self) -> None:
        driver = Driver().serving(4.0)
        assert driver.machine.deadline == driver.now + 2.0

    def test_r1_jitter_only_makes_it_earlier(self) -> None:
        policy = RefreshPolicy()
        assert policy.renew_after(3600.0, 1.0) == pytest.approx(2160.0)
        assert policy.renew_after(3600.0, 0.0) == pytest.approx(2400.0)

    def test_the_next_renewal_counts_from_when_this_one_was_sent(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.renewed(1, 3600.0)
        assert driver.machine.deadline == driver.now + 2400.0

    def test_pools_hear_of_each_deadline_that_moves(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.renewed(1, 3600.0)
        assert [g.lease.expires_at for g in driver.extended] == [driver.now + 3600.0]

    def test_r2_a_shorter_answer_replaces_now(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        assert driver.renewed(1, 1200.0) == [Fetch()]
        assert driver.events_of(events.LeaseRenewed)[0].shortened

    def test_r2_rounding_is_not_a_shorter_answer(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        assert driver.renewed(1, 3599.0) == []

    def test_r2_a_lease_that_cannot_be_renewed_is_replaced_early(self) -> None:
        driver = Driver().serving(3600.0, renewable=False)
        assert driver.after(2400.0) == [Fetch()]

    def test_without_an_end_nothing_is_planned(self) -> None:
        driver = Driver(mints=False).serving(math.inf, renewable=False)
        assert driver.machine.deadline == math.inf

    def test_r2_a_shortened_lease_is_not_renewed_again(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.renewed(1, 1200.0)
        while driver.now < 1000.0 + 3600.0:
            if driver.in_flight is not None:
                assert driver.in_flight == Fetch()
                driver.failed(AWAY)
            driver.at(driver.machine.deadline)

    def test_r2_a_renewal_is_compared_with_the_last_fetch(self) -> None:
        driver = Driver().serving(3600.0)
        driver.send(RefreshRequested())
        driver.send(Granted(grant(1, driver.now, 600.0)))
        driver.after(400.0)
        assert driver.renewed(1, 600.0) == []
        assert not driver.events_of(events.LeaseRenewed)[0].shortened

    def test_a_lease_that_was_asked_for_earlier_changes_nothing(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.send(Renewed(1, Lease(900.0, 9000.0, renewable=True, lease_id="lease-1")))
        assert driver.extended == []
        assert driver.machine.current is not None
        assert driver.machine.current.lease.expires_at == 4600.0

    def test_r4_failed_renewals_back_off_and_do_not_mint_before_half_of_what_is_left(
        self,
    ) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.failed(AWAY)
        fetched_at = None
        while fetched_at is None:
            wanted = driver.at(driver.machine.deadline)
            if Fetch() in wanted:
                fetched_at = driver.now
            else:
                assert [type(a) for a in wanted] == [Renew]
                driver.failed(AWAY)
        assert fetched_at == 1000.0 + 2400.0 + 600.0

    def test_r4_failures_from_before_it_was_in_use_do_not_count(self) -> None:
        driver = Driver().serving(3600.0)
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now, 300.0)))
        (renew,) = driver.after(200.0)
        assert isinstance(renew, Renew)
        driver.failed(AWAY)
        driver.send(LoginAccepted(1, 2))
        while not isinstance(driver.in_flight, Fetch):
            if driver.in_flight is not None:
                driver.failed(AWAY)
            driver.at(driver.machine.deadline)
        assert driver.now == 1000.0 + 200.0 + 50.0

    def test_r4_a_renewal_that_works_again_calls_the_mint_off(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.failed(AWAY)
        driver.at(driver.machine.deadline)
        driver.renewed(1, 3600.0)
        assert driver.after(700.0) == []
        assert driver.machine.counts.fetches == 1

    def test_r4_even_where_minting_has_failed_as_well(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        while driver.machine.counts.failed_fetches < 3:
            driver.failed(AWAY)
            driver.at(driver.machine.deadline)
        while not isinstance(driver.in_flight, Renew):
            driver.failed(AWAY)
            driver.at(driver.machine.deadline)
        assert not driver.machine.settled
        assert driver.renewed(1, 3600.0) == []
        assert driver.machine.settled

    @pytest.mark.parametrize("fetching", [False, True])
    def test_r4_a_refresh_requested_meanwhile_is_not_delayed(self, fetching: bool) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.failed(AWAY)
        # As after a suspend: the next renewal and the mint are due at once.
        driver.now += 700.0
        assert [type(a) for a in driver.send(Tick())] == [Renew]
        if not fetching:
            driver.send(RefreshRequested())
        assert driver.failed(AWAY) == [Fetch()]
        if fetching:
            driver.send(RefreshRequested())
        driver.failed(AccessDenied("no creds/app"))
        assert [type(a) for a in driver.at(driver.machine.deadline)] == [Renew]
        driver.renewed(1, 3600.0)
        assert not driver.machine.settled
        assert driver.after(30.0) == [Fetch()]

    def test_r4_each_row_of_failures_leads_to_a_mint(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.failed(AWAY)
        driver.at(driver.machine.deadline)
        driver.renewed(1, 3600.0)
        assert minted_at(driver) == driver.now == 1000.0 + 2401.0 + 2400.0 + 600.0

    def test_r4_those_of_a_candidate_do_not_count(self) -> None:
        driver = Driver().serving(86400.0)
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now, 60.0)))
        driver.after(30.0)
        driver.failed(AWAY)
        driver.send(LoginAccepted(1, 2))
        assert minted_at(driver) == 1045.0

    def test_r2_a_lost_lease_is_replaced_at_once(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        assert [type(a) for a in driver.failed(LeaseLost("lease not found"))] == [Suspect, Fetch]

    def test_a_denied_renewal_is_retried_slowly_and_then_replaced(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.failed(AccessDenied("no sys/leases/renew"))
        assert driver.machine.deadline - driver.now == 30.0

    def test_the_deadline_is_anchored_where_the_request_was_sent(self) -> None:
        driver = Driver()
        driver.send(Start())
        sent = grant(1, driver.now, 100.0)
        driver.after(20.0)
        driver.send(Granted(sent))
        assert driver.machine.usable(1099.9) is not None
        assert driver.machine.usable(1100.0) is None


class TestMinting:
    def test_r4_one_limiter_for_all_reasons(self) -> None:
        driver = Driver(RefreshPolicy(mint_interval=10.0, mint_burst=2)).serving()
        driver.send(RefreshRequested())
        rotate(driver, 2)
        driver.send(SourceChanged())
        assert driver.in_flight is None
        assert driver.machine.deadline == 1010.0
        driver.send(LoginRejected(1, 2, LoginFailure.CREDENTIALS))
        assert driver.in_flight is None
        assert driver.at(1010.0) == [Fetch()]

    def test_r4_fetches_that_mint_nothing_are_not_limited(self) -> None:
        driver = Driver(mints=False).serving(math.inf)
        for generation in range(2, 12):
            driver.send(SourceChanged())
            rotate(driver, generation, math.inf)

    def test_r5_triggers_join_one_refresh(self) -> None:
        driver = Driver().serving()
        assert driver.send(RefreshRequested()) == [Fetch()]
        assert driver.send(RefreshRequested()) == []
        assert driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS)) == []
        rotate(driver, 2)
        assert driver.in_flight is None
        assert driver.machine.settled

    def test_r5_a_refused_login_of_an_older_generation_needs_nothing(self) -> None:
        driver = Driver().serving()
        driver.send(RefreshRequested())
        rotate(driver, 2)
        assert driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS)) == []
        assert driver.machine.settled

    def test_a_change_during_a_fetch_is_fetched_after_it(self) -> None:
        driver = Driver(mints=False).serving(math.inf)
        driver.send(SourceChanged())
        assert driver.send(SourceChanged()) == []
        assert Fetch() in driver.send(Granted(grant(2, driver.now, math.inf)))

    def test_a_change_during_a_fetch_that_fails_is_fetched_at_once(self) -> None:
        driver = Driver(mints=False)
        driver.send(Start())
        for _ in range(8):
            driver.failed(AWAY)
            driver.at(driver.machine.deadline)
        driver.send(SourceChanged())
        assert driver.failed(AWAY) == [Fetch()]
        assert driver.events_of(events.FetchFailed)[-1].retry_in == 0.0
        # It was one change: the next failure is followed by its full delay.
        driver.failed(AWAY)
        assert driver.machine.deadline - driver.now == 60.0

    def test_a_source_that_changes_in_a_loop_and_fails_is_asked_at_its_pace(self) -> None:
        driver = Driver(mints=False)
        driver.send(Start())
        asked = 0
        until = driver.now + 10.0
        while driver.now < until:
            while driver.in_flight is not None:
                driver.send(SourceChanged())
                driver.failed(AWAY)
                asked += 1
            driver.at(driver.machine.deadline)
        assert asked <= 1 + CHANGE_BURST + 10.0 / CHANGE_INTERVAL

    def test_r10_a_server_that_refuses_all_roles_is_not_fed_with_more(self) -> None:
        """An hour of refusals mints a role a minute at most, and each is revoked."""
        driver = Driver().serving()
        made = 1
        end = driver.now + 3600.0
        while driver.now < end:
            assert driver.machine.current is not None
            refused = driver.machine.current.generation
            driver.after(0.25, LoginRejected(1, refused, LoginFailure.CREDENTIALS))
            driver.send(ConsumerReleased(1, refused - 1))
            match driver.in_flight:
                case Fetch():
                    made += 1
                    driver.send(Granted(grant(made, driver.now)))
                case Revoke(given):
                    driver.send(Revoked(given.generation))
                case Renew(given):
                    driver.renewed(given.generation, 3600.0)
                case None:
                    pass
        assert 30 <= made <= 62
        assert len(driver.machine._core.generations) <= 3
        assert driver.machine.usable(driver.now) is not None


class TestProof:
    def test_r9_the_old_generation_serves_until_the_new_one_is_proven(self) -> None:
        driver = Driver().serving()
        driver.send(RefreshRequested())
        (prove,) = driver.send(Granted(grant(2, driver.now)))
        assert number(prove) == 2
        assert driver.machine.current is not None
        assert driver.machine.current.generation == 1
        publish, retire = driver.send(LoginAccepted(1, 2))
        assert (type(publish), number(publish)) == (Publish, 2)
        assert (type(retire), number(retire)) == (Retire, 1)

    def test_r9_every_pool_has_to_prove_it(self) -> None:
        driver = Driver(pools=2).serving()
        driver.send(RefreshRequested())
        assert len(driver.send(Granted(grant(2, driver.now)))) == 2
        assert driver.send(LoginAccepted(1, 2)) == []
        assert [type(a) for a in driver.send(LoginAccepted(2, 2))] == [Publish, Retire]

    def test_r9_a_refused_proof_is_repeated_since_a_replica_may_lag(self) -> None:
        driver = Driver().serving()
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        assert driver.send(LoginRejected(1, 2, LoginFailure.CREDENTIALS)) == []
        # A sidecar may hand over a second before the end: this must leave most of it.
        (again,) = driver.after(0.1)
        assert isinstance(again, Prove)
        assert [type(a) for a in driver.send(LoginAccepted(1, 2))] == [Publish, Retire]

    def test_an_unproven_candidate_takes_over_when_the_old_one_ends(self) -> None:
        driver = Driver().serving(3600.0, renewable=False)
        driver.after(2400.0)
        driver.after(1180.0, Granted(grant(2, driver.now + 1180.0)))
        driver.send(LoginRejected(1, 2, LoginFailure.CREDENTIALS))
        wanted = driver.after(20.0)
        assert [number(a) for a in wanted if isinstance(a, Publish)] == [2]

    def test_an_unproven_candidate_takes_over_when_the_old_one_is_refused(self) -> None:
        driver = Driver().serving()
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        assert Publish in [
            type(a) for a in driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS))
        ]

    def test_a_newer_change_supersedes_an_unproven_candidate(self) -> None:
        driver = Driver(mints=False).serving(math.inf)
        driver.send(SourceChanged())
        driver.send(Granted(grant(2, driver.now, math.inf)))
        assert driver.send(SourceChanged()) == [Fetch()]
        wanted = driver.send(Granted(grant(3, driver.now, math.inf)))
        assert [(type(a), number(a)) for a in wanted] == [(Retire, 2), (Prove, 3)]

    def test_without_pools_nothing_can_be_proven(self) -> None:
        driver = Driver(pools=0).serving()
        driver.send(RefreshRequested())
        published, retired = driver.send(Granted(grant(2, driver.now)))
        assert isinstance(published, Publish)
        assert isinstance(retired, Retire)

    def test_the_same_credentials_again_are_no_new_generation(self) -> None:
        driver = Driver(mints=False).serving(math.inf)
        driver.send(SourceChanged())
        assert driver.send(Granted(grant(1, driver.now, math.inf))) == []
        assert driver.machine.counts.grants == 1
        assert driver.machine.settled


class TestRetirement:
    def rotated(self) -> Driver:
        driver = Driver(pools=2).serving()
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        driver.send(LoginAccepted(1, 2))
        driver.send(LoginAccepted(2, 2))
        return driver

    def test_r14_revoked_when_the_last_pool_released_it(self) -> None:
        driver = self.rotated()
        assert driver.send(ConsumerReleased(1, 1)) == []
        (revoke,) = driver.send(ConsumerReleased(2, 1))
        assert isinstance(revoke, Revoke)
        driver.send(Revoked(1))
        assert driver.machine.retired == ()
        assert driver.machine.counts.revocations == 1

    def test_r14_a_pool_that_left_holds_nothing(self) -> None:
        driver = self.rotated()
        driver.send(ConsumerReleased(1, 1))
        assert [type(a) for a in driver.send(ConsumerLeft(2))] == [Revoke]

    def test_kept_renewed_while_anything_is_borrowed(self) -> None:
        driver = self.rotated()
        wanted = driver.after(2400.0)
        assert [number(a) for a in wanted if isinstance(a, Renew)] == [1]
        driver.renewed(1, 3600.0)
        assert isinstance(driver.in_flight, Renew)
        assert driver.in_flight.grant.generation == 2

    def test_the_one_in_use_cannot_be_released(self) -> None:
        driver = self.rotated()
        driver.send(ConsumerReleased(1, 2))
        assert driver.send(ConsumerReleased(2, 2)) == []
        driver.send(RefreshRequested())
        driver.at(1010.0)
        driver.send(Granted(grant(3, driver.now)))
        driver.send(LoginAccepted(1, 3))
        assert [type(a) for a in driver.send(LoginAccepted(2, 3))] == [Publish, Retire]

    def test_without_pools_it_expires_since_no_pool_reports_its_release(self) -> None:
        driver = Driver(pools=0).serving(3600.0)
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now, 7200.0)))
        wanted = driver.after(3601.0)
        assert not [a for a in wanted if isinstance(a, Revoke)]
        assert [number(a) for a in wanted if isinstance(a, Reclaim)] == [1]

    def test_r14_a_failed_revocation_is_retried_then_left_to_expire(self) -> None:
        driver = self.rotated()
        driver.send(ConsumerReleased(1, 1))
        driver.send(ConsumerReleased(2, 1))
        attempts = 1
        while driver.machine.retired:
            driver.failed(AWAY)
            attempts += bool(driver.at(driver.machine.deadline)) if driver.machine.retired else 0
        assert attempts == 5
        assert driver.events_of(events.RevocationFailed)[-1].final

    def test_r14_a_denied_revocation_is_not_repeated(self) -> None:
        driver = self.rotated()
        driver.send(ConsumerReleased(1, 1))
        driver.send(ConsumerReleased(2, 1))
        driver.failed(AccessDenied("the default policy lacks sys/leases/revoke"))
        assert driver.machine.retired == ()

    def test_a_lease_that_was_lost_needs_no_revocation(self) -> None:
        driver = self.rotated()
        driver.after(2400.0)
        driver.failed(LeaseLost("lease not found"))
        assert driver.machine.retired == ()
        driver.send(ConsumerReleased(1, 1))
        assert not [a for a in driver.send(ConsumerReleased(2, 1)) if isinstance(a, Revoke)]

    def test_a_pool_that_joins_later_holds_the_one_in_use(self) -> None:
        driver = Driver(pools=0).serving()
        driver.machine.join(7)
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        driver.send(LoginAccepted(7, 2))
        assert [type(a) for a in driver.send(ConsumerReleased(7, 1))] == [Revoke]


class TestExpiry:
    def test_r13_past_the_deadline_nothing_logs_in_and_fetching_continues(self) -> None:
        driver = Driver().serving(3600.0)
        driver.after(2400.0)
        driver.failed(AWAY)
        while driver.now < 1000.0 + 3600.0:
            if driver.in_flight is not None:
                driver.failed(AWAY)
            driver.at(min(driver.machine.deadline, 4600.0))
        assert driver.machine.state is State.ACQUIRING
        assert driver.machine.usable(driver.now) is None
        assert driver.events_of(events.LeaseExpired)
        if driver.in_flight is None:
            driver.at(driver.machine.deadline)
        published = driver.send(Granted(grant(2, driver.now)))
        assert [(type(a), number(a)) for a in published] == [
            (Publish, 2),
            (Retire, 1),
            (Reclaim, 1),
        ]
        assert driver.machine.retired == ()

    def test_r3_a_suspend_past_the_deadline_is_noticed_on_waking(self) -> None:
        driver = Driver().serving(3600.0)
        driver.now += 10 * 3600.0
        assert driver.machine.usable(driver.now) is None
        wanted = driver.after(0.0)
        assert [type(a) for a in wanted] == [Expire, Fetch]

    def test_r3_a_renewal_that_is_answered_late_has_it_used_again(self) -> None:
        driver = Driver().serving(60.0)
        driver.at(driver.machine.deadline)
        assert isinstance(driver.in_flight, Renew)
        extended = Lease(driver.now, 60.0, renewable=True, lease_id="lease-1")
        assert [type(a) for a in driver.at(1060.0)] == [Expire]
        assert Publish in [type(a) for a in driver.send(Renewed(1, extended))]
        assert driver.machine.state is State.SERVING

    def test_a_clock_that_goes_back_moves_nothing(self) -> None:
        driver = Driver().serving(4.0)
        driver.after(2.0)
        driver.now -= 100.0
        driver.renewed(1, 4.0)
        assert driver.machine.deadline > 1002.0

    def test_without_grace_a_pool_hears_of_the_end_when_it_comes(self) -> None:
        driver = Driver(RefreshPolicy(grace=0.0)).serving(60.0, renewable=False)
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        driver.send(LoginAccepted(1, 2))
        assert [number(a) for a in driver.after(60.0) if isinstance(a, Reclaim)] == [1]

    def test_a_pool_hears_of_the_end_even_if_the_last_moment_has_come(self) -> None:
        """Found by the property tests: it was told at the next signal only."""
        driver = Driver().serving(60.0)
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        driver.now += 59.0
        wanted = driver.send(LoginAccepted(1, 2))
        assert [number(a) for a in wanted if isinstance(a, Reclaim)] == [1]
        assert driver.machine.deadline > driver.now


class TestClose:
    def test_everything_is_revoked_one_after_the_other(self) -> None:
        driver = Driver().serving()
        driver.send(RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        (first,) = driver.send(Close())
        assert isinstance(first, Revoke)
        (second,) = driver.send(Revoked(1))
        assert isinstance(second, Revoke)
        assert driver.send(Revoked(2)) == [Stop()]
        assert driver.machine.state is State.CLOSED

    def test_credentials_of_a_fetch_in_flight_are_revoked(self) -> None:
        driver = Driver()
        driver.send(Start())
        assert driver.send(Close()) == []
        (revoke,) = driver.send(Granted(grant(1, driver.now)))
        assert isinstance(revoke, Revoke)
        assert driver.send(Revoked(1)) == [Stop()]

    def test_one_attempt_is_all_there_is_time_for(self) -> None:
        driver = Driver().serving()
        driver.send(Close())
        assert driver.failed(AWAY) == [Stop()]

    def test_nothing_is_published_after_it(self) -> None:
        driver = Driver().serving()
        driver.send(RefreshRequested())
        driver.send(Close())
        assert Publish not in [type(a) for a in driver.send(Granted(grant(2, driver.now)))]
        assert driver.machine.usable(driver.now) is None

    def test_before_the_start(self) -> None:
        driver = Driver()
        assert driver.send(Close()) == [Stop()]

    def test_files_have_nothing_to_revoke(self) -> None:
        driver = Driver(mints=False).serving(math.inf)
        assert driver.send(Close()) == [Stop()]


class TestDoubledAnswers:
    def test_an_unrequested_grant_is_revoked(self) -> None:
        driver = Driver().serving()
        (revoke,) = driver.send(Granted(grant(9, driver.now)))
        assert isinstance(revoke, Revoke)

    def test_the_same_grant_twice_is_one(self) -> None:
        driver = Driver().serving()
        assert driver.send(Granted(grant(1, driver.now))) == []
        assert driver.machine.counts.grants == 1

    def test_an_answer_about_another_generation_is_ignored(self) -> None:
        driver = Driver().serving()
        driver.after(2400.0)
        asked = driver.in_flight
        assert isinstance(asked, Renew)
        assert driver.renewed(2, 3600.0) == []
        assert driver.send(Revoked(1)) == []
        assert driver.in_flight is asked

    def test_a_failure_of_nothing_in_flight_is_ignored(self) -> None:
        driver = Driver().serving()
        driver.after(2400.0)
        operation = driver.in_flight
        assert isinstance(operation, Renew)
        driver.failed(AWAY)
        deadline = driver.machine.deadline
        driver.send(Failed(operation, AWAY))
        assert driver.machine.deadline == deadline
        assert driver.machine.counts.failed_renewals == 1
