"""R26: when the password of a role that stays is read again, and what a new one changes."""

from __future__ import annotations

import math

import pytest
from lifecycle_driver import Driver

from ephemeral_creds import events
from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.exceptions import ProviderUnavailable
from ephemeral_creds.lifecycle.actions import Fetch, Prove, Publish, Stop
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    Close,
    Granted,
    LoginAccepted,
    LoginRejected,
    RefreshRequested,
    Start,
)


def static(
    driver: Driver, password: int, rotates_in: float, *, user: str = "app", again: float = math.inf
) -> Grant:
    credentials = Credentials(user, Secret(f"static-password-{password}"))
    return Grant(credentials, Lease(driver.now, rotates_in=rotates_in, ask_again_in=again))


@pytest.fixture
def driver() -> Driver:
    made = Driver(RefreshPolicy(jitter=0.0), mints=False)
    assert made.send(Start()) == [Fetch()]
    (published,) = made.send(Granted(static(made, 1, 60)))
    assert isinstance(published, Publish)
    return made


def answers(driver: Driver, password: int, *lefts: float) -> list[float]:
    """Answer each read, and return how long after it the next one came."""
    delays = []
    for left in lefts:
        assert driver.send(Granted(static(driver, password, left))) == []
        delays.append(driver.machine.deadline - driver.now)
        assert driver.at(driver.machine.deadline) == [Fetch()]
    return delays


def test_r26_it_is_read_right_after_it_was_due(driver: Driver) -> None:
    assert driver.machine.settled
    assert driver.machine.deadline - driver.now == 61.0
    assert driver.after(60.9) == []
    assert driver.after(0.1) == [Fetch()]
    assert driver.machine.usable(driver.now) is not None


def test_r26_another_password_is_used_at_once_and_moves_nothing(driver: Driver) -> None:
    driver.after(61)
    (published,) = driver.send(Granted(static(driver, 2, 60)))
    assert isinstance(published, Publish)
    assert published.grant.generation == 1
    assert published.grant.credentials.password == Secret("static-password-2")
    assert driver.machine.retired == ()
    assert driver.events_of(events.PasswordChanged) == [
        events.PasswordChanged(generation=1, username="app")
    ]
    assert driver.machine.counts.rotations == 0
    assert driver.machine.deadline - driver.now == 61.0


def test_r26_a_late_change_is_looked_for_with_growing_delays(driver: Driver) -> None:
    driver.after(61)
    # The server says that it is overdue; and says so again while it cannot change it.
    assert answers(driver, 1, 0, 0, 0, 0, 0, 0, 0, 0) == [1, 2, 4, 8, 16, 32, 60, 60]


def test_r26_an_announcement_ahead_of_the_password_is_not_believed(driver: Driver) -> None:
    driver.after(61)
    assert answers(driver, 1, 60, 59, 57) == [1, 2, 4]
    # Long enough: an operator has written the same password, or changed the period.
    assert answers(driver, 1, 53) == [54]


def test_r26_a_refused_login_reads_at_once_and_goes_on_for_some_seconds(driver: Driver) -> None:
    driver.after(10)
    assert driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS)) == [Fetch()]
    assert answers(driver, 1, 50, 49) == [1, 2]
    (published,) = driver.send(Granted(static(driver, 2, 60)))
    assert isinstance(published, Publish)
    # The next change finds it as eager as the first one did.
    driver.after(10)
    assert driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS)) == [Fetch()]


