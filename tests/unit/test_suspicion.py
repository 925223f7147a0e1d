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
from ephemeral_creds._pool_rotation import Rotation

if TYPE_CHECKING:
    from collections.abc import Iterator


class Session:
    """What a ledger counts."""

    def __init__(self, generation: int) -> None:
        self.lease_generation = generation
        self.closed = False


# A ledger holds its connections weakly.
_held: list[Session] = []


def grant(generation: int) -> Grant:
    lease = Lease(requested_at=0.0, duration=3600.0, renewable=True, lease_id="lease")
    return Grant(Credentials(f"user-{generation}", Secret("password-of-it")), lease, generation)


@pytest.fixture
def rotation() -> Iterator[Rotation[Any]]:
    keeper = CredentialKeeper(FixedProvider("someone", "some-password"))
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
    assert rotation.careful
    rotation.suspect_generation(0)
    rotation.publish(grant(1))
    assert not rotation.careful


def test_suspicion_lasts_until_an_answer(rotation: Rotation[Any]) -> None:
    rotation.suspect(grant(1))
    assert rotation.careful
    assert rotation.is_suspect(1)
    rotation.note_test(1, alive=False)
    assert rotation.is_suspect(1)
    rotation.note_test(1, alive=True)
    assert not rotation.careful


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
    assert not rotation.careful


def test_new_credentials_do_not_end_it(rotation: Rotation[Any]) -> None:
    opened(rotation, 1)
    rotation.suspect(grant(1))
    rotation.publish(grant(2))
    assert rotation.is_suspect(1)
    assert not rotation.is_suspect(2)


def test_old_generations_that_are_gone_are_not_suspected(rotation: Rotation[Any]) -> None:
    rotation.publish(grant(2))
    rotation.suspect(grant(1))
    assert not rotation.careful


@pytest.mark.parametrize("serving", [1, 2])
def test_past_the_deadline_no_answer_helps(rotation: Rotation[Any], serving: int) -> None:
    opened(rotation, 1)
    rotation.publish(grant(serving))
    rotation.expire(grant(1))
    rotation.note_test(1, alive=True)
    assert rotation.is_suspect(1)


def test_a_renewal_that_came_late_helps(rotation: Rotation[Any]) -> None:
    rotation.expire(grant(1))
    rotation.publish(grant(1))
    assert rotation.is_suspect(1)
    rotation.note_test(1, alive=True)
    assert not rotation.careful


def test_what_counts_as_an_upheaval(rotation: Rotation[Any]) -> None:
    seen = [rotation.upheavals]
    rotation.publish(grant(1))
    rotation.note_test(1, alive=True)
    seen.append(rotation.upheavals)
    rotation.publish(grant(2))
    seen.append(rotation.upheavals)
    rotation.note_stale_return()
    seen.append(rotation.upheavals)
    rotation.note_test(2, alive=False)
    seen.append(rotation.upheavals)
    assert seen == [0, 0, 1, 2, 3]
