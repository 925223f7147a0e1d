from __future__ import annotations

import math

import pytest

from ephemeral_creds._backoff import backoff


@pytest.mark.parametrize(
    ("failures", "delay"), [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 10.0), (10_000, 10.0)]
)
def test_it_doubles_up_to_the_longest(failures: int, delay: float) -> None:
    assert backoff(failures, 0.5, 10.0) == delay


def test_without_a_longest_it_stays_a_number() -> None:
    assert backoff(10_000, 0.5, math.inf) < math.inf


def test_jitter_reduces_the_capped_delay() -> None:
    assert backoff(9, 1.0, 10.0, jitter=0.1) == pytest.approx(9.0)
