"""What several pools on one keeper mean for a generation: joining, proof, and what is borrowed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from lifecycle_driver import Driver, grant

from ephemeral_creds import events
from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.exceptions import AccessDenied, LeaseLost, ProviderUnavailable
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
)
from ephemeral_creds.lifecycle.machine import State
from ephemeral_creds.lifecycle.policy import RefreshPolicy, Tuning
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    Close,
    ConsumerLeft,
    ConsumerReleased,
    Granted,
    LoginAccepted,
    LoginRejected,
    RefreshRequested,
    Renewed,
    Revoked,
    SourceChanged,
    Start,
)

if TYPE_CHECKING:
    from ephemeral_creds.lifecycle.actions import Action

AWAY = ProviderUnavailable("vault is away")


def candidate(
    pools: int,
    tuning: Tuning | None = None,
    *,
    proof_timeout: float = 30.0,
    mint_interval: float = 10.0,
) -> Driver:
    """A machine whose second generation is being proven by `pools` pools."""
    policy = RefreshPolicy(
        jitter=0.0,
        proof_timeout=proof_timeout,
        mint_interval=mint_interval,
        _tuning=tuning or Tuning(),
    )
    driver = Driver(policy, pools=pools).serving()
    driver.send(RefreshRequested())
    proofs = driver.send(Granted(grant(2, driver.now)))
    assert asked(proofs) == list(range(1, pools + 1))
    return driver


def asked(wanted: list[Action]) -> list[int]:
    return [action.consumer for action in wanted if isinstance(action, Prove)]


def kinds(wanted: list[Action]) -> list[type[Action]]:
    return [type(action) for action in wanted]


def in_use(driver: Driver) -> int:
    assert driver.machine.current is not None
    return driver.machine.current.generation


class TestJoining:
    def test_a_generation_is_kept_for_a_pool_from_its_joining(self) -> None:
        driver = candidate(pools=1)
        given = driver.machine.join(2)
        assert given is not None
        assert given.generation == 1
        assert kinds(driver.send(LoginAccepted(1, 2))) == [Publish, Retire]
        assert driver.send(ConsumerReleased(1, 1)) == []
        assert kinds(driver.send(ConsumerReleased(2, 1))) == [Revoke]

    def test_one_that_joins_while_the_last_other_leaves_holds_it_alone(self) -> None:
        driver = candidate(pools=1)
        driver.machine.join(2)
        driver.send(LoginAccepted(1, 2))
        assert driver.send(ConsumerLeft(1)) == []
        assert kinds(driver.send(ConsumerReleased(2, 1))) == [Revoke]

    def test_one_that_joins_during_the_proof_holds_what_is_published(self) -> None:
        driver = candidate(pools=1)
        driver.machine.join(2)
        driver.send(LoginAccepted(1, 2))
        driver.send(RefreshRequested())
        driver.at(1010.0)
        driver.send(Granted(grant(3, driver.now)))
        driver.send(LoginAccepted(1, 3))
        assert kinds(driver.send(LoginAccepted(2, 3))) == [Publish, Retire]
        assert driver.send(ConsumerReleased(1, 2)) == []
        assert kinds(driver.send(ConsumerReleased(2, 2))) == [Revoke]

    def test_credentials_published_after_the_last_pool_left_are_not_revoked(self) -> None:
        driver = candidate(pools=1)
        assert kinds(driver.send(ConsumerLeft(1))) == [Publish, Retire, Revoke]
        driver.send(Revoked(1))
        driver.send(RefreshRequested())
        driver.at(1010.0)
        assert kinds(driver.send(Granted(grant(3, driver.now)))) == [Publish, Retire]
        assert driver.machine.retired == (2,)

    def test_before_the_first_grant_there_is_nothing_to_hand_out(self) -> None:
        assert Driver(pools=0).machine.join(1) is None

    def test_once_closed_there_is_nothing_to_hand_out(self) -> None:
        driver = Driver()
        assert driver.send(Close()) == [Stop()]
        assert driver.machine.join(2) is None


class TestProofs:
    def test_each_pool_has_its_own_attempts(self) -> None:
        """A replica that lags refuses the first login of every pool, however many there are."""
        driver = candidate(pools=8)
        for pool in range(1, 9):
            assert driver.send(LoginRejected(pool, 2, LoginFailure.CREDENTIALS)) == []
        assert asked(driver.after(1.0)) == list(range(1, 9))
        for pool in range(1, 8):
            assert driver.send(LoginAccepted(pool, 2)) == []
        assert kinds(driver.send(LoginAccepted(8, 2))) == [Publish, Retire]
        assert driver.machine.counts.fetches == 2

    def test_an_attempt_counts_once(self) -> None:
        driver = candidate(pools=1, tuning=Tuning(proof_attempts=2))
        for _ in range(10):
            driver.send(LoginRejected(1, 2, LoginFailure.CREDENTIALS))
        assert driver.machine.counts.rejected_logins == 1
        assert asked(driver.after(1.0)) == [1]

    def test_a_pool_that_has_not_answered_is_not_asked_again(self) -> None:
        """One server hangs, the other says no: what is asked of the first must not pile up."""
        driver = candidate(pools=2, tuning=Tuning(proof_attempts=1000), proof_timeout=100.0)
        for delay in (1.0, 2.0, 4.0, 8.0, 16.0):
            driver.send(LoginRejected(2, 2, LoginFailure.UNREACHABLE))
            assert asked(driver.after(delay)) == [2]

    def test_a_pool_that_does_not_answer_does_not_hold_it_up(self) -> None:
        driver = candidate(pools=2)
        driver.send(LoginAccepted(1, 2))
        assert driver.after(29.9) == []
        assert Publish in kinds(driver.after(0.1))
        assert not driver.events_of(events.CredentialsPublished)[-1].proven

    def test_a_refused_pool_delays_the_candidate_until_it_is_accepted(self) -> None:
        driver = candidate(pools=2)
        driver.send(LoginRejected(1, 2, LoginFailure.CREDENTIALS))
        wanted = driver.after(40.0)
        assert asked(wanted) == [1]
        assert driver.send(LoginAccepted(2, 2)) == []
        assert Publish not in kinds(wanted)
        # What is left has had its time.
        assert kinds(driver.send(LoginAccepted(1, 2))) == [Publish, Retire]

    def test_without_a_fallback_nothing_is_called_proven(self) -> None:
        driver = Driver().serving(60.0)
        driver.after(30.0)
        driver.failed(LeaseLost("lease not found"))
        driver.at(1060.0)
        driver.send(Granted(grant(2, driver.now)))
        assert not driver.events_of(events.CredentialsPublished)[-1].proven

    def test_when_all_asked_pools_have_left_new_pools_are_asked(self) -> None:
        driver = candidate(1)
        driver.machine.join(2)
        assert asked(driver.send(ConsumerLeft(1))) == [2]
        assert kinds(driver.send(LoginAccepted(2, 2)))[:2] == [Publish, Retire]
        assert driver.events_of(events.CredentialsPublished)[-1].proven

    @pytest.mark.parametrize("accepted", [False, True])
    def test_a_pool_that_leaves_proves_nothing(self, accepted: bool) -> None:
        driver = candidate(2)
        driver.send(LoginAccepted(1, 2) if accepted else ConsumerLeft(1))
        driver.send(ConsumerLeft(2))
        assert driver.events_of(events.CredentialsPublished)[-1].proven is accepted

    def test_a_condemned_one_is_not_replaced_twice(self) -> None:
        driver = candidate(pools=1, tuning=Tuning(proof_attempts=1), mint_interval=0.0)
        driver.send(SourceChanged())
        driver.send(LoginRejected(1, 2, LoginFailure.CREDENTIALS))
        driver.send(Granted(grant(3, driver.now)))
        driver.send(LoginAccepted(1, 3))
        assert driver.machine.settled
        assert driver.machine.counts.fetches == 3

    def test_a_source_that_returns_to_the_current_credentials_ends_the_proof(self) -> None:
        driver = Driver(mints=False).serving(math.inf)
        driver.send(SourceChanged())
        driver.send(Granted(grant(2, driver.now, math.inf)))
        driver.send(SourceChanged())
        assert kinds(driver.send(Granted(grant(1, driver.now, math.inf)))) == [Retire]
        assert driver.send(LoginAccepted(1, 2)) == []
        assert in_use(driver) == 1
        assert driver.machine.settled


class TestLateRenewals:
    def renewing(self) -> Driver:
        """The first generation is replaced, still borrowed, and its renewal is on its way."""
        driver = Driver().serving(60.0)
        driver.after(5.0, RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        driver.send(LoginAccepted(1, 2))
        assert kinds(driver.at(1030.0)) == [Renew]
        return driver

    def test_a_late_renewal_keeps_a_borrowed_generation(self) -> None:
        driver = self.renewing()
        lease = Lease(1030.0, 60.0, renewable=True, lease_id="lease-1")
        assert kinds(driver.at(1060.5)) == [Reclaim]
        driver.send(Renewed(1, lease))
        assert driver.machine.retired == (1,)
        # Due again since 1060, and renewed for as long as it is borrowed.
        assert isinstance(driver.in_flight, Renew)

    def test_it_is_revoked_when_it_is_released(self) -> None:
        driver = self.renewing()
        driver.at(1060.5)
        driver.send(ConsumerReleased(1, 1))
        lease = Lease(1030.0, 60.0, renewable=True, lease_id="lease-1")
        assert kinds(driver.send(Renewed(1, lease))) == [Revoke]

    @pytest.mark.parametrize("error", [AWAY, LeaseLost("lease not found"), AccessDenied("403")])
    def test_a_failure_means_that_it_has_ended(self, error: Exception) -> None:
        driver = self.renewing()
        driver.at(1060.5)
        driver.failed(error)
        assert driver.machine.retired == ()
        assert driver.send(ConsumerReleased(1, 1)) == []

    def test_an_answer_about_a_lease_that_has_ended_is_no_life(self) -> None:
        driver = self.renewing()
        driver.at(1060.5)
        driver.send(Renewed(1, Lease(1030.0, 30.0, renewable=True, lease_id="lease-1")))
        assert driver.machine.retired == ()

    def test_the_one_in_use_that_lapsed_is_not_revoked_either(self) -> None:
        driver = Driver(RefreshPolicy(proof_timeout=100.0)).serving(60.0)
        driver.after(29.0, RefreshRequested())
        driver.send(Granted(grant(2, driver.now)))
        assert kinds(driver.at(1030.0)) == [Renew]
        wanted = driver.at(1060.0)
        assert kinds(wanted) == [Expire, Publish, Retire, Reclaim]
        driver.send(Renewed(1, Lease(1030.0, 60.0, renewable=True, lease_id="lease-1")))
        assert driver.machine.retired == (1,)
        assert not isinstance(driver.in_flight, Revoke)

    def test_without_pools_a_replaced_one_is_not_renewed_for_ever(self) -> None:
        driver = Driver(pools=0).serving(60.0)
        driver.after(29.0, RefreshRequested())
        answer = Granted(grant(2, driver.now, 3600.0))
        driver.after(1.0)
        driver.send(answer)
        assert driver.in_flight is None
        driver.at(1060.0)
        assert driver.machine.retired == ()


class TestReturning:
    @pytest.mark.parametrize("error", [AWAY, AccessDenied("403")])
    def test_a_renewal_that_fails_does_not_put_the_revocation_off(self, error: Exception) -> None:
        driver = Driver().serving()
        driver.at(driver.machine.deadline)
        assert isinstance(driver.in_flight, Renew)
        assert driver.send(Close()) == []
        assert kinds(driver.failed(error)) == [Revoke]

    def test_a_failed_renewal_does_not_count_as_an_attempt_to_revoke(self) -> None:
        driver = candidate(pools=1, tuning=Tuning(revoke_attempts=2))
        driver.send(LoginAccepted(1, 2))
        assert [a.grant.generation for a in driver.after(2400.0) if isinstance(a, Renew)] == [1]
        driver.send(ConsumerReleased(1, 1))
        driver.failed(AWAY)
        assert isinstance(driver.in_flight, Revoke | Renew)
        while not isinstance(driver.in_flight, Revoke):
            driver.renewed(2, 3600.0)
        driver.failed(AWAY)
        assert not driver.events_of(events.RevocationFailed)[-1].final

    def test_a_lease_that_is_gone_needs_no_revocation(self) -> None:
        driver = Driver().serving()
        driver.at(driver.machine.deadline)
        driver.send(Close())
        assert driver.failed(LeaseLost("lease not found")) == [Stop()]
        assert driver.machine.state is State.CLOSED


class TestNothingToGiveBack:
    def test_without_pools_and_lease_a_replaced_grant_is_forgotten(self) -> None:
        driver = Driver(mints=False, pools=0).serving(math.inf)
        for number in range(2, 50):
            driver.after(1.0, SourceChanged())
            driver.send(Granted(grant(number, driver.now, math.inf)))
        assert in_use(driver) == 49
        assert driver.machine.retired == ()


class TestSettled:
    def test_a_replacement_that_is_only_foreseen_leaves_it_settled(self) -> None:
        driver = Driver().serving(renewable=False)
        assert driver.machine.settled
        driver.send(RefreshRequested())
        assert not driver.machine.settled
        driver.send(Granted(grant(2, driver.now, renewable=False)))
        assert not driver.machine.settled
        driver.send(LoginAccepted(1, 2))
        assert in_use(driver) == 2
        assert driver.machine.settled

    def test_failed_renewals_leave_it_settled_until_a_replacement_is_wanted(self) -> None:
        driver = Driver().serving()
        driver.after(2400.0)
        driver.failed(AccessDenied("no sys/leases/renew"))
        assert driver.machine.settled
        driver.send(RefreshRequested())
        driver.failed(AWAY)
        assert not driver.machine.settled

    def test_a_wish_outlives_the_renewals_that_failed(self) -> None:
        driver = Driver(RefreshPolicy(jitter=0.0, mint_burst=1, mint_interval=9999.0)).serving()
        driver.after(2400.0)
        driver.failed(AccessDenied("no sys/leases/renew"))
        while driver.now < 1000.0 + 3000.0:
            if driver.at(driver.machine.deadline):
                driver.failed(AWAY)
        assert not driver.machine.settled
        assert isinstance(driver.at(driver.machine.deadline)[0], Renew)
        driver.send(RefreshRequested())
        driver.renewed(1, 3600.0)
        assert not driver.machine.settled


class TestRefusals:
    def same(self, driver: Driver) -> Grant:
        credentials = Credentials("app", Secret("refused-password"))
        return Grant(credentials, Lease(driver.now, 3600.0))

    def test_a_refusal_is_answered_although_a_replacement_is_foreseen(self) -> None:
        driver = Driver(RefreshPolicy(jitter=0.0), mints=False)
        driver.send(Start())
        driver.send(Granted(self.same(driver)))
        driver.after(10.0, LoginRejected(1, 1, LoginFailure.CREDENTIALS))
        assert driver.in_flight is not None
        driver.send(Granted(self.same(driver)))
        assert driver.after(5.0, LoginRejected(1, 1, LoginFailure.CREDENTIALS)) == []
        # Not at once: a server that refuses them all is not hammered.
        assert driver.machine.deadline - driver.now == 30.0
        for _ in range(4):
            driver.after(5.0, LoginRejected(1, 1, LoginFailure.CREDENTIALS))
        driver.after(10.0)
        assert driver.in_flight is not None

    def test_one_that_another_fetch_answers_does_not_make_the_next_wait_longer(self) -> None:
        driver = Driver(RefreshPolicy(jitter=0.0), mints=False)
        driver.send(Start())
        driver.send(Granted(self.same(driver)))
        assert driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS)) == [Fetch()]
        driver.send(Granted(self.same(driver)))
        for _ in range(7):
            driver.send(RefreshRequested())
            driver.failed(AWAY)
            driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS))
            assert driver.after(1.0) == [Fetch(driver.machine.current)]
            driver.send(Granted(self.same(driver)))
        driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS))
        assert driver.machine.deadline - driver.now == 30.0

    def healed(self, driver: Driver, made: int) -> None:
        """Let the fetch in flight bring a role that works."""
        driver.send(Granted(grant(made, driver.now, 86400.0)))
        driver.send(LoginAccepted(1, made))
        assert in_use(driver) == made

    @pytest.mark.parametrize("later", [0.0, 5.0, 59.0, 7200.0])
    def test_one_that_worked_is_replaced_as_fast_as_the_limiter_allows(self, later: float) -> None:
        driver = Driver(RefreshPolicy(jitter=0.0, mint_burst=1, mint_interval=10.0))
        driver.serving(86400.0).after(3600.0)
        for made in range(2, 6):
            wanted = driver.after(later, LoginRejected(1, made - 1, LoginFailure.CREDENTIALS))
            if not wanted:
                assert later < 10.0
                wanted = driver.after(10.0 - later)
            assert wanted == [Fetch()]
            self.healed(driver, made)

    def test_the_delays_of_one_that_never_worked_hold_up_no_other_pool(self) -> None:
        """Both share the keeper; the address of the first is that of some other server."""
        driver = Driver(pools=0).serving(86400.0)
        driver.machine.join(1)
        driver.after(30.0, LoginRejected(1, 1, LoginFailure.CREDENTIALS))
        driver.send(Granted(grant(2, driver.now, 86400.0)))
        driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS))
        assert in_use(driver) == 2
        driver.machine.join(2)
        driver.send(LoginAccepted(2, 2))
        assert driver.after(40.0, LoginRejected(1, 2, LoginFailure.CREDENTIALS)) == []
        assert driver.machine.deadline - driver.now == 30.0
        assert driver.send(LoginRejected(2, 2, LoginFailure.CREDENTIALS)) == [Fetch()]

    def test_one_that_worked_and_stays_the_same_is_not_read_in_a_loop(self) -> None:
        driver = Driver(RefreshPolicy(jitter=0.0), mints=False)
        driver.send(Start())
        driver.send(Granted(self.same(driver)))
        driver.send(LoginAccepted(1, 1))
        assert driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS)) == [Fetch()]
        driver.send(Granted(self.same(driver)))
        assert driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS)) == []
        assert driver.machine.deadline - driver.now == 30.0

    def test_more_refusals_do_not_repeat_a_failed_fetch(self) -> None:
        driver = Driver(mints=False, pools=2).serving(math.inf)
        driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS))
        driver.failed(AccessDenied("not readable"))
        assert driver.send(LoginRejected(2, 1, LoginFailure.CREDENTIALS)) == []
        assert driver.machine.deadline - driver.now == 30.0
