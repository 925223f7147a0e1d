"""Why a login of SQLAlchemy's dialect failed, without the secrets in the driver's own error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ephemeral_creds.contrib._login import asyncpg_failure, psycopg_failure
from ephemeral_creds.exceptions import EphemeralCredsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Dialect

    from ephemeral_creds.keeper.session import Session
    from ephemeral_creds.pool.diagnosis import Diagnosis
    from ephemeral_creds.pool.reconnects import ConnectFailure

__all__ = ["as_driver_error", "explain_failure", "sqlstate_of"]


def explain_failure(
    dialect: Dialect,
    error: Exception,
    session: Session,
    diagnosis: Diagnosis,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> ConnectFailure:
    """Return why a login failed; psycopg's blocks for as long as another login.

    Args:
        dialect: the engine's.
        error: what its ``connect`` raised.
        session: the one that it was to open.
        diagnosis: what asks libpq.
        args: what ``connect`` was called with.
        kwargs: so, by name; without user and password.
    """
    if dialect.driver != "asyncpg":
        return psycopg_failure(error, session, diagnosis, args[0] if args else "", kwargs)
    # SQLAlchemy 2.1 translates asyncpg's own error, which is the cause then; 2.0 does not.
    cause = error.__cause__
    failure = asyncpg_failure(cause if isinstance(cause, Exception) else error)
    if failure.sqlstate is None:
        return failure
    return replace(failure, error=_operational_error(dialect, str(failure.error), failure.sqlstate))


def as_driver_error(dialect: Dialect, error: Exception) -> Exception:
    """Return what SQLAlchemy takes for a failed connect: an error of ours is its cause."""
    if not isinstance(error, EphemeralCredsError):
        return error
    failed = _operational_error(dialect, str(error))
    failed.__cause__ = error
    return failed


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the server's code in a driver's error, if there is one."""
    sqlstate = getattr(error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None


def _operational_error(dialect: Dialect, text: str, sqlstate: str | None = None) -> Exception:
    dbapi: Any = dialect.loaded_dbapi
    error: Exception = dbapi.OperationalError(text)
    if sqlstate is not None:
        vars(error).update(sqlstate=sqlstate, pgcode=sqlstate)
    return error
