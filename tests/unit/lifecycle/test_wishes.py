"""Why and when to fetch."""

from __future__ import annotations

import math

import pytest

from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.wishes import CHANGE_BURST, CHANGE_INTERVAL, Reason, Wishes


@pytest.fixture
def wishes() -> Wishes:
    return Wishes(RefreshPolicy(mint_interval=10.0, mint_burst=2), mints=True)


def test_without_a_wish_nothing_is_fetched(wishes: Wishes) -> None:
    assert wishes.earliest == wishes.at == math.inf


def test_the_earliest_is_the_reason_and_one_fetch_answers_all(wishes: Wishes) -> None:
    wishes.want(Reason.LOGIN_REFUSED, 130.0)
    wishes.want(Reason.ASKED_FOR, 110.0)
    assert wishes.at == 110.0
    wishes.fetch(110.0)
    assert wishes.reason is Reason.ASKED_FOR
    assert wishes.at == math.inf


def test_a_wish_is_not_put_off_by_repeating_it(wishes: Wishes) -> None:
    wishes.want(Reason.ASKED_FOR, 110.0)
    wishes.want(Reason.ASKED_FOR, 120.0)
    assert wishes.at == 110.0
    wishes.want(Reason.ASKED_FOR, 105.0)
    assert wishes.at == 105.0


def test_calling_one_off_leaves_the_others(wishes: Wishes) -> None:
    wishes.want(Reason.RENEWALS_FAIL, 100.0)
    wishes.want(Reason.ASKED_FOR, 110.0)
    wishes.drop(Reason.RENEWALS_FAIL)
    wishes.drop(Reason.RENEWALS_FAIL)
    assert Reason.RENEWALS_FAIL not in wishes
    assert Reason.ASKED_FOR in wishes
    assert wishes.at == 110.0
    wishes.clear()
    assert wishes.at == math.inf


def test_the_fetch_in_flight_will_do(wishes: Wishes) -> None:
    wishes.want(Reason.START, 100.0)
    wishes.fetch(100.0)
    wishes.want(Reason.ASKED_FOR, 101.0)
    wishes.succeed()
    assert wishes.at == math.inf


def test_the_fetch_in_flight_does_not_do_for_a_later_change_of_the_source(wishes: Wishes) -> None:
    wishes.want(Reason.START, 100.0)
    wishes.fetch(100.0)
    wishes.want_change(101.0)
    wishes.succeed()
    assert wishes.at == 101.0
    assert Reason.SOURCE_CHANGED in wishes


def test_one_that_fails_is_wanted_for_the_same_reason_again(wishes: Wishes) -> None:
    wishes.want(Reason.EXPIRED, 100.0)
    wishes.fetch(100.0)
    wishes.fail()
    wishes.retry(130.0)
    assert (wishes.failures, wishes.at) == (1, 130.0)
    wishes.fetch(130.0)
    assert wishes.reason is Reason.EXPIRED
    wishes.fail()
    assert wishes.failures == 2
    wishes.succeed()
    assert wishes.failures == 0


def test_one_that_fails_is_wanted_again_for_each_of_its_reasons(wishes: Wishes) -> None:
    wishes.want(Reason.RENEWALS_FAIL, 100.0)
    wishes.want(Reason.LOGIN_REFUSED, 110.0)
    wishes.fetch(110.0)
    wishes.want(Reason.ASKED_FOR, 111.0)
    wishes.fail()
    wishes.retry(130.0)
    assert wishes.at == 130.0
    wishes.drop(Reason.RENEWALS_FAIL)
    assert Reason.LOGIN_REFUSED in wishes
    assert Reason.ASKED_FOR in wishes
    assert wishes.at == 130.0


def test_the_reason_stays_the_same_when_all_are_wanted_again(wishes: Wishes) -> None:
    wishes.want(Reason.ASKED_FOR, 110.0)
    wishes.want(Reason.RENEWALS_FAIL, 100.0)
    wishes.fetch(110.0)
    wishes.fail()
    wishes.retry(130.0)
    wishes.fetch(130.0)
    assert wishes.reason is Reason.RENEWALS_FAIL


def test_mints_are_rationed_whatever_they_are_for(wishes: Wishes) -> None:
    times = []
    for reason in (Reason.START, Reason.ASKED_FOR, Reason.EXPIRED, Reason.LOGIN_REFUSED):
        wishes.want(reason, 100.0)
        times.append(wishes.at)
        wishes.fetch(wishes.at)
        wishes.succeed()
    assert times == [100.0, 100.0, 110.0, 120.0]


def test_fetches_that_mint_nothing_are_unlimited_but_changes_are_limited() -> None:
    wishes = Wishes(RefreshPolicy(), mints=False)
    for _ in range(100):
        wishes.want(Reason.ASKED_FOR, 100.0)
        assert wishes.at == 100.0
        wishes.fetch(100.0)
        wishes.succeed()
    for _ in range(CHANGE_BURST):
        wishes.want_change(100.0)
        assert wishes.at == pytest.approx(100.0)
        wishes.fetch(100.0)
        wishes.succeed()
    wishes.want_change(100.0)
    assert wishes.at == pytest.approx(100.0 + CHANGE_INTERVAL)
