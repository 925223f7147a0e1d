"""The arithmetic of the policies."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeral_creds import ConfigurationError, RefreshPolicy, RotationPolicy
from ephemeral_creds.lifecycle.limiter import Limiter
from ephemeral_creds.lifecycle.policy import Tuning


@given(st.floats(0.001, 1e9), st.floats(0, 1))
def test_r1_renewal_is_within_the_lease_and_leaves_a_tenth(duration: float, draw: float) -> None:
    after = RefreshPolicy().renew_after(duration, draw)
    assert 0 < after <= duration * 0.9


@given(st.floats(60, 1e9), st.floats(0, 1))
def test_r1_renewal_leaves_the_margin_where_there_is_room(duration: float, draw: float) -> None:
    assert duration - RefreshPolicy().renew_after(duration, draw) >= 30.0 - 1e-6


def test_without_an_end_there_is_no_renewal() -> None:
    assert RefreshPolicy().renew_after(math.inf, 0.5) == math.inf


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_backoff_is_bounded(failures: int, draw: float) -> None:
    assert 0.9 <= RefreshPolicy().retry_after(failures, draw) <= 60.0
    assert 0.25 <= RotationPolicy().retry_after(failures) <= 10.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"renew_at": 0.0},
        {"renew_at": 1.0},
        {"jitter": 0.6},
        {"margin": -1.0},
        {"retry_initial": 0.0},
        {"retry_max": 0.5},
        {"retry_max": math.inf},
        {"proof_timeout": -1.0},
        {"grace": math.inf},
        {"mint_burst": 0},
        {"mint_interval": math.inf},
        {"margin": math.nan},
        {"margin": "3"},
        {"jitter": True},
        {"mint_burst": 1.5},
    ],
)
def test_values_out_of_range_are_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=name):
        RefreshPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["proof_timeout", "margin", "grace", "mint_interval", "jitter"])
def test_next_to_nothing_is_enough(name: str) -> None:
    policy = RefreshPolicy(**{name: 0.01})  # type: ignore[arg-type]
    assert getattr(policy, name) == 0.01


def test_the_longest_delay_is_not_below_the_first() -> None:
    with pytest.raises(ConfigurationError, match=r"retry_max=3.*at least retry_initial"):
        RefreshPolicy(retry_initial=4.0, retry_max=3.0)
    assert RefreshPolicy(retry_initial=4.0, retry_max=4.0).retry_max == 4.0


def test_former_settings_cause_a_warning_and_no_error() -> None:
    with pytest.warns(DeprecationWarning, match=r"escalate_at=, config_retry=.*constant") as told:
        policy = RefreshPolicy(escalate_at=0.4, config_retry=7.0, margin=3.0)  # type: ignore[call-arg]
    assert told[0].filename == __file__
    assert policy.margin == 3.0
    assert policy.tuning == Tuning(config_retry=7.0)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="renew_sometimes"):
        RefreshPolicy(renew_sometimes=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", [{"proof_attempts": 0}, {"config_retry": math.inf}])
def test_constants_for_tests_have_ranges_too(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=name):
        Tuning(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["overshoot", "park", "retry_max", "connect_timeout"])
def test_rotation_values_out_of_range_are_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        RotationPolicy(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [1.5, True, "2"])
def test_connections_are_whole(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"overshoot.*a whole number, at least 1"):
        RotationPolicy(overshoot=wrong)


class TestLimiter:
    def test_a_burst_then_one_per_interval(self) -> None:
        limiter = Limiter(10.0, 2)
        times = []
        now = 100.0
        for _ in range(5):
            now = limiter.available_at(now)
            limiter.take(now)
            times.append(now)
        assert times == [100.0, 100.0, 110.0, 120.0, 130.0]

    def test_quiet_time_does_not_save_up_more_than_a_burst(self) -> None:
        limiter = Limiter(10.0, 2)
        limiter.take(0.0)
        times = []
        now = 1000.0
        for _ in range(3):
            now = limiter.available_at(now)
            limiter.take(now)
            times.append(now)
        assert times == [1000.0, 1000.0, 1010.0]
