"""What is kept of a failed connect; the rest needs a server."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from ephemeral_creds import ConfigurationError, Credentials, Grant, Lease, Secret
from ephemeral_creds.pool._async.session import login_async
from ephemeral_creds.pool._sync.session import login
from ephemeral_creds.pool.diagnosis import Diagnosis
from ephemeral_creds.pool.login import acting_as, clean_failure
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from pathlib import Path

    from canary import Canary


PASSWORD = "cannot-be-\ud800-encoded"


def grant(password: str) -> Grant:
    return Grant(Credentials("someone", Secret(password)), Lease(0.0, 3600.0), 1)


def everything_of(error: BaseException) -> str:
    return repr((error, error.args, vars(error), error.__cause__, error.__context__))


def test_r27_a_password_that_cannot_be_encoded_is_not_quoted(canary: Canary) -> None:
    canary.register_secret(PASSWORD)
    outcome = login(
        psycopg.Connection.connect, "host=127.0.0.1 port=1", {}, grant(PASSWORD), Diagnosis(1.0)
    )
    assert isinstance(outcome, ConnectFailure)
    assert "UnicodeEncodeError" in str(outcome.error)
    assert not canary.seen_in(everything_of(outcome.error))


def test_r27_a_password_in_an_error_of_a_custom_connection_class_is_not_quoted(
    canary: Canary,
) -> None:
    def connect(_: str, **kwargs: object) -> None:
        raise TypeError(f"unexpected {kwargs}") from ValueError(kwargs)

    canary.register_secret("password-of-someone")
    outcome = login(connect, "", {}, grant("password-of-someone"), Diagnosis(1.0))
    assert isinstance(outcome, ConnectFailure)
    assert f"TypeError at {__file__}:" in str(outcome.error)
    assert not canary.seen_in(everything_of(outcome.error))


async def failed_while_the_executor_is_busy() -> ConnectFailure | psycopg.AsyncConnection:
    free = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        executor.submit(free.wait, 60.0)
        connecting = login_async(
            psycopg.AsyncConnection.connect, "host=127.0.0.1 port=1", {}, grant("x"), Diagnosis(1.0)
        )
        try:
            return await asyncio.wait_for(connecting, 30.0)
        finally:
            free.set()


def test_a_diagnosis_and_what_the_loops_executor_does_do_not_wait_for_each_other() -> None:
    assert isinstance(asyncio.run(failed_while_the_executor_is_busy()), ConnectFailure)


def test_of_psycopgs_errors_kind_and_text_are_kept() -> None:
    class Own(psycopg.errors.TooManyConnections):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(text)
            self.code = code

    cleaned = clean_failure(Own(1, "slots are reserved")).error
    assert type(cleaned) is psycopg.errors.TooManyConnections
    assert str(cleaned) == "slots are reserved"


def test_our_own_error_is_kept() -> None:
    error = ConfigurationError("remove it")
    assert clean_failure(error).error is error


@pytest.mark.parametrize(
    ("conninfo", "kwargs", "options"),
    [
        ("", {}, "-c environment=1 -c role=r"),
        ("service=app", {}, "-c file=1 -c role=r"),
        ("service=app options='-c given=1'", {}, "-c given=1 -c role=r"),
        ("options='-c given=1'", {"service": "app", "options": None}, "-c given=1 -c role=r"),
        ("options='-c given=1'", {"options": "-c kwargs=1"}, "-c kwargs=1 -c role=r"),
        ("", {"options": "", "autocommit": True}, "-c role=r"),
        # It is libpq that complains of it, in the connect that follows.
        ("service=unknown", {}, "-c role=r"),
    ],
)
def test_a_role_is_added_to_what_libpq_would_send(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    conninfo: str,
    kwargs: dict[str, object],
    options: str,
) -> None:
    (tmp_path / "services").write_text("[app]\noptions=-c file=1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGOPTIONS", "-c environment=1")
    assert acting_as("r", conninfo, kwargs) == kwargs | {"options": options}
