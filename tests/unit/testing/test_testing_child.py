"""Calls in a child of a fork, as the contract of providers makes them."""

from __future__ import annotations

import os
import threading

from ephemeral_creds.testing._process import in_child


def fail() -> None:
    raise ValueError("not here")


def test_a_call_that_works_is_silent() -> None:
    assert in_child(lambda: None, 20.0) == ""


def test_a_failure_is_told() -> None:
    assert in_child(fail, 20.0) == "ValueError: not here"


def test_a_child_that_waits_for_a_lock_of_its_parent_is_ended() -> None:
    lock = threading.Lock()
    with lock:
        said = in_child(lock.acquire, 0.05)
    assert said.startswith("no end within 0.05 s")


def test_a_child_returns_nothing_to_the_test_itself() -> None:
    before = os.getpid()
    in_child(fail, 20.0)
    assert os.getpid() == before
