"""When a pool's connections are suspect, and how that ends: the machine alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from rotations import REFUSED, failed, grant, jobs, opened, rotation_of, told

from ephemeral_creds.events import ValidUntilPassed
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import LoginRejected, Tick
from ephemeral_creds.pool.jobs import Report

if TYPE_CHECKING:
    from ephemeral_creds.pool.rotation import Rotation


@pytest.fixture
def rotation() -> Rotation[Any]:
    return rotation_of(1)


def test_at_first_only_the_first_credentials_take_care() -> None:
    rotation = rotation_of(0)
    assert rotation.must_vet
    rotation.suspect_generation(0)
    rotation.publish(grant(1))
    assert not rotation.must_vet


@pytest.mark.parametrize("because", [{"checks": True}, {"trace_borrowers": True}])
def test_with_more_to_do_each_checkout_takes_care(because: dict[str, Any]) -> None:
    rotation = rotation_of(1, **because)
    assert rotation.must_vet
    assert rotation.trusted_until == -math.inf


def test_suspicion_lasts_until_an_answer(rotation: Rotation[Any]) -> None:
    rotation.suspect(grant(1))
    assert rotation.must_vet
    assert rotation.is_suspect(1)
    rotation.tested(1, alive=False)
    assert rotation.is_suspect(1)
    rotation.tested(1, alive=True)
    assert not rotation.must_vet


def test_it_covers_open_connections_of_older_generations(rotation: Rotation[Any]) -> None:
    old = opened(rotation, 1)
    opened(rotation, 2)
    rotation.publish(grant(2))
    rotation.suspect_generation(2)
    rotation.tested(2, alive=True)
    assert rotation.is_suspect(1)
    assert not rotation.is_suspect(2)
    old.closed = True
    jobs(rotation, 0.0)
    assert not rotation.must_vet


def test_new_credentials_do_not_end_it(rotation: Rotation[Any]) -> None:
    opened(rotation, 1)
    rotation.suspect(grant(1))
    rotation.publish(grant(2))
    assert rotation.is_suspect(1)
    assert not rotation.is_suspect(2)


def test_old_generations_that_are_gone_are_not_suspected(rotation: Rotation[Any]) -> None:
    rotation.publish(grant(2))
    rotation.suspect(grant(1))
    assert not rotation.must_vet


@pytest.mark.parametrize("serving", [1, 2])
def test_past_the_deadline_no_answer_helps(rotation: Rotation[Any], serving: int) -> None:
    opened(rotation, 1)
    rotation.publish(grant(serving))
    if serving == 1:
        rotation.expire(grant(1))
    else:
        rotation.reclaim(grant(1))
    rotation.tested(1, alive=True)
    assert rotation.is_suspect(1)


def test_a_renewal_that_came_late_helps(rotation: Rotation[Any]) -> None:
    rotation.expire(grant(1))
    rotation.publish(grant(1))
    assert rotation.is_suspect(1)
    rotation.tested(1, alive=True)
    assert not rotation.must_vet


class TestSuspended:
    """No error was reported: the clock alone tells."""

    def test_a_generation_past_its_deadline_is_suspect(self, rotation: Rotation[Any]) -> None:
        assert rotation.trusted_until == 3600.0
        rotation.suspect_expired(3599.0)
        assert not rotation.must_vet
        rotation.suspect_expired(3600.0)
        assert told(jobs(rotation, 0.0)) == [Tick()]
        rotation.tested(1, alive=True)
        assert rotation.is_suspect(1)

    def test_of_two_generations_the_old_one_alone(self, rotation: Rotation[Any]) -> None:
        opened(rotation, 1)
        rotation.publish(grant(2, requested_at=2000.0))
        rotation.suspect_expired(4000.0)
        assert rotation.is_suspect(1)
        assert not rotation.is_suspect(2)

    def test_a_renewal_moves_the_deadline(self, rotation: Rotation[Any]) -> None:
        rotation.extend(grant(1, requested_at=2000.0))
        rotation.suspect_expired(4000.0)
        assert not rotation.must_vet

    def test_a_renewal_that_is_overtaken_does_not(self, rotation: Rotation[Any]) -> None:
        rotation.extend(grant(1, requested_at=2000.0))
        rotation.publish(grant(1))
        assert rotation.trusted_until == 5600.0

    def test_one_that_comes_after_all_needs_one_answer(self, rotation: Rotation[Any]) -> None:
        rotation.suspect_expired(4000.0)
        rotation.extend(grant(1, requested_at=4000.0))
        assert rotation.is_suspect(1)
        rotation.tested(1, alive=True)
        assert not rotation.must_vet

    def test_a_generation_that_is_gone_is_forgotten(self, rotation: Rotation[Any]) -> None:
        rotation.publish(grant(2, requested_at=2000.0))
        rotation.extend(grant(3, requested_at=0.0))
        jobs(rotation, 0.0)
        assert rotation.trusted_until == 5600.0


def test_disruptions_are_counted(rotation: Rotation[Any]) -> None:
    seen = [rotation.disruptions]
    rotation.publish(grant(1))
    rotation.tested(1, alive=True)
    seen.append(rotation.disruptions)
    rotation.publish(grant(2))
    seen.append(rotation.disruptions)
    rotation.stale_returned()
    seen.append(rotation.disruptions)
    rotation.tested(2, alive=False)
    seen.append(rotation.disruptions)
    assert seen == [0, 0, 1, 2, 3]


def test_a_session_without_its_role_is_reported() -> None:
    rotation = rotation_of(1)
    rotation.tested(1, alive=False)
    assert told(jobs(rotation, 0.0)) == [LoginRejected(7, 1, LoginFailure.CREDENTIALS)]


class TestValidUntil:
    """A login is refused although the lease has time left: sessions of the role are asked why."""

    @pytest.fixture
    def refused(self, rotation: Rotation[Any]) -> Rotation[Any]:
        opened(rotation, 1)
        failed(rotation, REFUSED, 0.0)
        jobs(rotation, 0.0)
        return rotation

    def test_they_are_tested(self, refused: Rotation[Any]) -> None:
        assert refused.is_suspect(1)
        assert refused.wants_valid_until(1)
        assert not refused.wants_valid_until(2)

    def test_the_answer_explains_this_failure_and_the_next(self, refused: Rotation[Any]) -> None:
        refused.valid_until_learned(1, -0.5, now=600.0)
        event = ValidUntilPassed(generation=1, ends_in=-0.5, expires_in=3000.0)
        assert jobs(refused, 0.0) == [Report(event)]
        assert not refused.wants_valid_until(1)
        for now in (1.0, 2.0):
            failure = refused.overview.failure
            assert failure is not None
            assert event.remedy in str(failure.error)
            failed(refused, REFUSED, now)

    @pytest.mark.parametrize(
        ("remaining", "now"), [(None, 0.0), (5.0, 0.0), (0.5, 0.0), (-5.0, 3600.0)]
    )
    def test_another_answer_explains_nothing(
        self, refused: Rotation[Any], remaining: float | None, now: float
    ) -> None:
        refused.valid_until_learned(1, remaining, now)
        assert jobs(refused, 0.0) == []
        assert refused.overview.failure is REFUSED
