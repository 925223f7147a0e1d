"""What the machine makes of failed logins: whose fault they are, and how long it has patience."""

from __future__ import annotations

import math

import pytest
from lifecycle_driver import Driver, grant

from ephemeral_creds import events
from ephemeral_creds.lifecycle.actions import Action, Fetch, Prove, Publish, Renew, Retire, Revoke
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    ConsumerLeft,
    ConsumerReleased,
    Granted,
    LoginAccepted,
    LoginRejected,
    RefreshRequested,
    Signal,
    SourceChanged,
    Start,
)

CREDENTIALS, PG_HBA = LoginFailure.CREDENTIALS, LoginFailure.PG_HBA
SERVER, UNREACHABLE = LoginFailure.SERVER, LoginFailure.UNREACHABLE


def published(actions: list[Action]) -> list[int]:
    return [action.grant.generation for action in actions if isinstance(action, Publish)]


def candidate(
    old: float, new: float = 3600.0, *, pools: int = 1, mints: bool = True, renewable: bool = False
) -> Driver:
    """A machine with a second generation to prove, while `old` seconds of the first are left."""
    driver = Driver(RefreshPolicy(jitter=0.0), pools=pools, mints=mints)
    driver.serving(old, renewable=renewable)
    driver.send(RefreshRequested())
    asked = driver.send(Granted(grant(2, driver.now, new, renewable=renewable)))
    assert [type(action) for action in asked] == [Prove] * pools
    return driver


def refuse_until(driver: Driver, end: float, reason: LoginFailure = CREDENTIALS) -> list[Action]:
    """Let each proof fail at once, up to the instant `end`, and renew what is to be renewed."""
    wanted: list[Action] = []
    todo: list[Action] = [Prove(driver.machine._core.generations[2].grant, 1)]
    while True:
        answers: list[Signal] = [
            LoginRejected(action.consumer, action.grant.generation, reason)
            for action in todo
            if isinstance(action, Prove)
        ]
        todo = [action for answer in answers for action in driver.send(answer)]
        if isinstance(driver.in_flight, Renew):
            todo += driver.renewed(driver.in_flight.grant.generation, 3600.0)
        if not todo:
            if driver.machine.deadline > end:
                return wanted + driver.at(end)
            todo = driver.at(driver.machine.deadline)
        wanted += todo


class TestWhoseFault:
    @pytest.mark.parametrize("reason", [SERVER, UNREACHABLE])
    @pytest.mark.parametrize("mints", [True, False])
    def test_r10_a_refusal_for_another_reason_fetches_nothing(
        self, reason: LoginFailure, mints: bool
    ) -> None:
        driver = Driver(mints=mints).serving(math.inf)
        for _ in range(100):
            assert driver.after(10.0, LoginRejected(1, 1, reason)) == []
        assert driver.machine.counts.fetches == 1

    def test_r10_pg_hba_is_about_the_role_where_the_pool_has_been_let_in(self) -> None:
        driver = Driver().serving()
        assert driver.send(LoginRejected(1, 1, PG_HBA)) == [Fetch()]

    def test_r10_pg_hba_is_about_address_or_database_where_the_pool_was_never_let_in(self) -> None:
        driver = Driver().serving()
        driver.machine.join(2)
        for _ in range(100):
            assert driver.after(10.0, LoginRejected(2, 1, PG_HBA)) == []

    @pytest.mark.parametrize("mints", [True, False])
    def test_r10_being_let_in_counts_for_the_pool_that_was(self, mints: bool) -> None:
        driver = Driver(pools=2, mints=mints).serving()
        driver.send(ConsumerLeft(2))
        driver.send(LoginAccepted(2, 1))
        assert driver.send(LoginRejected(2, 1, PG_HBA)) == []

    @pytest.mark.parametrize("current", [True, False])
    def test_each_refusal_is_reported_with_its_reason(self, current: bool) -> None:
        driver = candidate(3600.0)
        number = 1 if current else 2
        driver.send(LoginRejected(1, number, SERVER, "53300"))
        (told,) = driver.events_of(events.LoginRejected)
        assert told == events.LoginRejected(
            generation=number, current=current, reason="server", sqlstate="53300"
        )
        assert driver.machine.counts.rejected_logins == 1

    def test_silence_is_no_refusal(self) -> None:
        driver = candidate(3600.0)
        driver.send(LoginRejected(1, 1, UNREACHABLE))
        driver.send(LoginRejected(1, 2, UNREACHABLE))
        assert driver.events_of(events.LoginRejected) == []
        assert driver.machine.counts.rejected_logins == 0


