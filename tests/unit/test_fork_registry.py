"""A child of a fork is told what is its parent's, and waits for no thread of its parent."""

from __future__ import annotations

import gc
import io
import os
import signal
from typing import TYPE_CHECKING, cast

import pytest

from ephemeral_creds import AppRoleAuth, JSONLogObserver, Secret
from ephemeral_creds._fork import register, registered
from ephemeral_creds.events import LeaseRevoked

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.providers.vault.http.client import VaultClient

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

PATIENCE = 20


def succeeds_in_a_child(function: Callable[[], object]) -> bool:
    """Whether `function` returns something true in a child; one that hangs is killed."""
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)
        succeeded = False
        try:
            succeeded = bool(function())
        finally:
            os._exit(0 if succeeded else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Inherited:
    """Counts the forks that it came through."""

    def __init__(self) -> None:
        self.forks = 0
        register(self)

    def _after_fork(self) -> None:
        self.forks += 1


class Other(Inherited):
    pass


def test_registered_objects_are_found_by_type() -> None:
    one, other = Inherited(), Other()
    assert set(registered(Inherited)) == {one, other}
    assert registered(Other) == [other]


def test_unreferenced_objects_are_forgotten() -> None:
    Inherited()
    gc.collect()
    assert registered(Inherited) == []


def test_each_owner_is_notified_in_each_child_and_none_in_the_parent() -> None:
    one, other = Inherited(), Other()

    def told() -> bool:
        in_the_child = one.forks == other.forks == 1
        return in_the_child and succeeds_in_a_child(lambda: one.forks == other.forks == 2)

    assert succeeds_in_a_child(told)
    assert succeeds_in_a_child(told)
    assert one.forks == other.forks == 0


def test_an_event_is_written_although_another_was_being_written() -> None:
    stream = io.StringIO()
    observer = JSONLogObserver(stream)

    def write() -> bool:
        observer(LeaseRevoked(generation=2))
        return '"generation": 2' in stream.getvalue()

    with observer._lock:
        assert succeeds_in_a_child(write)


class UnwrappingClient:
    """As much of a `VaultClient` as unwrapping takes."""

    def unwrap_secret_id(self, wrapping: Secret) -> Secret:
        return Secret(f"unwrapped from {wrapping.reveal()}")


def test_a_login_continues_although_another_was_unwrapping() -> None:
    wrapping = Secret("wrapping-token-of-the-fork")
    auth = AppRoleAuth("role", wrapping, wrapped=True)
    client = cast("VaultClient", UnwrappingClient())
    with auth._unwrapping:
        assert succeeds_in_a_child(lambda: auth._unwrap(client, wrapping))
