from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from demo_report import REPORT
from ephemeral_creds.cli._live import LiveView
from ephemeral_creds.cli._view import EventLog, PlainView, Snapshot, make_view
from ephemeral_creds.events import (
    CredentialsPublished,
    LeaseRenewed,
    LeaseRevoked,
    PoolRotated,
    ProviderRequest,
    RevocationFailed,
)

ENTER_ALTERNATE_SCREEN, LEAVE_ALTERNATE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
SNAPSHOT = Snapshot(
    elapsed=0.0,
    seconds=60.0,
    generation=2,
    username="v-app-2",
    expires_in=3.25,
    connections={1: 2, 2: 8},
    rate=1234.5,
    queries=5000,
    failed=0,
    rotations=1,
)


@pytest.mark.parametrize(("interval", "expected"), [(1.0, [0, 1, 2, 6]), (5.0, [0, 6])])
def test_plain_is_one_line_in_an_interval(interval: float, expected: list[int]) -> None:
    out = io.StringIO()
    with PlainView(out, interval=interval) as view:
        for elapsed in (0.0, 0.25, 0.75, 1.0, 1.25, 2.1, 6.0):
            view.show(replace(SNAPSHOT, elapsed=elapsed))
    lines = out.getvalue().splitlines()
    assert [int(line.split()[0]) for line in lines] == expected
    assert "generation 2  lease 3.2 s  connections 2×gen1 8×gen2" in lines[0]


def test_plain_ends_with_table_and_verdict() -> None:
    out = io.StringIO()
    with PlainView(out) as view:
        view.finish(REPORT)
    text = out.getvalue()
    assert "file (OpenBao 2.7.2)" in text
    assert text.splitlines()[-1].startswith("Kept:")


def test_events_are_taken_once_and_bounded() -> None:
    log = EventLog(verbose=True)
    log(CredentialsPublished(generation=2, username="v-2", previous=1, proven=True))
    log(PoolRotated(keeper="k", pool="demo", generation=2, connections=10, duration=0.123))
    assert log.take() == [
        "CredentialsPublished generation=2 username=v-2 previous=1 proven=True",
        "PoolRotated pool=demo generation=2 connections=10 duration=0.1",
    ]
    assert log.take() == []
    for _ in range(1000):
        log(PoolRotated(pool="demo", generation=2, connections=1, duration=0.0))
    assert len(log.take()) == 500


def test_people_get_rotations_and_problems_and_no_requests() -> None:
    log = EventLog()
    log(ProviderRequest(operation="mint", outcome="done", address="http://127.0.0.1:8200"))
    log(CredentialsPublished(generation=2, username="v-2", previous=1, proven=True))
    log(PoolRotated(keeper="k", pool="demo", generation=2, connections=10, duration=0.123))
    log(LeaseRenewed(generation=2, duration=4.0, shortened=False))
    log(LeaseRevoked(generation=1))
    log(RevocationFailed(generation=3, error="gone", final=True))
    assert log.take() == [
        "         generation 2: user v-2",
        "         generation 2: 10 connections rotated in 0.12 s",
        "         generation 1: last connection closed, lease revoked",
        "         RevocationFailed generation=3 error=gone final=True",
    ]


@pytest.mark.parametrize("term", ["dumb", "", None])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    term: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    if term is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", term)
    assert type(make_view(json=False, verbose=False)) is PlainView


def test_a_terminal_gets_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert type(make_view(json=False, verbose=False)) is LiveView
    assert type(make_view(json=True, verbose=False)) is PlainView


def test_failed_revocations_are_kept_for_the_end() -> None:
    log = EventLog()
    log(RevocationFailed(generation=3, error="ProviderUnavailable: gone", final=True))
    log(PoolRotated(pool="demo", generation=2, connections=1, duration=0.0))
    line = "RevocationFailed generation=3 error=ProviderUnavailable: gone final=True"
    assert log.take()[0].strip() == line
    assert log.unrevoked == (line,)


def test_live_shows_the_same_and_ends_with_the_table() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=100, height=40)) as view:
        view.say("CredentialsPublished generation=2")
        view.show(SNAPSHOT)
        view.finish(REPORT)
    meanwhile, after = out.getvalue().split(LEAVE_ALTERNATE_SCREEN)
    assert meanwhile.startswith(ENTER_ALTERNATE_SCREEN)
    for part in ("3.2 s", "v-app-2", "1234 per second", "CredentialsPublished"):
        assert part in meanwhile
        assert part not in after
    assert "file (OpenBao 2.7.2)" in after
    assert "Kept:" in after


def test_live_cuts_a_user_name_that_is_too_long_for_the_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=40, height=40)
    with LiveView(console) as view:
        view.show(replace(SNAPSHOT, username="v-" + "a" * 40))
    lines = out.getvalue().splitlines()
    (generation,) = [line for line in lines if "generation   2 (" in line]
    assert "aaa…" in generation
    assert "connections  generation" in lines[lines.index(generation) + 2]


def test_live_has_no_colours_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    def shown() -> str:
        out = io.StringIO()
        with LiveView(Console(file=out, force_terminal=True, width=100, height=40)) as view:
            view.show(SNAPSHOT)
        return out.getvalue()

    green = "\x1b[32m"
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert green in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert green not in shown()


def test_live_holds_back_other_output(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=100, height=40)) as view:
        print("as a traceback", file=sys.stderr)
        assert capsys.readouterr().err == ""
        view.finish(REPORT)
    assert capsys.readouterr().err == "as a traceback\n"
    assert "traceback" not in out.getvalue()
