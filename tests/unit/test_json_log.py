"""Events as lines of JSON."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from ephemeral_creds import Event, JSONLogObserver, Secret, events
from ephemeral_creds.observers import FIELDS

NOW = datetime(2026, 11, 25, 12, 0, 0, 250_000, tzinfo=UTC)
KINDS = [kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, Event)]


def written(event: Event) -> list[dict[str, object]]:
    stream = io.StringIO()
    JSONLogObserver(stream, now=lambda: NOW)(event)
    assert stream.getvalue().endswith("\n")
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_when_how_bad_and_what() -> None:
    event = events.RenewalFailed(keeper="k", generation=3, error="a\nb \u2028", retry_in=math.inf)
    assert written(event) == [
        {
            "time": "2026-11-25T12:00:00.250+00:00",
            "level": "warning",
            "event": "RenewalFailed",
            "keeper": "k",
            "generation": 3,
            "error": "a\nb \u2028",
            "retry_in": None,
        }
    ]


def test_a_request_is_information() -> None:
    (line,) = written(
        events.ProviderRequest(
            operation="mint", outcome="refused", address="http://v", status=403, duration=0.25
        )
    )
    assert (line["level"], line["status"], line["duration"]) == ("info", 403, 0.25)


def test_where_is_a_list() -> None:
    event = events.BorrowedAtDeadline(
        pool="p", generation=1, connections=1, age=2.0, where=("app.py:3",)
    )
    assert written(event)[0]["where"] == ["app.py:3"]


def test_a_field_that_is_not_on_the_list_is_not_written() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Custom(Event):
        password: str = "open-sesame-1"
        reason: object = Secret("open-sesame-2")

    (line,) = written(Custom())
    assert "password" not in line
    assert "sesame" not in json.dumps(line)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_ours_is_on_the_list(kind: type[Event]) -> None:
    assert {field.name for field in dataclasses.fields(kind)} <= FIELDS


def test_the_list_names_nothing_else() -> None:
    assert {field.name for kind in KINDS for field in dataclasses.fields(kind)} == FIELDS


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    JSONLogObserver()(events.LeaseRevoked(generation=1))
    assert json.loads(capsys.readouterr().err)["event"] == "LeaseRevoked"
