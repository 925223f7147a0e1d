"""What the machine reports about a source that cannot be used, while older credentials serve."""

from __future__ import annotations

import math

from lifecycle_driver import Driver, grant

from ephemeral_creds import events
from ephemeral_creds.exceptions import ProviderUnavailable
from ephemeral_creds.lifecycle.actions import Fetch
from ephemeral_creds.lifecycle.machine import State
from ephemeral_creds.lifecycle.policy import RefreshPolicy, Tuning
from ephemeral_creds.lifecycle.signals import Close, EndLearned, Granted, SourceSeen, Start

PATIENCE = 3.0
GARBAGE = "MalformedResponse: /creds: line 1 is not KEY=VALUE"
GONE = "ProviderUnavailable: /creds is not there (yet)"


def started() -> Driver:
    driver = Driver(RefreshPolicy(_tuning=Tuning(source_patience=PATIENCE)), mints=False)
    assert driver.send(Start()) == [Fetch()]
    return driver


def serving() -> Driver:
    driver = started()
    driver.send(Granted(grant(1, driver.now, math.inf)))
    return driver


def told(driver: Driver) -> list[str]:
    """Return the problems that were told, with an empty text for each recovery."""
    kinds = (events.SourceUnusable, events.SourceRecovered)
    found = [event for event in driver.events if isinstance(event, kinds)]
    return [event.error if isinstance(event, events.SourceUnusable) else "" for event in found]


def test_a_problem_that_lasts_is_reported_once_and_nothing_stops_for_it() -> None:
    driver = serving()
    assert driver.send(SourceSeen(GARBAGE)) == []
    driver.after(PATIENCE - 0.1)
    assert told(driver) == []
    driver.after(0.1)
    assert told(driver) == [GARBAGE]
    assert driver.machine.source_error == driver.machine.last_failure == GARBAGE
    for _ in range(5):
        driver.after(1.0, SourceSeen(GARBAGE))
    assert driver.at(driver.now + 100_000) == []
    assert told(driver) == [GARBAGE]
    assert driver.machine.usable(driver.now) is not None
    assert driver.machine.counts.fetches == 1


def test_a_moment_is_nothing_to_tell() -> None:
    driver = serving()
    for _ in range(100):
        driver.send(SourceSeen(GARBAGE))
        driver.after(0.02, SourceSeen(""))
        driver.after(1.0)
    assert told(driver) == []
    assert driver.machine.source_error == ""
    assert driver.machine.deadline == math.inf


def test_recovery_is_reported_at_once_and_then_it_may_break_again() -> None:
    driver = serving()
    driver.send(SourceSeen(GARBAGE))
    driver.after(PATIENCE)
    driver.after(1.0, SourceSeen(""))
    assert told(driver) == [GARBAGE, ""]
    assert driver.machine.source_error == ""
    assert driver.machine.last_failure == GARBAGE, "for reading"
    driver.send(SourceSeen(GARBAGE))
    driver.after(PATIENCE)
    assert told(driver) == [GARBAGE, "", GARBAGE]


def test_another_problem_is_reported_where_it_lasts_too() -> None:
    driver = serving()
    driver.send(SourceSeen(GARBAGE))
    driver.after(PATIENCE)
    driver.send(SourceSeen(GONE))
    driver.after(0.5, SourceSeen(GARBAGE))
    driver.after(100.0)
    assert told(driver) == [GARBAGE]
    driver.send(SourceSeen(GONE))
    driver.after(PATIENCE)
    assert told(driver) == [GARBAGE, GONE]
    assert driver.machine.source_error == GONE


def test_a_series_of_problems_is_reported_as_one() -> None:
    driver = serving()
    for line in range(1, 60):
        driver.send(SourceSeen(f"line {line}"))
        driver.after(0.1)
    assert told(driver) == ["line 30"]


def test_a_half_written_file_after_a_problem_is_not_reported_at_once() -> None:
    driver = serving()
    driver.send(SourceSeen(GONE))
    driver.after(PATIENCE)
    driver.send(SourceSeen(GARBAGE))
    driver.after(0.02, SourceSeen(""))
    assert told(driver) == [GONE, ""]


def test_before_the_first_credentials_each_failed_fetch_tells() -> None:
    driver = started()
    driver.send(SourceSeen(GONE))
    driver.failed(ProviderUnavailable("/creds is not there (yet)"))
    driver.after(0.5)
    assert driver.machine.state is State.ACQUIRING
    driver.after(0.5)
    driver.failed(ProviderUnavailable("/creds is not there (yet)"))
    assert len(driver.events_of(events.FetchFailed)) == 2
    assert driver.after(1.9) == []
    assert told(driver) == []
    driver.after(0.1)
    driver.send(Granted(grant(1, driver.now, math.inf)))
    assert told(driver) == [GONE], "read before the last look, and still gone"
    driver.send(SourceSeen(""))
    assert told(driver) == [GONE, ""]


def test_the_warning_of_the_end_says_why_there_is_nothing_new() -> None:
    driver = serving()
    driver.send(EndLearned(1, 60.0))
    driver.send(SourceSeen(GARBAGE))
    driver.after(PATIENCE)
    driver.after(60.0, EndLearned(1, 0.0))
    (ending,) = driver.events_of(events.CredentialsEnding)
    assert ending.source_error == GARBAGE


def test_patience_may_be_none() -> None:
    driver = Driver(RefreshPolicy(_tuning=Tuning(source_patience=0.0)), mints=False)
    driver.send(Start())
    driver.send(Granted(grant(1, driver.now, math.inf)))
    driver.send(SourceSeen(GARBAGE))
    assert told(driver) == [GARBAGE]


def test_nothing_is_reported_while_closing() -> None:
    driver = serving()
    driver.send(SourceSeen(GARBAGE))
    driver.machine.handle(Close(), driver.now)
    driver.after(100.0)
    assert told(driver) == []