class TestNoProof:
    """R9: what is valid is never replaced by what no login has proven."""

    @pytest.mark.parametrize("reason", list(LoginFailure))
    @pytest.mark.parametrize("old", [600.0, 3600.0, 86400.0])
    def test_r9_no_failed_login_is_a_proof(self, reason: LoginFailure, old: float) -> None:
        driver = candidate(old, new=2 * old)
        wanted = refuse_until(driver, 1000.0 + old * 0.89, reason)
        assert published(wanted) == []
        assert Fetch() not in wanted
        assert driver.machine.proving
        (publish, retire) = driver.send(LoginAccepted(1, 2))[:2]
        assert (type(publish), type(retire)) == (Publish, Retire)

    def test_r9_a_login_that_does_not_end_is_no_proof(self) -> None:
        driver = candidate(3600.0, new=7200.0)
        assert published(driver.at(4599.0)) == []
        assert published(driver.at(4600.0)) == [2]

    @pytest.mark.parametrize("reason", [SERVER, UNREACHABLE])
    def test_r9_without_an_end_it_waits_for_as_long_as_it_takes(self, reason: LoginFailure) -> None:
        driver = candidate(math.inf, math.inf, mints=False)
        wanted = refuse_until(driver, 1000.0 + 86400.0, reason)
        assert published(wanted) == []
        # About once a minute.
        assert 1000 < len([a for a in wanted if isinstance(a, Prove)]) < 2000
        assert published(driver.send(LoginAccepted(1, 2))) == [2]

    @pytest.mark.parametrize("reason", [SERVER, UNREACHABLE])
    def test_a_pool_whose_server_has_no_room_does_not_hold_the_others_up(
        self, reason: LoginFailure
    ) -> None:
        driver = candidate(3600.0, pools=2)
        driver.send(LoginRejected(2, 2, reason))
        driver.send(LoginAccepted(1, 2))
        assert published(driver.at(1029.9)) == []
        assert published(driver.at(1030.0)) == [2]
        assert not driver.events_of(events.CredentialsPublished)[-1].proven

    def test_a_late_proof_of_one_pool_is_enough_where_the_other_has_had_its_time(self) -> None:
        driver = candidate(3600.0, pools=2)
        assert driver.at(1200.0) == []
        assert published(driver.send(LoginAccepted(1, 2))) == [2]

    @pytest.mark.parametrize("reason", [SERVER, UNREACHABLE, PG_HBA])
    def test_only_refused_credentials_say_that_the_fallback_is_no_better(
        self, reason: LoginFailure
    ) -> None:
        driver = candidate(3600.0)
        assert published(driver.send(LoginRejected(1, 1, reason))) == []
        assert published(driver.send(LoginRejected(1, 1, CREDENTIALS))) == [2]

    def test_r9_a_pool_that_is_let_in_nowhere_takes_nothing_away_from_the_others(self) -> None:
        """It has been pointed at the wrong server, say, and logs in all the time."""
        driver = candidate(3600.0, pools=2)
        for _ in range(100):
            assert published(driver.after(10.0, LoginRejected(2, 1, CREDENTIALS))) == []
        assert driver.machine.counts.fetches == 2

    def test_a_pool_that_is_let_in_nowhere_does_not_delay_credentials_that_others_log_in_with(
        self,
    ) -> None:
        driver = candidate(3600.0, pools=2)
        driver.send(LoginRejected(2, 1, CREDENTIALS))
        driver.send(LoginRejected(2, 2, CREDENTIALS))
        driver.send(LoginAccepted(1, 2))
        assert published(driver.at(1029.9)) == []
        assert published(driver.at(1030.0)) == [2]

    def test_a_pool_that_is_refused_only_with_the_candidate_delays_it(self) -> None:
        """Its replica lags."""
        driver = candidate(3600.0, pools=2)
        driver.send(LoginRejected(2, 1, CREDENTIALS))
        driver.send(LoginAccepted(2, 1))
        driver.send(LoginRejected(2, 2, CREDENTIALS))
        driver.send(LoginAccepted(1, 2))
        assert published(driver.at(4000.0)) == []

    def test_one_role_is_minted_for_a_pool_that_is_let_in_nowhere(self) -> None:
        driver = Driver(RefreshPolicy(jitter=0.0)).serving(86400.0)
        driver.machine.join(2)
        assert driver.after(60.0, LoginRejected(2, 1, CREDENTIALS)) == [Fetch()]
        driver.send(Granted(grant(2, driver.now, 86400.0)))
        driver.send(LoginRejected(2, 2, CREDENTIALS))
        driver.send(LoginAccepted(1, 2))
        assert 2 in published(driver.after(30.0))
        for _ in range(360):
            driver.after(10.0, LoginRejected(2, 2, CREDENTIALS))
        assert driver.machine.counts.fetches == 2
        driver.send(LoginAccepted(2, 2))
        driver.send(LoginRejected(2, 2, CREDENTIALS))
        assert driver.machine.counts.fetches == 3

    def test_a_pool_that_is_let_in_with_the_new_one_alone_is_given_it(self) -> None:
        driver = candidate(3600.0, pools=2)
        driver.send(LoginRejected(1, 1, CREDENTIALS))
        driver.send(LoginRejected(2, 2, CREDENTIALS))
        assert published(driver.send(LoginAccepted(1, 2))) == []
        assert published(driver.send(LoginRejected(1, 1, CREDENTIALS))) == [2]

    def test_all_pools_get_the_new_one_where_the_old_one_is_refused_everywhere(self) -> None:
        driver = candidate(3600.0, pools=2)
        assert published(driver.send(LoginRejected(1, 1, CREDENTIALS))) == []
        assert published(driver.send(LoginRejected(2, 1, CREDENTIALS))) == [2]

    def test_it_is_renewed_while_it_waits(self) -> None:
        driver = candidate(3600.0, renewable=True)
        wanted = refuse_until(driver, 1000.0 + 86400.0, SERVER)
        assert {a.grant.generation for a in wanted if isinstance(a, Renew)} == {1, 2}
        assert published(wanted) == []


