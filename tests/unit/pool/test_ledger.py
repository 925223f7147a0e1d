"""The connections of a pool: which count as open, and how many may be opened ahead."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

from rotations import Session

from ephemeral_creds import RotationPolicy
from ephemeral_creds.pool.ledger import Ledger
from ephemeral_creds.pool.rotation import Rotation


def test_a_connection_that_is_logging_in_counts_as_open() -> None:
    ledger: Ledger[Session] = Ledger(2)
    session = Session(1)
    opening = ledger.begin(0.0)
    assert ledger.by_generation() == {}
    ledger.log_in(opening, 1)
    assert ledger.by_generation() == {1: 1}
    ledger.logged_in(opening, session)
    assert ledger.by_generation() == {1: 1}
    ledger.end(opening)
    second = ledger.begin(0.0, 2)
    assert ledger.by_generation() == {1: 1, 2: 1}
    assert ledger.open_by_generation() == {1: 1}
    assert ledger.size == ledger.peak == 2
    assert ledger.has_before(2)
    assert not ledger.has_before(1)
    ledger.end(second)
    assert ledger.by_generation() == {1: 1}
    assert ledger.peak == 2


def test_a_connection_may_be_returned_while_it_is_counted() -> None:
    """A collection does so, of a generator that was forgotten within ``with connection()``."""
    rotation: Rotation[Any] = Rotation(RotationPolicy(), threading.RLock, lambda: None)

    class Forgotten(Session):
        @property
        def closed(self) -> bool:
            rotation.stale_returned()
            return False

        @closed.setter
        def closed(self, _: bool) -> None:
            pass

    session = Forgotten(1)
    opening = rotation.begin(0.0)
    rotation.logged_in(opening, session)
    rotation.end(opening)
    counts: list[dict[int, int]] = []
    # In a thread: without that it would wait for itself.
    counting = threading.Thread(
        target=lambda: counts.append(rotation.overview.connections), daemon=True
    )
    counting.start()
    counting.join(60.0)
    assert counts == [{1: 1}]


def test_nothing_is_kept_of_generations_that_are_gone() -> None:
    rotation: Rotation[Any] = Rotation(RotationPolicy(), nullcontext, lambda: None)
    ledger = rotation._ledger
    for generation in range(1, 101):
        session = Session(generation)
        opening = ledger.begin(0.0, generation)
        ledger.logged_in(opening, session)
        ledger.end(opening)
        session.closed = True
        ledger.end(ledger.begin(0.0, generation))
    assert ledger.by_generation() == {}
    assert not ledger.has_before(200)
    assert ledger.openings == []


def test_a_connect_is_claimed_once_and_in_time() -> None:
    ledger: Ledger[Session] = Ledger(2)
    opening = ledger.begin(0.0)
    assert opening.claim()
    assert not opening.claim()
    late = ledger.begin(0.0)
    ledger.end(late)
    assert not late.claim()


def ready(ledger: Ledger[Session], generation: int, until: float = 9.0) -> Session:
    session = Session(generation)
    opening = ledger.begin(0.0, generation, ahead=True)
    ledger.logged_in(opening, session)
    ledger.end(opening)
    ledger.spare(session, until)
    return session


class TestSpare:
    def test_never_more_than_the_overshoot(self) -> None:
        ledger: Ledger[Session] = Ledger(2)
        ready(ledger, 2)
        assert ledger.room() == 1
        opening = ledger.begin(0.0, 2, ahead=True)
        assert ledger.room() == 0
        ledger.end(opening)
        assert ledger.room() == 1
        ledger.begin(0.0, 2)
        assert ledger.room() == 1

    def test_never_more_than_there_is_to_replace(self) -> None:
        """One that proved the new credentials is enough for a single old connection."""
        ledger: Ledger[Session] = Ledger(4)
        ready(ledger, 2)
        assert ledger.room(0) == ledger.room(1) == 0
        assert ledger.room(2) == 1
        assert ledger.room(9) == 3

    def test_a_taken_replacement_counts_until_the_old_connection_is_closed(self) -> None:
        ledger: Ledger[Session] = Ledger(1)
        session = ready(ledger, 2)
        assert ledger.has_spare(2)
        assert ledger.take(3) is None
        assert ledger.take(2) is session
        assert ledger.take(2) is None
        assert not ledger.has_spare(2)
        assert ledger.room() == 0
        ledger.release(session)
        assert ledger.room() == 1

    def test_a_replacement_that_is_put_back_waits_no_longer_than_before(self) -> None:
        ledger: Ledger[Session] = Ledger(1)
        session = ready(ledger, 2, until=2.0)
        assert ledger.take(2) is session
        ledger.put_back(session)
        assert ledger.spare_until == 2.0

    def test_it_waits_for_so_long(self) -> None:
        ledger: Ledger[Session] = Ledger(2)
        parked = ready(ledger, 2, until=2.0)
        assert ledger.take_unwanted(lambda _: False, now=1.9) == ()
        assert ledger.take_unwanted(lambda _: False, now=2.0) == (parked,)
        assert ledger.spare_until == float("inf")
        # It is still to be closed.
        assert ledger.room() == 1

    def test_room_is_made_only_where_there_is_none(self) -> None:
        ledger: Ledger[Session] = Ledger(2)
        first = ready(ledger, 2)
        assert ledger.make_room() == ()
        ledger.begin(0.0, 2, ahead=True)
        assert ledger.make_room() == (first,)
        assert ledger.make_room() == ()
