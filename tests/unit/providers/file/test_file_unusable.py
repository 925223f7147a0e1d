"""A new file that cannot be used is reported, while the credentials before it serve."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING

import pytest
from watched_file import GENEROUS, POLL, text

from ephemeral_creds.events import (
    CredentialsIssued,
    Event,
    FetchFailed,
    Problem,
    SourceRecovered,
    SourceUnusable,
)
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.keeper.keeper import CredentialKeeper
from ephemeral_creds.lifecycle.policy import RefreshPolicy, Tuning
from ephemeral_creds.providers.file import FilePolicy, FileProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CANARY = "A1a-canary-Pw9"


class Events:
    """Remembers events, and waits for them."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.all.append(event)
            self._changed.notify_all()

    def of(self, kind: type[Event], words: str = "") -> list[Event]:
        """Return those of a kind whose error begins with `words`, a pattern."""
        return [
            event
            for event in self.all
            if isinstance(event, kind) and re.match(words, getattr(event, "error", ""))
        ]

    def wait_for(self, kind: type[Event], count: int = 1, *, words: str = "") -> None:
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self.of(kind, words)) >= count, GENEROUS)
            assert enough, self.all


def write(path: Path, content: str, mode: int = 0o600) -> None:
    """Replace what is at `path` in one step."""
    temporary = path.with_name("new")
    temporary.write_text(content)
    temporary.chmod(mode)
    temporary.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "creds"
    write(path, text("one"))
    return path


@pytest.fixture
def told() -> Events:
    return Events()


@pytest.fixture
def keeper(path: Path, told: Events) -> Iterator[CredentialKeeper]:
    """A keeper that serves what the file says, and has no patience with what it cannot read."""
    path.parent.chmod(0o755)
    provider = FileProvider(
        path, policy=FilePolicy(world_readable="refuse", max_size=1000), poll_interval=POLL
    )
    policy = RefreshPolicy(_tuning=Tuning(source_patience=0.0))
    with CredentialKeeper(provider, refresh=policy, observers=[told]) as keeper:
        keeper.wait(GENEROUS)
        yield keeper


def garbage(path: Path) -> None:
    write(path, f"{CANARY}\n")


def unrendered(path: Path) -> None:
    write(path, text("{{ .Data.password }}"))


def half_written(path: Path) -> None:
    with path.open("w") as file:
        file.write(f"DB_USERNAME=app\nDB_PASSWORD={CANARY}\nDB_PO")


def refused(path: Path) -> None:
    write(path, text(CANARY), 0o644)


def too_large(path: Path) -> None:
    write(path, text(CANARY * 1000))


def gone(path: Path) -> None:
    path.unlink()


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def mended(path: Path, password: str) -> None:
    if path.is_dir():
        path.rmdir()
    write(path, text(password))


BREAKS: list[tuple[Callable[[Path], None], str]] = [
    (garbage, "ConfigurationError: PATH: line 1 is not KEY=VALUE"),
    (unrendered, "ConfigurationError: PATH: DB_PASSWORD is a template's expression"),
    (half_written, "MalformedResponse: PATH: line 3 is not KEY=VALUE"),
    (refused, r"ConfigurationError: PATH is readable by every .*FilePolicy\.world_readable"),
    (too_large, r"ConfigurationError: PATH has \d+ bytes"),
    (gone, "ProviderUnavailable: PATH does not exist"),
    (
        a_directory,
        "ProviderUnavailable: PATH is an empty directory: if it should get one",
    ),
]


@pytest.mark.parametrize(("breaks", "words"), BREAKS, ids=[b.__name__ for b, _ in BREAKS])
def test_it_is_reported_once_and_the_old_credentials_serve(
    breaks: Callable[[Path], None], words: str, path: Path, keeper: CredentialKeeper, told: Events
) -> None:
    breaks(path)
    words = words.replace("PATH", re.escape(str(path)))
    told.wait_for(SourceUnusable, words=words)
    status = keeper.status()
    assert re.match(words, status.source_error or "")
    assert status.ready
    assert status.state == "serving"
    assert status.last_error == status.source_error
    assert keeper.current().credentials.password.reveal() == "one"
    assert not told.of(FetchFailed)
    mended(path, "one")
    told.wait_for(SourceRecovered)
    assert keeper.status().source_error is None
    assert len(told.of(SourceUnusable, words)) == 1
    assert CANARY not in repr(told.all)
    assert keeper.status().generation == 1
    mended(path, "two")
    told.wait_for(CredentialsIssued, 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_any_more(
    path: Path, keeper: CredentialKeeper, told: Events
) -> None:
    path.chmod(0)
    told.wait_for(SourceUnusable)
    assert "not allowed to read" in (keeper.status().source_error or "")
    path.chmod(0o600)
    told.wait_for(SourceRecovered)


def test_a_provider_reports_each_problem_and_a_keeper_those_that_last(path: Path) -> None:
    """The watch has no patience of its own: when a problem counts is for the machine to say."""
    seen, told = Events(), Events()
    provider = FileProvider(path, poll_interval=POLL)
    hear = provider.observe

    def observe(report: Callable[[Event], None]) -> None:
        def both(event: Event) -> None:
            seen(event)
            report(event)

        hear(both)

    provider.observe = observe  # type: ignore[method-assign]
    policy = RefreshPolicy(_tuning=Tuning(source_patience=3600.0))
    with CredentialKeeper(provider, refresh=policy, observers=[told]) as keeper:
        keeper.wait(GENEROUS)
        half_written(path)
        seen.wait_for(SourceUnusable)
        mended(path, "two")
        seen.wait_for(SourceRecovered)
        told.wait_for(CredentialsIssued, 2)
        assert keeper.status().source_error is None
    assert not told.of(Problem)


def test_a_fetch_alone_reports_nothing_to_the_observer(path: Path) -> None:
    provider = FileProvider(path)
    seen = Events()
    provider.observe(seen)
    path.unlink()
    with pytest.raises(EphemeralCredsError):
        provider.fetch()
    assert not seen.all
