"""When a pool connects again after failures: pure state, and the test's own time."""

from __future__ import annotations

import psycopg
import pytest

from ephemeral_creds import RotationPolicy
from ephemeral_creds._pool_connect import ConnectFailure
from ephemeral_creds._pool_reconnects import Reconnects

FAILURE = ConnectFailure(psycopg.OperationalError("away"))
EMPTY = {"pool_size": 0}


@pytest.fixture
def reconnects() -> Reconnects:
    return Reconnects(RotationPolicy(retry_initial=1.0, retry_max=8.0))


def test_connects_that_fail_together_are_one_failure(reconnects: Reconnects) -> None:
    for _ in range(8):
        reconnects.failed(FAILURE, 1, now=0.0)
    assert reconnects.barred_for(1, now=0.0) == 1.0
    reconnects.failed(FAILURE, 1, now=1.0)
    reconnects.failed(FAILURE, 1, now=2.0)
    assert reconnects.barred_for(1, now=2.0) == 1.0
    assert reconnects.barred(1, now=2.0) is FAILURE.error
    assert reconnects.barred(1, now=3.0) is None


def test_new_credentials_are_tried_at_once(reconnects: Reconnects) -> None:
    reconnects.failed(FAILURE, 1, now=0.0)
    assert not reconnects.barred_for(2, now=0.0)
    reconnects.renewed(2)
    assert not reconnects.barred_for(1, now=0.0)


def test_a_late_failure_of_old_credentials_does_not_clear_the_new_ones(
    reconnects: Reconnects,
) -> None:
    reconnects.failed(FAILURE, 2, now=0.0)
    reconnects.failed(FAILURE, 1, now=0.5)
    assert reconnects.barred_for(2, now=0.5) == 0.5


def test_one_connect_finds_out_and_the_others_wait_for_its_answer(reconnects: Reconnects) -> None:
    reconnects.failed(FAILURE, 1, now=0.0)
    reconnects.lost(0.0, patience=300.0)
    assert not reconnects.take_due(0.5)
    assert reconnects.take_due(1.0)
    assert reconnects.missing(EMPTY, 20, 20) == 1
    assert not reconnects.take_due(1.0)
    assert reconnects.due_in(1.5) == 0.5
    assert reconnects.succeeded()
    assert reconnects.take_due(1.5)
    assert reconnects.missing({"pool_size": 1}, 20, 20) == 19


def test_what_failed_without_a_word_waits_as_well(reconnects: Reconnects) -> None:
    reconnects.lost(5.0, patience=300.0)
    assert not reconnects.take_due(5.0)
    assert reconnects.take_due(6.0)


def test_one_that_gets_no_answer_is_not_waited_for_for_ever(reconnects: Reconnects) -> None:
    reconnects.failed(FAILURE, 1, now=0.0)
    reconnects.lost(0.0, patience=300.0)
    assert reconnects.take_due(1.0)
    assert reconnects.missing(EMPTY, 20, 20) == 1
    assert reconnects.take_due(2.0)
