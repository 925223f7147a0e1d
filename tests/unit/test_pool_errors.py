"""Which errors are those of a session whose role may be gone."""

from __future__ import annotations

import psycopg
import pytest

from ephemeral_creds._pool_errors import may_lack_its_role

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
