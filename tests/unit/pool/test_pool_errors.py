"""What a pool's errors say and are, and which are those of a session whose role may be gone."""

from __future__ import annotations

import re
from dataclasses import replace

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from ephemeral_creds import (
    CheckoutFailed,
    ConfigurationError,
    CredentialKeeper,
    DatabaseUnreachable,
    FixedProvider,
    LoginRefused,
    ServerRefused,
)
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.errors import explain
from ephemeral_creds.pool.login import clean_failure
from ephemeral_creds.pool.reconnects import ConnectFailure
from ephemeral_creds.pool.remedies import advice
from ephemeral_creds.pool.role import may_lack_its_role
from ephemeral_creds.pool.shortage import Shortage

GONE = psycopg.errors.UndefinedObject("invalid role OID: 1")
DENIED = psycopg.errors.InsufficientPrivilege("permission denied for table jobs")
OTHER = psycopg.errors.UniqueViolation("duplicate key")


def raised(error: BaseException, *, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


def during(error: BaseException, context: BaseException) -> BaseException:
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, False),
        (OTHER, False),
        (KeyError(), False),
        (GONE, True),
        (DENIED, True),
        (raised(KeyError(), cause=GONE), True),
        (during(KeyError(), GONE), True),
        (during(raised(KeyError(), cause=OTHER), GONE), True),
        (ExceptionGroup("tasks", [OTHER, ExceptionGroup("more", [KeyError(), DENIED])]), True),
        (ExceptionGroup("tasks", [OTHER, KeyError()]), False),
    ],
)
def test_it_is_found_wherever_it_is(error: BaseException | None, expected: bool) -> None:
    assert may_lack_its_role(error) is expected


def test_errors_that_lead_in_a_circle() -> None:
    first, second = KeyError(1), KeyError(2)
    first.__cause__, second.__cause__ = second, first
    assert not may_lack_its_role(first)


def test_a_group_of_very_many_is_not_looked_through() -> None:
    assert not may_lack_its_role(ExceptionGroup("many", [KeyError(n) for n in range(10_000)]))


STATUS = replace(
    CredentialKeeper(FixedProvider("v-app", "in-clear")).status(), username="v-app", generation=3
)
ALL_IN_USE = Shortage(4, 4, borrowed=4)
TIMEOUT = PoolTimeout("couldn't get a connection after 1.00 sec")


def explained(reason: LoginFailure, sqlstate: str | None = None) -> CheckoutFailed:
    failure = ConnectFailure(psycopg.OperationalError("FATAL: what it said"), reason, sqlstate)
    return explain("jobs", TIMEOUT, failure, STATUS, ALL_IN_USE)


@pytest.mark.parametrize(
    ("reason", "sqlstate", "kind", "hint"),
    [
        (LoginFailure.CREDENTIALS, "28P01", LoginRefused, "LOGIN, this password"),
        (LoginFailure.CREDENTIALS, "08P01", LoginRefused, "auth_user in PgBouncer"),
        (
            LoginFailure.CREDENTIALS,
            "42501",
            LoginRefused,
            "the role lacks a privilege.*session_role",
        ),
        (LoginFailure.CREDENTIALS, None, LoginRefused, "creation_statements"),
        (LoginFailure.PG_HBA, "28000", ServerRefused, "pg_hba.conf"),
        (LoginFailure.SERVER, "53300", ServerRefused, "max_connections.*CONNECTION LIMIT"),
        (LoginFailure.SERVER, "3D000", ServerRefused, "this database does not exist: check dbname"),
        (LoginFailure.SERVER, "42501", ServerRefused, "GRANT CONNECT"),
        (LoginFailure.SERVER, "42704", ServerRefused, "names in 'options'"),
        (LoginFailure.SERVER, "22023", ServerRefused, "the value of a setting"),
        (LoginFailure.SERVER, "08P01", ServerRefused, "PgBouncer"),
        (LoginFailure.SERVER, "55000", ServerRefused, "ALLOW_CONNECTIONS"),
        (LoginFailure.SERVER, "57P03", ServerRefused, "starting"),
        (LoginFailure.SERVER, "XX000", ServerRefused, "its reason follows"),
        (LoginFailure.UNREACHABLE, None, DatabaseUnreachable, "check host and port"),
    ],
)
def test_an_error_names_cause_and_cure(
    reason: LoginFailure, sqlstate: str | None, kind: type[CheckoutFailed], hint: str
) -> None:
    error = explained(reason, sqlstate)
    assert type(error) is kind
    assert isinstance(error, PoolTimeout)
    for words in (hint, "'jobs'", "1.00 sec", "generation 3", "FATAL: what it said"):
        assert re.search(words, str(error))
    assert kind is not ServerRefused or f"({sqlstate})" in str(error)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (psycopg.OperationalError("server closed the connection"), LoginFailure.UNREACHABLE),
        (psycopg.errors.UndefinedTable("no such table"), None),
        (psycopg.errors.QueryCanceled("statement timeout"), None),
        (psycopg.ProgrammingError("left in status INTRANS"), None),
        (ValueError("hunter2"), None),
        (ConfigurationError("no such setting"), None),
    ],
)
def test_only_a_connection_lost_without_an_error_is_called_unreachable(
    error: Exception, reason: LoginFailure | None
) -> None:
    failure = clean_failure(error)
    assert failure.reason is reason
    said = explain("jobs", TIMEOUT, failure, STATUS, ALL_IN_USE)
    assert isinstance(said, DatabaseUnreachable) is (reason is LoginFailure.UNREACHABLE)
    assert "hunter2" not in str(said)


def test_advice_for_other_refusals_does_not_mention_the_roles_sql() -> None:
    assert "PASSWORD" not in advice(LoginFailure.SERVER, "53300").upper()


@pytest.mark.parametrize("sqlstate", ["42501", "42704"])
def test_a_code_of_a_refused_login_says_nothing_of_a_session(sqlstate: str) -> None:
    error = explained(LoginFailure.SERVER, sqlstate)
    assert not may_lack_its_role(raised(error, cause=error.last_error))
