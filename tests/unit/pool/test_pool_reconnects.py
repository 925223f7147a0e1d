"""When a pool connects again after failures: pure state, and the test's own time."""

from __future__ import annotations

import math

import psycopg
import pytest

from ephemeral_creds import RotationPolicy
from ephemeral_creds.exceptions import AccessDenied, ConfigurationError
from ephemeral_creds.pool.reconnects import ConnectFailure, Reconnects

FAILURE = ConnectFailure(psycopg.OperationalError("away"))


@pytest.fixture
def reconnects() -> Reconnects:
    return Reconnects(RotationPolicy(retry_initial=1.0, retry_max=8.0))


def test_connects_that_fail_together_are_one_failure(reconnects: Reconnects) -> None:
    for _ in range(8):
        reconnects.failed(FAILURE, 1, now=0.0)
    assert reconnects.barred_until(1) == 1.0
    reconnects.failed(FAILURE, 1, now=1.0)
    reconnects.failed(FAILURE, 1, now=2.0)
    assert reconnects.barred_until(1) == 3.0


def test_new_credentials_are_tried_at_once(reconnects: Reconnects) -> None:
    reconnects.failed(FAILURE, 1, now=0.0)
    assert reconnects.barred_until(2) == -math.inf
    reconnects.renewed(2)
    assert reconnects.barred_until(1) == -math.inf


def test_a_late_failure_of_old_credentials_does_not_clear_the_new_ones(
    reconnects: Reconnects,
) -> None:
    reconnects.failed(FAILURE, 2, now=0.0)
    reconnects.failed(FAILURE, 1, now=0.5)
    assert reconnects.barred_until(2) == 1.0


def test_one_connect_finds_out_and_the_others_wait_for_its_answer(reconnects: Reconnects) -> None:
    reconnects.failed(FAILURE, 1, now=0.0)
    for retry in "abc":
        reconnects.hold(retry, now=0.0)
    assert reconnects.release(0.5) == []
    assert reconnects.release(1.0) == ["a"]
    assert reconnects.release(1.0) == []
    assert reconnects.release_at == 2.0
    reconnects.succeeded()
    assert reconnects.release(1.5) == ["b", "c"]
    assert reconnects.release_at == math.inf


def test_a_connect_that_failed_without_an_error_waits_as_well(reconnects: Reconnects) -> None:
    reconnects.hold("a", now=5.0)
    assert reconnects.release(5.0) == []
    assert reconnects.release(6.0) == ["a"]


def test_a_retry_without_an_outcome_does_not_block_the_next(reconnects: Reconnects) -> None:
    reconnects.failed(FAILURE, 1, now=0.0)
    for retry in "ab":
        reconnects.hold(retry, now=0.0)
    assert reconnects.release(1.0) == ["a"]
    assert reconnects.release(2.0) == ["b"]


@pytest.mark.parametrize("error", [AccessDenied("no policy"), ConfigurationError("no role")])
def test_a_configuration_error_is_forgotten_with_new_credentials(
    reconnects: Reconnects, error: Exception
) -> None:
    reconnects.failed(ConnectFailure(error), 0, now=0.0)
    reconnects.renewed(1)
    assert reconnects.last_failure is None
    reconnects.failed(FAILURE, 1, now=1.0)
    reconnects.renewed(2)
    assert reconnects.last_failure is FAILURE


def test_a_configuration_error_of_these_credentials_is_not_forgotten_with_them(
    reconnects: Reconnects,
) -> None:
    """A connect may fail before the pool hears of the credentials that it has used."""
    failure = ConnectFailure(ConfigurationError("no TLS"))
    reconnects.failed(failure, 1, now=0.0)
    reconnects.renewed(1)
    assert reconnects.last_failure is failure
    reconnects.renewed(2)
    assert reconnects.last_failure is None


class TestOutage:
    def test_it_is_reported_on_time_and_not_with_the_next_failure(
        self, reconnects: Reconnects
    ) -> None:
        for now in (10.0, 11.0, 13.0, 17.0):
            reconnects.failed(FAILURE, 1, now)
            reconnects.hold("a", now)
        assert reconnects.outage_at(patience=8.0) == 18.0
        assert not reconnects.take_outage(17.9, patience=8.0)
        assert reconnects.take_outage(18.0, patience=8.0)

    def test_it_is_reported_once_until_a_connect_succeeds(self, reconnects: Reconnects) -> None:
        reconnects.failed(FAILURE, 1, now=0.0)
        reconnects.hold("a", now=0.0)
        assert reconnects.take_outage(9.0, patience=8.0)
        reconnects.failed(FAILURE, 1, now=9.0)
        assert reconnects.outage_at(patience=8.0) == math.inf
        reconnects.succeeded()
        assert not reconnects.take_outage(99.0, patience=8.0)
        reconnects.failed(FAILURE, 1, now=100.0)
        reconnects.hold("a", now=100.0)
        assert reconnects.take_outage(108.0, patience=8.0)

    def test_without_end_there_is_nothing_to_wait_for(self, reconnects: Reconnects) -> None:
        reconnects.failed(FAILURE, 1, now=0.0)
        reconnects.hold("a", now=0.0)
        assert reconnects.outage_at(patience=math.inf) == math.inf

    def test_a_rotation_that_cannot_begin_is_no_outage(self, reconnects: Reconnects) -> None:
        reconnects.failed(FAILURE, 1, now=0.0)
        assert reconnects.outage_at(patience=8.0) == math.inf
        reconnects.hold("a", now=9.0)
        assert reconnects.take_outage(9.0, patience=8.0)

    def test_the_only_retry_being_tried_is_no_end_of_it(self, reconnects: Reconnects) -> None:
        reconnects.failed(FAILURE, 1, now=0.0)
        reconnects.hold("a", now=0.0)
        assert reconnects.release(1.0) == ["a"]
        assert reconnects.take_outage(8.0, patience=8.0)
