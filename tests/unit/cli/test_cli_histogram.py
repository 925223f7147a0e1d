from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeral_creds.cli._histogram import Histogram


def of(*durations: float) -> Histogram:
    histogram = Histogram()
    for duration in durations:
        histogram.record(duration)
    return histogram


def test_empty_has_no_quantiles() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().count == 0


def test_quantiles_of_a_thousand() -> None:
    histogram = of(*(number / 1000 for number in range(1, 1001)))
    assert histogram.quantile(0.5) == pytest.approx(0.5, rel=0.03)
    assert histogram.quantile(0.999) == pytest.approx(0.999, rel=0.03)
    assert histogram.quantile(1.0) == 1.0


def test_one_slow_in_a_thousand_is_not_in_the_999th() -> None:
    histogram = of(*[0.001] * 999, 2.0)
    assert histogram.quantile(0.999) == pytest.approx(0.001, rel=0.03)
    assert histogram.quantile(1.0) == 2.0


def test_extremes_stay_in_bounds() -> None:
    histogram = of(0.0, 1e-9, 1e9)
    assert histogram.count == 3
    assert histogram.quantile(0.5) is not None


def test_adding_is_counting_together() -> None:
    one, other = of(0.001, 0.002), of(0.5)
    one.add(other)
    assert one.count == 3
    assert one.quantile(1.0) == 0.5
    assert other.count == 1


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_at_most_2_percent_above(durations: list[float], fraction: float) -> None:
    exact = sorted(durations)[max(math.ceil(len(durations) * fraction), 1) - 1]
    found = of(*durations).quantile(fraction)
    assert found is not None
    assert exact * 0.9999 <= found <= exact * 1.021
