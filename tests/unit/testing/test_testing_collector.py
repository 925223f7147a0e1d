"""The event collector, and the fakes that it is used with: no servers, no waiting."""

from __future__ import annotations

import threading

import pytest

from ephemeral_creds import CredentialKeeper, LeaseLost
from ephemeral_creds.events import (
    CredentialsIssued,
    CredentialsPublished,
    Event,
    LeaseRenewed,
    RenewalFailed,
)
from ephemeral_creds.testing import EventCollector, FakeClock, ScriptedProvider, TickingClock

ISSUED = CredentialsIssued(
    keeper="k", generation=1, username="u", duration=1.0, reason="start"
)  # fmt: skip


def test_of_picks_a_kind() -> None:
    events = EventCollector()
    events(ISSUED)
    assert events.of(CredentialsIssued) == [ISSUED]
    assert events.of(LeaseRenewed) == []
    assert events.of(Event) == list(events) == [ISSUED]


def test_wait_for_continues_after_the_event_that_it_returned() -> None:
    events = EventCollector()
    events(ISSUED)
    assert events.wait_for(CredentialsIssued) is ISSUED
    with pytest.raises(AssertionError, match="no CredentialsIssued in 0 s, only: nothing"):
        events.wait_for(CredentialsIssued, timeout=0.0)


def test_wait_for_names_the_events_that_came_instead() -> None:
    events = EventCollector()
    events(ISSUED)
    with pytest.raises(AssertionError, match="no LeaseRenewed in 0 s, only: CredentialsIssued"):
        events.wait_for(LeaseRenewed, timeout=0.0)


def test_wait_for_waits() -> None:
    events = EventCollector()
    told = threading.Thread(target=events, args=[ISSUED])
    told.start()
    assert events.wait_for(CredentialsIssued) is ISSUED
    told.join()


def test_a_lease_that_cannot_be_renewed_is_replaced() -> None:
    clock, events = FakeClock(), EventCollector()
    provider = ScriptedProvider(clock, duration=3600.0)
    provider.failures["renew"].append(LeaseLost("the lease is gone"))
    with CredentialKeeper(provider, clock=clock, observers=[events]):
        events.wait_for(CredentialsPublished)
        clock.advance(2400.0)
        assert "the lease is gone" in events.wait_for(RenewalFailed).error
        assert events.wait_for(CredentialsPublished).generation == 2


def test_ticking_clock_moves_by_itself_and_by_a_test() -> None:
    clock = TickingClock()
    before = clock.now()
    clock.advance(3600.0)
    assert 3600.0 <= clock.now() - before < 3660.0


def test_ticking_clock_wakes_threads_that_wait_for_an_instant() -> None:
    clock, changed = TickingClock(), threading.Condition()
    until = clock.now() + 3600.0
    with changed:
        waking = threading.Thread(target=clock.advance, args=[3600.0])
        waking.start()
        while clock.now() < until:
            clock.wait(changed, until)
    waking.join()


def test_ticking_clock_does_not_wait_for_the_past() -> None:
    clock, changed = TickingClock(), threading.Condition()
    with changed:
        clock.wait(changed, clock.now() - 1.0)
