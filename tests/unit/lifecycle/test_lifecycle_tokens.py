"""R28: when a token is replaced by another, and what follows from a refused one."""

from __future__ import annotations

import math

import pytest
from lifecycle_driver import Driver

from ephemeral_creds import events
from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.exceptions import ProviderUnavailable
from ephemeral_creds.lifecycle.actions import Action, AskEnd, Fetch, Publish
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    EndLearned,
    Granted,
    LoginAccepted,
    LoginRejected,
    RefreshRequested,
    Start,
)

REFUSED = LoginRejected(1, 1, LoginFailure.CREDENTIALS)


def token(driver: Driver, number: int, life: float = 900.0) -> Granted:
    credentials = Credentials("app", Secret(f"database-token-{number}"), requires_tls=True)
    lease = Lease(driver.now, rotates_in=math.inf, announced_duration=life, is_token=True)
    return Granted(Grant(credentials, lease))


@pytest.fixture
def driver() -> Driver:
    made = Driver(RefreshPolicy(jitter=0.0), mints=False)
    assert made.send(Start()) == [Fetch()]
    (published,) = made.send(token(made, 1))
    assert isinstance(published, Publish)
    made.send(LoginAccepted(1, 1))
    return made


def publishes(actions: list[Action]) -> list[int]:
    return [action.grant.generation for action in actions if isinstance(action, Publish)]


def test_r28_a_token_is_replaced_after_two_thirds_of_its_life(driver: Driver) -> None:
    for number in range(2, 6):
        assert driver.after(599.9) == []
        assert driver.after(0.1) == [Fetch()]
        assert publishes(driver.send(token(driver, number))) == [1]
    assert driver.machine.counts.rotations == 0
    assert len(driver.events_of(events.PasswordChanged)) == 4
    assert driver.events_of(events.CredentialsEnding) == []


def test_r28_the_last_half_minute_is_left_for_retries(driver: Driver) -> None:
    driver.after(600)
    driver.send(token(driver, 2, 70.0))
    assert driver.machine.deadline - driver.now == 40.0


def test_r28_the_same_token_from_a_cache_is_asked_for_ever_earlier(driver: Driver) -> None:
    """A cache that keeps a token to its last minutes is asked five times in its last third."""
    driver.after(600)
    left, asked = 300.0, 0
    while left > 30.0:
        assert driver.send(token(driver, 1, left)) == []
        wait = driver.machine.deadline - driver.now
        assert driver.after(wait) == [Fetch()]
        left, asked = left - wait, asked + 1
    assert asked <= 4


def test_r28_without_another_token_logins_continue_and_its_end_is_reported(driver: Driver) -> None:
    wanted: list[Action] = []
    for _ in range(40):
        if driver.in_flight is not None:
            driver.failed(ProviderUnavailable("away"))
        wanted += driver.at(driver.machine.deadline)
        if any(isinstance(action, AskEnd) for action in wanted):
            wanted.clear()
            driver.send(EndLearned(1, math.inf))
    assert driver.machine.usable(driver.now) is not None
    assert driver.events_of(events.LeaseExpired) == []
    (ending,) = driver.events_of(events.CredentialsEnding)
    assert ending.ends_in <= 0


def test_r28_a_refused_token_is_replaced_once_and_then_slowly(driver: Driver) -> None:
    """Each fetch brings another token, so that a new one says nothing about the next login."""
    assert driver.after(1, REFUSED) == [Fetch()]
    fetches, number = 1, 1
    for _ in range(600):
        if driver.in_flight is not None:
            number += 1
            driver.send(token(driver, number))
        fetches += driver.after(1, REFUSED).count(Fetch())
    # One at once, and then every half minute, and later every minute.
    assert 5 <= fetches <= 20


def test_r28_an_accepted_login_has_the_next_refusal_answered_at_once(driver: Driver) -> None:
    assert driver.after(1, REFUSED) == [Fetch()]
    driver.send(token(driver, 2))
    driver.send(LoginAccepted(1, 1))
    assert driver.after(1, REFUSED) == [Fetch()]


def test_r28_refresh_asks_for_another(driver: Driver) -> None:
    assert driver.after(5, RefreshRequested()) == [Fetch()]
    assert publishes(driver.send(token(driver, 2))) == [1]
    assert driver.machine.settled


@pytest.mark.parametrize(
    ("life", "cached_until", "per_hour"),
    [
        (900.0, 900.0, 6.0),  # AWS: each is signed by itself
        (3600.0, 3600.0, 1.5),  # Entra by a pod's token: each request brings another
        (3600.0, 300.0, 3.1),  # Google Cloud's metadata: the same until five minutes before its end
        (3600.0, 0.0, 11.0),  # a cache that keeps tokens to their very end
        (86400.0, 43200.0, 0.07),  # Azure's managed identities: the same for half a day
    ],
)
def test_r28_requests_per_hour(life: float, cached_until: float, per_hour: float) -> None:
    """What docs/how-to/database-tokens.md says."""
    driver = Driver(RefreshPolicy(jitter=0.0), mints=False)
    number, ends_at, fetches, begin = 0, 0.0, 0, driver.now
    wanted: list[Action] = driver.send(Start())
    while driver.now < begin + 100 * 3600:
        if Fetch() in wanted:
            fetches += 1
            if ends_at - driver.now <= cached_until:
                number, ends_at = number + 1, driver.now + life
            wanted = driver.send(token(driver, number, ends_at - driver.now))
        else:
            wanted = driver.at(driver.machine.deadline)
    assert fetches / 100 == pytest.approx(per_hour, rel=0.25)
