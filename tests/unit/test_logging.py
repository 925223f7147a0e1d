"""Events in the log."""

from __future__ import annotations

import logging

import pytest

from ephemeral_creds import Observer, events, log_event
from ephemeral_creds.events import CredentialsIssued, FetchFailed


def test_problems_are_warnings_and_the_rest_is_information(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ephemeral_creds")
    log_event(
        CredentialsIssued(
            keeper="k", generation=2, username="v-app", duration=3600.0, reason="start"
        )
    )
    log_event(FetchFailed(keeper="k", error="ProviderUnavailable: away", failures=3, retry_in=4.0))
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        (
            "INFO",
            "k: CredentialsIssued generation=2 username=v-app duration=3600.0 reason=start",
        ),
        (
            "WARNING",
            "k: FetchFailed error=ProviderUnavailable: away failures=3 retry_in=4.0",
        ),
    ]


def test_a_record_without_a_handler_is_not_formatted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "ephemeral_creds")
    log_event(FetchFailed(keeper="k", error="e", failures=1, retry_in=1.0))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "new"), [("Observer", Observer), ("CredentialsLapsed", events.LeaseExpired)]
)
def test_old_names_are_deprecated(name: str, new: object) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name} is now .*{new.__name__}") as told:  # type: ignore[attr-defined]
        assert getattr(events, name) is new
    assert told[0].filename == __file__
