"""Proofs, replacements and logins while generations change: the state alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from test_suspicion import Session, grant, opened

from ephemeral_creds import CredentialKeeper, FixedProvider, RotationPolicy
from ephemeral_creds.events import PoolRotated
from ephemeral_creds.lifecycle.signals import ConsumerReleased
from ephemeral_creds.pool.rotation import Rotation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds.lifecycle.signals import Signal


class Keeper(CredentialKeeper):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__(FixedProvider("someone", "some-password"))
        self.signals: list[Signal] = []

    def signal(self, signal: Signal) -> None:
        self.signals.append(signal)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with_signals = Keeper()
    yield with_signals
    with_signals.close()


@pytest.fixture
def rotation(keeper: Keeper) -> Rotation[Any]:
    """One that serves generation 1 and may open a single connection ahead."""
    rotation: Rotation[Any] = Rotation(
        keeper, RotationPolicy(overshoot=1, park=2.0), wake=lambda: None
    )
    rotation.publish(grant(1))
    return rotation


def proven(rotation: Rotation[Any], generation: int, now: float = 0.0) -> Session:
    """Prove a candidate, which leaves a connection of it."""
    rotation.prove(grant(generation))
    assert rotation.next_candidate() == grant(generation)
    session = Session(generation)
    rotation.ledger.opened(session, generation)
    rotation.note_proof(generation, session, now)
    return session


def test_a_candidate_is_queued_once(rotation: Rotation[Any]) -> None:
    for _ in range(3):
        rotation.prove(grant(2))
    assert rotation.next_candidate() == grant(2)
    rotation.replacements.cancel()
    assert rotation.next_candidate() is None


def test_a_candidate_that_was_discarded_is_not_proven(
    rotation: Rotation[Any], keeper: Keeper
) -> None:
    rotation.prove(grant(2))
    rotation.retire(grant(2))
    rotation.end_move("pool", 0.0)
    assert keeper.signals == [ConsumerReleased(0, 2)]
    assert rotation.next_candidate() is None


def test_what_a_proof_leaves_waits_no_longer_than_any_other(rotation: Rotation[Any]) -> None:
    opened(rotation, 1)
    session = proven(rotation, 2)
    rotation.publish(grant(2))
    assert rotation.next_look(0.5, patience=300.0) == 1.5
    assert rotation.take_unwanted(1.9) == []
    assert rotation.take_unwanted(2.0) == [session]


def test_a_new_candidate_goes_before_replacements(rotation: Rotation[Any]) -> None:
    opened(rotation, 1)
    session = proven(rotation, 2)
    rotation.publish(grant(2))
    rotation.prove(grant(3))
    assert rotation.next_candidate() is None
    assert rotation.take_unwanted(0.0) == [session]
    assert not rotation.reserve(2)
    assert rotation.next_candidate() == grant(3)


def test_one_that_waits_leaves_room_for_replacements(keeper: Keeper) -> None:
    rotation: Rotation[Any] = Rotation(keeper, RotationPolicy(overshoot=2), wake=lambda: None)
    rotation.publish(grant(1))
    for _ in range(3):
        opened(rotation, 1)
    rotation.publish(grant(2))
    rotation.prove(grant(3))
    assert rotation.reserve(2)
    assert not rotation.reserve(2)
    assert rotation.next_candidate() == grant(3)


def test_a_replacement_takes_the_place_of_what_is_old_and_ours(rotation: Rotation[Any]) -> None:
    old = opened(rotation, 1)
    ready = proven(rotation, 2)
    assert not rotation.is_stale(old)
    assert rotation.take_ready() is None
    rotation.publish(grant(2))
    assert rotation.is_stale(old)
    assert not rotation.is_stale(Session(1))
    assert rotation.take_ready() is ready
    # As long as the old one is open, no other may be opened.
    assert not rotation.reserve(2)
    rotation.begin_move(1.0)
    assert rotation.end_move("pool", 2.0) is None
    old.closed = True
    rotation.note_replaced()
    assert rotation.end_move("pool", 3.0) == PoolRotated(
        pool="pool", generation=2, connections=1, duration=2.0
    )


def test_nothing_takes_a_place_in_a_pool_that_is_closed(rotation: Rotation[Any]) -> None:
    opened(rotation, 1)
    ready = proven(rotation, 2)
    rotation.publish(grant(2))
    rotation.stop()
    assert rotation.take_ready() is None
    assert rotation.take_unwanted(0.0) == [ready]


def test_what_is_ready_is_unwanted_once_nothing_is_old(rotation: Rotation[Any]) -> None:
    old = opened(rotation, 1)
    ready = proven(rotation, 2)
    assert rotation.take_unwanted(0.0) == []
    rotation.publish(grant(2))
    assert rotation.take_unwanted(0.0) == []
    old.closed = True
    assert rotation.take_unwanted(0.0) == [ready]


def test_a_generation_is_not_released_while_a_login_with_it_is_about_to_start(
    rotation: Rotation[Any], keeper: Keeper
) -> None:
    assert rotation.begin_login(1)
    rotation.publish(grant(2))
    rotation.retire(grant(1))
    rotation.end_move("pool", 0.0)
    assert keeper.signals == []
    rotation.ledger.failed(1)
    rotation.end_move("pool", 0.0)
    assert keeper.signals == [ConsumerReleased(0, 1)]


def test_a_generation_is_not_released_under_a_login_that_began_while_it_was_counted(
    rotation: Rotation[Any], keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = rotation.ledger.by_generation

    def count_and_be_overtaken() -> dict[int, int]:
        counts = count()
        assert rotation.begin_login(1)
        rotation.publish(grant(2))
        rotation.retire(grant(1))
        return counts

    monkeypatch.setattr(rotation.ledger, "by_generation", count_and_be_overtaken)
    rotation.end_move("pool", 0.0)
    monkeypatch.undo()
    assert ConsumerReleased(0, 1) not in keeper.signals
    rotation.ledger.failed(1)
    rotation.end_move("pool", 0.0)
    assert ConsumerReleased(0, 1) in keeper.signals


def test_no_login_starts_with_a_generation_that_was_overtaken(rotation: Rotation[Any]) -> None:
    opened(rotation, 1)
    rotation.publish(grant(2))
    assert not rotation.begin_login(1)
    assert not rotation.reserve(1)
    assert rotation.ledger.by_generation() == {1: 1}
    assert rotation.reserve(2)
    assert rotation.ledger.by_generation() == {1: 1, 2: 1}
