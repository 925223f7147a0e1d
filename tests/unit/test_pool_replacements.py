"""Connections opened ahead: how many there may be, and who gets them."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeral_creds._pool_replacements import Replacements


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


def test_no_more_claims_than_replacements_that_are_ready() -> None:
    replacements: Replacements[Session] = Replacements(2)
    assert not replacements.claim(2)
    session = ready(replacements, 2)
    assert not replacements.claim(3)
    assert replacements.claim(2)
    assert not replacements.claim(2)
    assert replacements.take(2) is session
    assert replacements.take(2) is None