class TestPatience:
    def test_r9_a_replica_may_lag_by_all_that_is_left_of_the_old_one(self) -> None:
        driver = candidate(16.0, new=30.0)
        wanted = refuse_until(driver, 1010.0)
        assert Fetch() not in wanted
        (prove,) = driver.at(driver.machine.deadline)
        assert isinstance(prove, Prove)
        # Noticed long before the old one ends.
        assert driver.now <= 1011.0
        assert published(driver.send(LoginAccepted(1, 2))) == [2]
        assert driver.machine.counts.fetches == 2

    @pytest.mark.parametrize(
        ("old", "reserve"), [(60.0, 30.0), (200.0, 30.0), (3600.0, 360.0), (86400.0, 8640.0)]
    )
    def test_another_is_minted_while_there_is_time_for_it(self, old: float, reserve: float) -> None:
        driver = candidate(old, new=2 * old)
        begin = 1000.0 + old - reserve
        wanted = refuse_until(driver, begin - 0.1)
        assert driver.machine.proving
        assert Fetch() not in wanted
        wanted = refuse_until(driver, begin + reserve / 5)
        assert driver.in_flight == Fetch()
        assert [type(a) for a in wanted if isinstance(a, Retire)] == [Retire]
        (discarded,) = driver.events_of(events.CandidateDiscarded)
        assert discarded.reason == "logins refused"
        driver.send(Granted(grant(3, driver.now, 2 * old)))
        driver.send(ConsumerReleased(1, 2))
        assert isinstance(driver.in_flight, Revoke)
        assert published(driver.send(LoginAccepted(1, 3))) == [3]

    @pytest.mark.parametrize("old", [10.0, 59.0])
    def test_too_late_for_another_it_is_tried_until_the_old_one_ends(self, old: float) -> None:
        driver = candidate(old)
        wanted = refuse_until(driver, 1000.0 + old - 0.01)
        assert Fetch() not in wanted
        assert published(wanted) == []
        proofs = [a for a in wanted if isinstance(a, Prove)]
        assert 10 < len(proofs) < 60
        assert published(driver.at(1000.0 + old)) == [2]

    @pytest.mark.parametrize("reason", [CREDENTIALS, PG_HBA])
    def test_r9_without_an_end_it_is_never_given_up(self, reason: LoginFailure) -> None:
        driver = candidate(math.inf, math.inf, mints=False)
        wanted = refuse_until(driver, 1000.0 + 86400.0, reason)
        assert [type(a) for a in wanted if not isinstance(a, Prove)] == []
        assert published(driver.send(LoginRejected(1, 1, CREDENTIALS))) == [2]

    def test_a_few_refusals_are_no_reason_to_mint_another(self) -> None:
        driver = candidate(100.0, new=200.0)
        driver.at(1071.0)
        assert Fetch() not in refuse_until(driver, 1074.0)
        assert driver.machine.proving

    @pytest.mark.parametrize("reason", [CREDENTIALS, SERVER])
    @pytest.mark.parametrize("attempts", [6, 7])
    def test_another_refresh_replaces_the_candidate_after_seven_failures(
        self, attempts: int, reason: LoginFailure
    ) -> None:
        driver = candidate(3600.0)
        for _ in range(attempts):
            driver.send(LoginRejected(1, 2, reason))
            driver.at(driver.machine.deadline)
        wanted = driver.send(RefreshRequested())
        assert (Fetch() in wanted) is (attempts == 7)
        if attempts == 7:
            driver.send(Granted(grant(3, driver.now)))
            assert driver.events_of(events.CandidateDiscarded)[-1].reason == "superseded"
            assert published(driver.send(LoginAccepted(1, 3))) == [3]

    def test_a_change_of_the_source_is_fetched_after_a_refusal(self) -> None:
        driver = candidate(math.inf, math.inf, mints=False)
        driver.send(LoginRejected(1, 2, CREDENTIALS))
        assert Fetch() in driver.send(SourceChanged())


