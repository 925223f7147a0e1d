"""A child of a fork is not kept waiting for what a thread of its parent was doing."""

from __future__ import annotations

import io
import os
import signal
from typing import TYPE_CHECKING, cast

import pytest

from ephemeral_creds import AppRoleAuth, JSONLogObserver, Secret
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


def test_a_login_goes_on_although_another_was_unwrapping() -> None:
    wrapping = Secret("wrapping-token-of-the-fork")
    auth = AppRoleAuth("role", wrapping, wrapped=True)
    client = cast("VaultClient", UnwrappingClient())
    with auth._unwrapping:
        assert succeeds_in_a_child(lambda: auth._unwrap(client, wrapping))
