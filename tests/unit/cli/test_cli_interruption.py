from __future__ import annotations

import signal
import time

import pytest

from ephemeral_creds.cli._interruption import Interrupted, Interruption


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_is_noted_not_raised(signum: signal.Signals, status: int) -> None:
    with Interruption(print) as interruption:
        interruption.check()
        assert interruption.status == 0
        signal.raise_signal(signum)
        assert interruption.status == status
        with pytest.raises(Interrupted):
            interruption.check()


def test_the_first_one_counts() -> None:
    with Interruption(print) as interruption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert interruption.signum is signal.SIGTERM


def test_the_first_one_is_said_once_and_not_by_the_handler() -> None:
    said: list[str] = []
    with Interruption(said.append) as interruption:
        assert not interruption.noticed()
        signal.raise_signal(signal.SIGTERM)
        assert said == []
        interruption.sleep(60)
        signal.raise_signal(signal.SIGINT)
        assert interruption.noticed()
        assert said == ["SIGTERM: stopping and cleaning up"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption(print):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_ends_sleeping_and_waiting() -> None:
    with Interruption(print) as interruption:
        signal.raise_signal(signal.SIGINT)
        begun = time.monotonic()
        interruption.sleep(60)
        with pytest.raises(Interrupted):
            interruption.wait_for(lambda: False, 60)
        assert time.monotonic() - begun < 10


def test_waiting_says_whether_it_came_true() -> None:
    with Interruption(print) as interruption:
        assert interruption.wait_for(lambda: True, 0.0)
        assert not interruption.wait_for(lambda: False, 0.0)
