from __future__ import annotations

import signal
import time

import pytest

from ephemeral_creds.check.interruption import Interrupted, Interruption, PromptInterruption


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


def test_a_waiting_block_is_interrupted_once() -> None:
    with PromptInterruption(print) as interruption:
        with pytest.raises(KeyboardInterrupt), interruption.breakable():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with interruption.breakable(), interruption.unbroken():
            assert interruption.status == 143


def mint(interruption: PromptInterruption, signals: int, steps: list[str]) -> None:
    with interruption.unbroken():
        for _ in range(signals):
            signal.raise_signal(signal.SIGINT)
        steps.append("minted")
    steps.append("went on")


@pytest.mark.parametrize(("signals", "done"), [(1, ["minted"]), (2, [])])
def test_an_unbroken_block_survives_one_signal(signals: int, done: list[str]) -> None:
    steps: list[str] = []
    with PromptInterruption(print) as interruption:
        with pytest.raises(KeyboardInterrupt), interruption.breakable():
            mint(interruption, signals, steps)
        assert interruption.signum is signal.SIGINT
    assert steps == done


def test_a_signal_before_a_block_interrupts_it() -> None:
    with PromptInterruption(print) as interruption:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), interruption.breakable():
            pytest.fail("this is begun")


def test_a_block_may_follow_one_that_ended_with_another_error() -> None:
    with PromptInterruption(print) as interruption, interruption.breakable():
        with pytest.raises(ValueError, match="x"), interruption.unbroken():
            raise ValueError("x")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
