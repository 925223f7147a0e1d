"""`TokenProvider`: what a function may return, and what becomes of its failures."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ephemeral_creds import (
    AccessDenied,
    ConfigurationError,
    MalformedResponse,
    ProviderUnavailable,
    Secret,
    TokenProvider,
)
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = "-".join(["a", "database", "token", "7Q"])


class AccessToken(NamedTuple):
    """What credential objects of azure.identity return."""

    token: str
    expires_on: int


@pytest.mark.parametrize(
    ("answer", "life"),
    [
        (lambda: TOKEN, 300.0),
        (lambda: Secret(TOKEN), 300.0),
        (lambda: (TOKEN, None), 300.0),
        (lambda: (TOKEN, time.time() + 900), 900.0),
        (lambda: (Secret(TOKEN), datetime.now(UTC) + timedelta(hours=1)), 3600.0),
        (lambda: AccessToken(TOKEN, int(time.time()) + 900), 900.0),
    ],
)
def test_a_token_is_a_password_with_an_announced_end(
    answer: Callable[[], str], life: float
) -> None:
    clock = FakeClock()
    grant = TokenProvider("app", answer, clock=clock).fetch()
    assert grant.credentials.username == "app"
    assert grant.credentials.password == Secret(TOKEN)
    assert grant.credentials.requires_tls
    lease = grant.lease
    assert (lease.requested_at, lease.duration, lease.rotates_in) == (
        clock.now(),
        math.inf,
        math.inf,
    )
    assert lease.announced_duration == pytest.approx(life, abs=5.0)
    assert lease.is_token


@pytest.mark.parametrize(
    "answer", [None, 7, "", b"bytes", (TOKEN,), (TOKEN, "soon"), (TOKEN, math.nan)]
)
def test_other_answers_are_malformed(answer: object) -> None:
    provider = TokenProvider("app", lambda: answer)  # type: ignore[arg-type, return-value]
    with pytest.raises(MalformedResponse, match=r"tokens for 'app' from a function: the "):
        provider.fetch()


def test_a_datetime_without_a_time_zone_is_refused() -> None:
    naive = datetime.now(UTC).replace(tzinfo=None)
    with pytest.raises(MalformedResponse, match="with a time zone"):
        TokenProvider("app", lambda: (TOKEN, naive)).fetch()


def test_an_expired_token_is_not_used() -> None:
    provider = TokenProvider("app", lambda: (TOKEN, time.time() - 60), source="the vending machine")
    with pytest.raises(
        ProviderUnavailable, match=r"vending machine: the token had expired .* 60 s"
    ):
        provider.fetch()


def test_a_function_that_fails_is_named_without_what_it_said() -> None:
    def fails() -> str:
        raise RuntimeError(TOKEN)

    with pytest.raises(ProviderUnavailable) as caught:
        TokenProvider("app", fails).fetch()
    assert "RuntimeError at test_token_provider.py:" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_an_error_of_ours_is_passed_on() -> None:
    def fails() -> str:
        raise AccessDenied("the vending machine does not know this service")

    with pytest.raises(AccessDenied, match="vending machine") as caught:
        TokenProvider("app", fails).fetch()
    assert caught.value.__context__ is None


def test_a_coroutine_function_is_refused() -> None:
    async def token() -> str:
        return TOKEN

    provider = TokenProvider("app", token)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="one for asyncio"):
        provider.fetch()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"username": ""}, "must name a PostgreSQL role"),
        ({"username": "a\0b"}, "cannot be the name"),
        ({"token": TOKEN}, "must be a function"),
        ({"lifetime": 0.0}, "must be a positive number"),
        ({"lifetime": math.inf}, "must be a positive number"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        TokenProvider(**{"username": "app", "token": lambda: TOKEN} | arguments)  # type: ignore[arg-type]