class TestStartOnAReplica:
    def started(self, *, mints: bool = True) -> Driver:
        driver = Driver(RefreshPolicy(jitter=0.0), mints=mints)
        driver.send(Start())
        assert published(driver.send(Granted(grant(1, driver.now)))) == [1]
        return driver

    def test_r10_one_role_is_enough_however_it_lags(self) -> None:
        driver = self.started()
        for _ in range(29):
            assert driver.after(1.0, LoginRejected(1, 1, CREDENTIALS)) == []
        driver.send(LoginAccepted(1, 1))
        driver.after(600.0)
        assert driver.machine.counts.fetches == 1

    def test_r10_one_that_never_works_is_replaced_in_the_end(self) -> None:
        driver = self.started()
        assert driver.after(29.9, LoginRejected(1, 1, CREDENTIALS)) == []
        assert driver.after(0.1, LoginRejected(1, 1, CREDENTIALS)) == [Fetch()]

    def test_a_source_that_mints_nothing_is_asked_at_once(self) -> None:
        assert self.started(mints=False).send(LoginRejected(1, 1, CREDENTIALS)) == [Fetch()]

    def test_refusal_after_a_login_with_the_same_credentials_is_asked_at_once(self) -> None:
        driver = self.started()
        driver.send(LoginAccepted(1, 1))
        assert driver.send(LoginRejected(1, 1, CREDENTIALS)) == [Fetch()]

    def test_each_pool_may_have_a_replica_of_its_own(self) -> None:
        driver = self.started()
        driver.machine.join(2)
        driver.send(LoginAccepted(1, 1))
        assert driver.after(10.0, LoginRejected(2, 1, CREDENTIALS)) == []
        assert driver.send(LoginRejected(1, 1, CREDENTIALS)) == [Fetch()]
