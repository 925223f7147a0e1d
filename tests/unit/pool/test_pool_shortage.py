"""What a pool says of its connections when it can lend none of them."""

from __future__ import annotations

import pytest

from ephemeral_creds.pool.shortage import Shortage


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Shortage(4, 4, borrowed=4), ["all connections are in use; raise max_size"]),
        (Shortage(4, 4, borrowed=3, connecting=(2.0,)), ["3 in use", "1 connecting for 2.0 s"]),
        (Shortage(1, 1, connecting=(30.0,)), ["1 connecting for 30.0 s without an answer"]),
        (
            Shortage(8, 8, idle=2, connecting=(0.1, 0.4), waiting=4),
            ["of 8 connections", "2 idle", "2 connecting for 0.4 s", "4 waiting to be opened"],
        ),
        (Shortage(2, 9, configuring=(5.0, 1.0)), ["2 in configure= for 5.0 s"]),
        (
            Shortage(2, 2, idle=2, check_error="ValueError at x.py:1"),
            ["2 idle, and check= fails: ValueError at x.py:1"],
        ),
        (Shortage(3, 3, borrowed=1), ["1 in use", "2 closed and never returned"]),
        (Shortage(1, 1, idle=1, hurried=True), ["it was given no time"]),
        (Shortage(0, 4), ["none open"]),
    ],
)
def test_the_text_names_each_cause(found: Shortage, said: list[str]) -> None:
    text = str(found)
    assert [part for part in said if part not in text] == []
    assert ("raise max_size" in text) == (found.borrowed == found.max_size)


@pytest.mark.parametrize(
    ("found", "unanswered"),
    [
        (Shortage(1, 1, connecting=(30.0,)), True),
        (Shortage(2, 2, connecting=(30.0,), waiting=1), True),
        (Shortage(2, 2, connecting=(30.0,), borrowed=1), False),
        (Shortage(2, 2, connecting=(30.0,), idle=1), False),
        (Shortage(2, 2, connecting=(30.0,), configuring=(1.0,)), False),
        (Shortage(2, 2), False),
    ],
)
def test_a_server_is_silent_if_nothing_shows_that_it_answers(
    found: Shortage, unanswered: bool
) -> None:
    assert found.unanswered == unanswered
