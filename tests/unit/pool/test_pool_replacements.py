"""Connections opened ahead: how many there may be, and who gets them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ephemeral_creds.pool.replacements import Replacements


@dataclass(eq=False)
class Session:
    """What is looked at of a connection."""

    lease_generation: int


def ready(replacements: Replacements[Session], generation: int) -> Session:
    session = Session(generation)
    assert replacements.reserve()
    replacements.add(session)
    return session


def test_never_more_than_the_overshoot() -> None:
    replacements: Replacements[Session] = Replacements(2)
    ready(replacements, 2)
    assert replacements.reserve()
    assert not replacements.reserve()
    replacements.cancel()
    assert replacements.reserve()


def test_never_more_than_there_is_to_replace() -> None:
    """One that proved the new credentials is enough for a single old connection."""
    replacements: Replacements[Session] = Replacements(4)
    ready(replacements, 2)
    assert not replacements.reserve(1)
    assert replacements.reserve(2)
    assert not replacements.reserve(2)


def test_what_was_taken_counts_until_the_old_one_is_closed() -> None:
    replacements: Replacements[Session] = Replacements(1)
    session = ready(replacements, 2)
    assert replacements.take(3) is None
    assert replacements.take(2) is session
    assert replacements.take(2) is None
    assert not replacements.withdraw(session)
    assert not replacements.reserve()
    replacements.cancel()
    assert replacements.reserve()


def test_one_that_nobody_has_taken_is_withdrawn_once() -> None:
    replacements: Replacements[Session] = Replacements(1)
    session = ready(replacements, 2)
    assert replacements.withdraw(session)
    assert not replacements.withdraw(session)
    assert replacements.reserve()


def test_an_error_gives_back_what_was_reserved() -> None:
    replacements: Replacements[Session] = Replacements(1)
    assert replacements.reserve()
    with pytest.raises(RuntimeError), replacements.reserved():
        raise RuntimeError("a defect")
    assert replacements.reserve()
    with replacements.reserved():
        replacements.add(Session(1))
    assert not replacements.reserve()


def test_a_replacement_waits_for_so_long() -> None:
    replacements: Replacements[Session] = Replacements(2)
    ready(replacements, 2)
    assert replacements.due_in(0.0) is None
    assert replacements.reserve()
    parked = Session(2)
    replacements.add(parked, until=2.0)
    assert replacements.due_in(0.5) == 1.5
    assert replacements.withdraw_all(lambda _: False, now=1.9) == []
    assert replacements.withdraw_all(lambda _: False, now=2.0) == [parked]
    assert replacements.due_in(2.0) is None


def test_room_is_made_only_where_there_is_none() -> None:
    replacements: Replacements[Session] = Replacements(2)
    first = ready(replacements, 2)
    assert replacements.make_room() is None
    assert replacements.reserve()
    assert replacements.make_room() is first
    assert replacements.make_room() is None