class TestOtherCredentials:
    """R26: when a provider is told that PostgreSQL refuses what its source has."""

    REFUSED = LoginRejected(1, 1, LoginFailure.CREDENTIALS)

    def confirmed(self, driver: Driver) -> None:
        """Have a login refused, and the same password come once more."""
        driver.after(10)
        assert driver.send(self.REFUSED) == [Fetch()]
        assert driver.send(Granted(static(driver, 1, 50))) == []

    def test_one_that_is_refused_after_it_came_once_more(self, driver: Driver) -> None:
        self.confirmed(driver)
        driver.after(0.5, self.REFUSED)
        assert driver.after(0.5) == [Fetch(current(driver))]
        # And again, as long as logins are refused.
        driver.send(Granted(static(driver, 1, 50)))
        assert driver.at(driver.machine.deadline) == [Fetch(current(driver))]

    def test_not_for_a_login_that_began_before(self, driver: Driver) -> None:
        self.confirmed(driver)
        assert driver.after(1) == [Fetch()]

    def test_not_once_a_login_was_accepted(self, driver: Driver) -> None:
        self.confirmed(driver)
        driver.after(0.5, self.REFUSED)
        driver.send(LoginAccepted(1, 1))
        assert driver.after(0.5) == [Fetch()]

    def test_not_with_another_password(self, driver: Driver) -> None:
        self.confirmed(driver)
        driver.after(0.5, self.REFUSED)
        assert driver.after(0.5) == [Fetch(current(driver))]
        assert driver.send(Granted(static(driver, 2, 50))) == [Publish(current(driver))]
        assert driver.send(self.REFUSED) == [Fetch()]

    def test_also_after_a_failed_request(self, driver: Driver) -> None:
        self.confirmed(driver)
        driver.after(0.5, self.REFUSED)
        driver.after(0.5)
        driver.failed(ProviderUnavailable("away"))
        assert driver.at(driver.machine.deadline) == [Fetch(current(driver))]


def test_logins_that_stay_refused_do_not_hammer(driver: Driver) -> None:
    driver.send(LoginRejected(1, 1, LoginFailure.CREDENTIALS))
    reads = 1
    assert driver.send(Granted(static(driver, 1, 86400.0))) == []
    for _ in range(600):
        wanted = driver.after(1, LoginRejected(1, 1, LoginFailure.CREDENTIALS))
        if any(isinstance(each, Fetch) for each in wanted):
            reads += 1
            driver.send(Granted(static(driver, 1, 86400.0)))
    assert reads < 25
    # And yet it never gives up.
    assert driver.machine.deadline - driver.now <= 120


def test_an_outage_of_the_server_ends_nothing(driver: Driver) -> None:
    driver.after(61)
    for _ in range(20):
        driver.failed(ProviderUnavailable("away"))
        assert driver.machine.usable(driver.now) is not None
        assert driver.at(driver.machine.deadline) == [Fetch()]
    assert driver.events_of(events.LeaseExpired) == []


def test_another_user_is_another_generation(driver: Driver) -> None:
    driver.after(61)
    (proof,) = driver.send(Granted(static(driver, 1, 60, user="other")))
    assert isinstance(proof, Prove)
    assert proof.grant.generation == 2


def test_r26_a_user_that_cannot_log_in_is_read_again(driver: Driver) -> None:
    """A key-value secret announces no change, and who wrote a wrong user may correct it."""
    driver.after(61)
    driver.send(Granted(static(driver, 1, math.inf, user="wrong", again=100)))
    driver.send(LoginRejected(1, 2, LoginFailure.CREDENTIALS))
    assert Fetch() in driver.after(100)
    assert driver.send(Granted(static(driver, 1, math.inf, user="wrong", again=100))) == []
    assert Fetch() in driver.after(100)
    *_, proof = driver.send(Granted(static(driver, 2, math.inf, user="right", again=100)))
    assert isinstance(proof, Prove)
    assert proof.grant.generation == 3


def test_it_is_asked_again_when_the_provider_wants_it(driver: Driver) -> None:
    driver.after(61)
    assert driver.send(Granted(static(driver, 2, 3600, again=100))) == [Publish(current(driver))]
    assert driver.machine.deadline - driver.now == 100
    driver.after(100)
    # Nothing was due, so that the same password is no surprise.
    assert driver.send(Granted(static(driver, 2, 3500, again=100))) == []
    assert driver.machine.deadline - driver.now == 100


def test_a_slow_server_is_not_asked_in_a_loop(driver: Driver) -> None:
    driver.after(61)
    sent_at = driver.now
    driver.after(90)
    late = Lease(sent_at, rotates_in=30.0, ask_again_in=20.0)
    driver.send(Granted(Grant(Credentials("app", Secret("static-password-2")), late)))
    assert driver.machine.deadline - driver.now == 1.0


def test_a_refresh_that_brings_the_same_is_over(driver: Driver) -> None:
    assert driver.after(5, RefreshRequested()) == [Fetch()]
    assert not driver.machine.settled
    driver.send(Granted(static(driver, 1, 55)))
    assert driver.machine.settled


def test_close_without_a_grant_revokes_nothing(driver: Driver) -> None:
    assert driver.send(Close())[-1] == Stop()


def current(driver: Driver) -> Grant:
    assert driver.machine.current is not None
    return driver.machine.current
