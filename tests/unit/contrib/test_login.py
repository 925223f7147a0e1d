"""Why a driver's login failed, and what is kept of its exception."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from ephemeral_creds import Credentials, Grant, Lease, LoginFailure, NotReady, Secret, Session
from ephemeral_creds.contrib._login import (
    asyncpg_failure,
    new_diagnosis,
    psycopg_failure,
    reject,
)
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = "kept-out-of-errors"


class Told:
    """Sessions that note what they are told."""

    def __init__(self) -> None:
        self.rejected: list[tuple[LoginFailure, str | None]] = []

    def reject(self, _: Session, reason: LoginFailure, sqlstate: str | None) -> None:
        self.rejected.append((reason, sqlstate))


def session(told: Told | None = None) -> Session:
    grant = Grant(Credentials("app", Secret(PASSWORD)), Lease(0.0), 1)
    return Session(cast("Any", told or Told()), grant, wants_end=False)


def raised(error: Exception) -> Exception:
    """Raise `error` where a password is, chained to another."""

    def connect(password: str) -> None:
        try:
            raise KeyError(password)
        except KeyError:
            raise error  # noqa: B904 - as drivers do

    try:
        connect(PASSWORD)
    except Exception as caught:
        return caught
    raise AssertionError


def said_by_server(sqlstate: str, routine: str = "auth_failed", message: str = "no") -> Exception:
    asyncpg = pytest.importorskip("asyncpg")
    fields = {"S": "FATAL", "C": sqlstate, "M": message, "R": routine}
    return cast("Exception", asyncpg.PostgresError.new(fields))


def line_broken() -> Exception:
    asyncpg = pytest.importorskip("asyncpg")
    return cast("Exception", asyncpg.ConnectionDoesNotExistError("in the middle of operation"))


def misused() -> Exception:
    asyncpg = pytest.importorskip("asyncpg")
    return cast("Exception", asyncpg.InterfaceError("could not parse"))


@pytest.mark.parametrize(
    ("make", "reason", "sqlstate"),
    [
        (lambda: said_by_server("28P01"), LoginFailure.CREDENTIALS, "28P01"),
        (
            lambda: said_by_server("28000", "InitializeSessionUserId"),
            LoginFailure.CREDENTIALS,
            "28000",
        ),
        (lambda: said_by_server("28000", "ClientAuthentication"), LoginFailure.PG_HBA, "28000"),
        (lambda: said_by_server("28000", "auth_failed"), LoginFailure.CREDENTIALS, "28000"),
        (lambda: said_by_server("53300"), LoginFailure.SERVER, "53300"),
        (lambda: said_by_server("08P01"), LoginFailure.SERVER, "08P01"),
        (
            lambda: said_by_server("08P01", message="no such user: app"),
            LoginFailure.CREDENTIALS,
            "08P01",
        ),
        (line_broken, LoginFailure.UNREACHABLE, None),
        (misused, None, None),
        (lambda: ConnectionRefusedError(111, "refused"), LoginFailure.UNREACHABLE, None),
        (lambda: TimeoutError(), LoginFailure.UNREACHABLE, None),
        (lambda: NotReady("no credentials"), None, None),
    ],
)
def test_an_error_of_asyncpg_says_why(
    make: Callable[[], Exception], reason: LoginFailure | None, sqlstate: str | None
) -> None:
    error = raised(make())
    failure = asyncpg_failure(error)
    assert (failure.reason, failure.sqlstate) == (reason, sqlstate)
    assert failure.error is error
    assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)


def test_of_an_error_of_other_code_only_its_type_and_place_are_kept() -> None:
    unencodable = UnicodeEncodeError("utf-8", PASSWORD, 0, 1, "surrogates not allowed")
    failure = asyncpg_failure(raised(unencodable))
    assert failure.reason is None
    assert str(failure.error).startswith(f"UnicodeEncodeError at {__file__}:")


def test_psycopg_finds_no_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        conninfo = f"host=127.0.0.1 port={unused.getsockname()[1]} dbname=db"
        try:
            psycopg.connect(conninfo, user="app", password=PASSWORD)
        except psycopg.OperationalError as error:
            failure = psycopg_failure(error, session(), new_diagnosis(1.0), conninfo)
    assert (failure.reason, failure.sqlstate) == (LoginFailure.UNREACHABLE, None)
    assert isinstance(failure.error, psycopg.OperationalError)
    assert failure.error.pgconn is None
    assert (failure.error.__traceback__, failure.error.__context__) == (None, None)


def test_an_error_of_other_code_needs_no_second_login() -> None:
    failure = psycopg_failure(raised(KeyError(PASSWORD)), session(), new_diagnosis())
    assert failure.reason is None
    assert str(failure.error).startswith(f"KeyError at {__file__}:")


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            ConnectFailure(OSError(), LoginFailure.CREDENTIALS, "28P01"),
            (LoginFailure.CREDENTIALS, "28P01"),
        ),
        (ConnectFailure(OSError(), None), (LoginFailure.UNREACHABLE, None)),
    ],
)
def test_a_session_is_told(failure: ConnectFailure, told: tuple[LoginFailure, str | None]) -> None:
    sessions = Told()
    reject(session(sessions), failure)
    assert sessions.rejected == [told]
