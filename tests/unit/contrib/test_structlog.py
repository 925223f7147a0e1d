"""Events as entries of structlog."""

from __future__ import annotations

import math

import pytest

from ephemeral_creds import events

structlog = pytest.importorskip("structlog")

from structlog.testing import capture_logs  # noqa: E402

from ephemeral_creds.contrib.structlog import StructlogObserver  # noqa: E402


def test_a_problem_is_a_warning_with_its_fields() -> None:
    observer = StructlogObserver()
    with capture_logs() as entries:
        observer(events.RenewalFailed(keeper="k", generation=3, error="e", retry_in=math.inf))
    assert entries == [
        {
            "event": "RenewalFailed",
            "log_level": "warning",
            "keeper": "k",
            "generation": 3,
            "error": "e",
            "retry_in": None,
        }
    ]


def test_everything_else_is_information() -> None:
    observer = StructlogObserver(structlog.get_logger("mine").bind(service="orders"))
    with capture_logs() as entries:
        observer(events.LeaseRevoked(keeper="k", generation=3))
    (entry,) = entries
    assert (entry["log_level"], entry["service"]) == ("info", "orders")
