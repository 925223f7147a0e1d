"""When a pool's connections are suspect, and how that ends: the state alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ephemeral_creds import (
    CredentialKeeper,
    Credentials,
    FixedProvider,
    Grant,
    Lease,
    RotationPolicy,
    Secret,
)
from ephemeral_creds.pool.rotation import Rotation
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Session:
    """What a ledger counts."""

    def __init__(self, generation: int) -> None:
        self.lease_generation = generation
        self.closed = False


# A ledger holds its connections weakly.
_held: list[Session] = []


def grant(generation: int, requested_at: float = 0.0) -> Grant:
    lease = Lease(requested_at, duration=3600.0, renewable=True, lease_id="lease")
    return Grant(Credentials(f"user-{generation}", Secret("password-of-it")), lease, generation)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rotation(clock: FakeClock) -> Iterator[Rotation[Any]]:
    keeper = CredentialKeeper(FixedProvider("someone", "some-password"), clock=clock)
    rotation: Rotation[Any] = Rotation(keeper, RotationPolicy(), wake=lambda: None)
    rotation.publish(grant(1))
    yield rotation
    keeper.close()


def opened(rotation: Rotation[Any], generation: int) -> Session:
    session = Session(generation)
    rotation.ledger.opening(generation)
    rotation.ledger.opened(session, generation)
    _held.append(session)
    return session


def test_at_first_only_the_first_credentials_take_care() -> None:
    rotation: Rotation[Any] = Rotation(
        CredentialKeeper(FixedProvider("someone", "some-password")),
        RotationPolicy(),
        wake=lambda: None,
    )
    assert rotation.must_vet
    rotation.suspect_generation(0)
    rotation.publish(grant(1))
    assert not rotation.must_vet


def test_suspicion_lasts_until_an_answer(rotation: Rotation[Any]) -> None:
    rotation.suspect(grant(1))
    assert rotation.must_vet
    assert rotation.is_suspect(1)
    rotation.note_test(1, alive=False)
    assert rotation.is_suspect(1)
    rotation.note_test(1, alive=True)
    assert not rotation.must_vet


def test_it_covers_what_is_still_open_of_older_generations(rotation: Rotation[Any]) -> None:
    old = opened(rotation, 1)
    opened(rotation, 2)
    rotation.publish(grant(2))
    rotation.suspect_generation(2)
    rotation.note_test(2, alive=True)
    assert rotation.is_suspect(1)
    assert not rotation.is_suspect(2)
    old.closed = True
    rotation.end_move("pool", 0.0)
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
    rotation.note_test(1, alive=True)
    assert rotation.is_suspect(1)


def test_a_renewal_that_came_late_helps(rotation: Rotation[Any]) -> None:
    rotation.expire(grant(1))
    rotation.publish(grant(1))
    assert rotation.is_suspect(1)
    rotation.note_test(1, alive=True)
    assert not rotation.must_vet


class TestSuspended:
    """Nobody has said anything: the clock alone tells."""

    def test_what_is_past_its_deadline_is_suspect(
        self, rotation: Rotation[Any], clock: FakeClock
    ) -> None:
        clock.suspend(3599.0 - clock.now())
        assert rotation.now() < rotation.trusted_until
        rotation.suspect_expired()
        assert not rotation.must_vet
        clock.suspend(1.0)
        assert rotation.now() >= rotation.trusted_until
        rotation.suspect_expired()
        rotation.note_test(1, alive=True)
        assert rotation.is_suspect(1)

    def test_of_two_generations_the_old_one_alone(
        self, rotation: Rotation[Any], clock: FakeClock
    ) -> None:
        opened(rotation, 1)
        rotation.publish(grant(2, requested_at=2000.0))
        clock.suspend(4000.0)
        rotation.suspect_expired()
        assert rotation.is_suspect(1)
        assert not rotation.is_suspect(2)

    def test_a_renewal_moves_the_deadline(self, rotation: Rotation[Any], clock: FakeClock) -> None:
        rotation.extend(grant(1, requested_at=2000.0))
        clock.suspend(4000.0)
        rotation.suspect_expired()
        assert not rotation.must_vet

    def test_a_renewal_that_is_overtaken_does_not(self, rotation: Rotation[Any]) -> None:
        rotation.extend(grant(1, requested_at=2000.0))
        rotation.publish(grant(1))
        assert rotation.trusted_until == 5600.0

    def test_one_that_comes_after_all_needs_one_answer(
        self, rotation: Rotation[Any], clock: FakeClock
    ) -> None:
        clock.suspend(4000.0)
        rotation.suspect_expired()
        rotation.extend(grant(1, requested_at=4000.0))
        assert rotation.is_suspect(1)
        rotation.note_test(1, alive=True)
        assert not rotation.must_vet

    def test_what_is_gone_is_forgotten(self, rotation: Rotation[Any], clock: FakeClock) -> None:
        rotation.publish(grant(2, requested_at=2000.0))
        rotation.extend(grant(3, requested_at=0.0))
        rotation.end_move("pool", 0.0)
        clock.suspend(4000.0)
        assert rotation.now() < rotation.trusted_until


def test_what_counts_as_a_disruption(rotation: Rotation[Any]) -> None:
    seen = [rotation.disruptions]
    rotation.publish(grant(1))
    rotation.note_test(1, alive=True)
    seen.append(rotation.disruptions)
    rotation.publish(grant(2))
    seen.append(rotation.disruptions)
    rotation.note_stale_return()
    seen.append(rotation.disruptions)
    rotation.note_test(2, alive=False)
    seen.append(rotation.disruptions)
    assert seen == [0, 0, 1, 2, 3]
