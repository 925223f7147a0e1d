"""Two connections that LISTEN at the same time, put together."""

from __future__ import annotations

import pytest
from psycopg import Notify

from ephemeral_creds.contrib.psycopg.overlap import Overlap


def notes(text: str) -> list[Notify]:
    """Return a notification for each letter; ``|`` is the mark, ``/`` another payload there."""
    marks = {"|": "now", "/": "before"}
    return [
        Notify("marks", marks[each], 1) if each in marks else Notify("jobs", each, 1)
        for each in text
    ]


def said(notifications: list[Notify]) -> str:
    return "".join(n.payload for n in notifications if n.channel == "jobs")


@pytest.mark.parametrize(
    ("old", "new", "passed", "rest"),
    [
        # Both received c to e; the new one does not know of a and b, nor the old one of f.
        ("abc|de", "c|def", "abc", "def"),
        ("abc|", "|", "abc", ""),
        ("|a", "|a", "", "a"),
        # The mark of a replacement before this one.
        ("a/b|c", "b|c", "ab", "c"),
    ],
)
def test_a_mark_divides_what_both_received(old: str, new: str, passed: str, rest: str) -> None:
    overlap = Overlap("marks", "now")
    overlap.new(notes(new))
    assert not overlap.is_complete
    assert said(overlap.old(notes(old))) == passed
    assert overlap.is_complete
    assert said(overlap.rest()) == rest


def test_the_order_in_which_they_are_read_does_not_matter() -> None:
    overlap = Overlap("marks", "now")
    passed = overlap.old(notes("ab"))
    overlap.new(notes("b"))
    passed += overlap.old(notes("c|d"))
    assert not overlap.is_complete
    overlap.new(notes("c|d"))
    overlap.new(notes("e"))
    assert overlap.is_complete
    assert said(passed + overlap.rest()) == "abcde"


def test_all_of_the_new_one_counts_if_the_old_one_broke() -> None:
    overlap = Overlap("marks", "now")
    overlap.new(notes("bc|d"))
    assert said(overlap.old(notes("ab"))) == "ab"
    # A duplicate is possible then, a loss before b as well: the consumer is told.
    assert said(overlap.rest()) == "bcd"
