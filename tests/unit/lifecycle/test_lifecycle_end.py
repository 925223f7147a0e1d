"""What the machine does about an end that no lease announces, and about a restless source."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from lifecycle_driver import Driver, grant

from ephemeral_creds import events
from ephemeral_creds.lifecycle.actions import AskEnd, Fetch, Prove
from ephemeral_creds.lifecycle.machine import State
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.signals import (
    EndLearned,
    Granted,
    LoginAccepted,
    SourceChanged,
    Start,
)

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant

START = 1000.0


def from_file(number: int, now: float, announced: float = math.inf) -> Grant:
    made = grant(number, now, math.inf)
    return replace(made, lease=replace(made.lease, announced_duration=announced))


def serving(announced: float = math.inf, *, pools: int = 1) -> Driver:
    driver = Driver(RefreshPolicy(grace=5.0), mints=False, pools=pools)
    assert driver.send(Start()) == [Fetch()]
    driver.send(Granted(from_file(1, driver.now, announced)))
    return driver


def asked(actions: list[object]) -> list[int]:
    return [action.grant.generation for action in actions if isinstance(action, AskEnd)]


def warnings(driver: Driver) -> list[tuple[int, float]]:
    found = driver.events_of(events.CredentialsEnding)
    return [(event.generation, round(event.ends_in, 3)) for event in found]


class TestEnd:
    def test_unknown_is_never_looked_into(self) -> None:
        driver = serving()
        assert driver.machine.ends_at == math.inf
        assert driver.machine.deadline == math.inf
        driver.send(EndLearned(1, math.inf))
        assert driver.machine.deadline == math.inf

    def test_postgresql_is_asked_again_shortly_before_it_and_then_it_is_reported_once(self) -> None:
        driver = serving()
        driver.send(EndLearned(1, 3600.0))
        assert driver.machine.ends_at == START + 3600
        assert asked([*driver.at(START + 3594.9)]) == []
        assert asked([*driver.at(START + 3595)]) == [1]
        assert warnings(driver) == []
        driver.after(0.1, EndLearned(1, 4.9))
        assert warnings(driver) == [(1, 4.9)]
        driver.send(EndLearned(1, 4.9))
        driver.at(START + 100_000)
        assert warnings(driver) == [(1, 4.9)]

    def test_a_hint_ends_nothing(self) -> None:
        driver = serving(10.0)
        driver.send(EndLearned(1, 20.0))
        driver.at(START + 100_000)
        assert driver.machine.state is State.SERVING
        assert driver.machine.usable(driver.now) is not None
        assert driver.machine.counts.fetches == 1

    def test_a_renewal_behind_our_back_is_no_reason_to_warn(self) -> None:
        driver = serving()
        driver.send(EndLearned(1, 3600.0))
        for renewal in range(1, 4):
            assert asked([*driver.at(START + renewal * 3600 - 5)]) == [1]
            driver.after(0.1, EndLearned(1, 3604.9))
            assert driver.machine.ends_at == pytest.approx(START + (renewal + 1) * 3600)
        assert warnings(driver) == []

    def test_no_answer_is_waited_for_only_so_long(self) -> None:
        driver = serving()
        driver.send(EndLearned(1, 3600.0))
        driver.at(START + 3599.9)
        assert warnings(driver) == []
        driver.at(START + 3600)
        assert warnings(driver) == [(1, 0.0)]

    def test_without_pools_no_pool_is_asked(self) -> None:
        driver = serving(100.0, pools=0)
        assert asked([*driver.at(START + 104.9)]) == []
        assert warnings(driver) == []
        assert asked([*driver.at(START + 105)]) == []
        assert warnings(driver) == [(1, -5.0)]

    def test_the_end_in_the_source_counts_until_postgresql_knows_one(self) -> None:
        driver = serving(100.0)
        assert driver.machine.ends_at == START + 100
        driver.send(EndLearned(1, math.inf))
        assert driver.machine.ends_at == START + 100
        driver.send(EndLearned(1, 60.0))
        assert driver.machine.ends_at == START + 60

    def test_no_limit_in_postgresql_keeps_the_sources_end(self) -> None:
        driver = serving(100.0)
        assert asked([*driver.at(START + 105)]) == [1]
        driver.send(EndLearned(1, math.inf))
        assert warnings(driver) == [(1, -5.0)]

    def test_the_same_credentials_with_a_later_date(self) -> None:
        driver = serving(100.0)
        driver.at(START + 50, SourceChanged())
        driver.send(Granted(from_file(1, driver.now, 100.0)))
        assert driver.machine.ends_at == START + 150
        assert driver.machine.counts.grants == 1
        assert asked([*driver.at(START + 154.9)]) == []

    def test_the_same_credentials_read_again_do_not_warn_again(self) -> None:
        driver = serving(100.0, pools=0)
        driver.at(START + 200)
        driver.send(SourceChanged())
        driver.send(Granted(from_file(1, driver.now, -100.0)))
        driver.at(START + 1000)
        assert warnings(driver) == [(1, -5.0)]

    def test_new_credentials_in_time_end_the_matter(self) -> None:
        driver = serving()
        driver.send(EndLearned(1, 3600.0))
        driver.at(START + 3590, SourceChanged())
        assert [type(a) for a in driver.send(Granted(from_file(2, driver.now)))] == [Prove]
        driver.send(EndLearned(2, 3600.0))
        driver.send(LoginAccepted(1, 2))
        assert asked([*driver.at(START + 7000)]) == []
        assert warnings(driver) == []
        assert driver.machine.ends_at == START + 3590 + 3600

    def test_a_lease_has_a_deadline_and_needs_no_hint(self) -> None:
        driver = Driver().serving()
        driver.send(EndLearned(1, 10.0))
        assert driver.machine.ends_at == math.inf

    def test_a_short_life_is_asked_about_late(self) -> None:
        driver = serving()
        driver.send(EndLearned(1, 4.0))
        assert asked([*driver.at(START + 3.5)]) == []
        assert asked([*driver.at(START + 3.6)]) == [1]

    def test_a_pool_that_joins_late_is_asked_too(self) -> None:
        driver = serving(100.0, pools=0)
        driver.machine.join(1)
        assert asked([*driver.at(START + 105)]) == [1]


class TestRestlessSource:
    def test_a_single_change_is_followed_at_once(self) -> None:
        driver = serving()
        assert driver.after(10.0, SourceChanged()) == [Fetch()]

    def test_a_thousand_changes_in_a_second_are_a_few_fetches(self) -> None:
        driver = serving()
        fetches = 0
        for change in range(2, 1002):
            driver.after(0.001, SourceChanged())
            if isinstance(driver.in_flight, Fetch):
                fetches += 1
                driver.send(Granted(from_file(change, driver.now)))
                driver.send(LoginAccepted(1, fetches + 1))
        assert fetches == 20 + 1.0 / 0.2 - 1
        driver.after(0.2)
        assert isinstance(driver.in_flight, Fetch), "the last change is followed, too"
        assert driver.machine.counts.rotations == fetches
