"""Logins by drivers outside our pools: why one failed, and whether a session's role may be gone.

psycopg is imported with the first failure of its own: asyncpg works without libpq.
"""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.reconnects import ConnectFailure
from ephemeral_creds.pool.remedies import plain_text
from ephemeral_creds.pool.role import CURRENT_USER, ROLE_MISSING, VALID_FOR, may_lack_its_role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ephemeral_creds._values import Credentials
    from ephemeral_creds.keeper.session import Session
    from ephemeral_creds.pool.diagnosis import Diagnosis

__all__ = [
    "CURRENT_USER",
    "ROLE_MISSING",
    "VALID_FOR",
    "asyncpg_credentials",
    "asyncpg_failure",
    "may_lack_its_role",
    "new_diagnosis",
    "psycopg_failure",
    "reject",
]

# Seconds that each connect of a diagnosis may take, where the conninfo does not say less.
_TIMEOUT = 10.0


def new_diagnosis(timeout: float = _TIMEOUT) -> Diagnosis:
    """Return what `psycopg_failure` asks: one for all logins with the same parameters.

    Args:
        timeout: how long each of its connects may take, in seconds.
    """
    from ephemeral_creds.pool.diagnosis import Diagnosis

    return Diagnosis(timeout)


def psycopg_failure(
    error: Exception,
    session: Session,
    diagnosis: Diagnosis,
    conninfo: str = "",
    kwargs: Mapping[str, object] | None = None,
) -> ConnectFailure:
    """Return why a connect of psycopg's failed. Blocks for as long as another connect.

    Raise its ``error``, which holds no password, and raise it after the ``except`` block: chained
    to `error`, it would lead to the password. In an event loop, call this by
    `ephemeral_creds.keeper.loop.in_thread`.

    Args:
        error: what ``psycopg.connect`` raised.
        session: the one that it was to open.
        diagnosis: logs in once more and listens, since libpq forgets the server's answer.
        conninfo: the connection string that ``psycopg.connect`` was given.
        kwargs: its keyword arguments, without user and password; those that are not libpq's are
            ignored.

    Returns:
        The failure; its ``reason`` is ``None`` if the login is not what failed.
    """
    import psycopg

    from ephemeral_creds.pool.diagnosis import FailedLogin
    from ephemeral_creds.pool.login import clean_failure

    failure = clean_failure(error)
    if not isinstance(error, psycopg.Error):
        return failure
    failed = FailedLogin(error, conninfo, kwargs or {}, session.credentials)
    return failure.because(diagnosis.explain(failed, session.generation))


def asyncpg_credentials(
    args: Sequence[object], kwargs: Mapping[str, object], credentials: Credentials
) -> Credentials:
    """Return what to log in with by asyncpg.

    Args:
        args: what ``asyncpg.connect`` is called with.
        kwargs: so, by name.
        credentials: those in use.

    Raises:
        ConfigurationError: the password must not be sent without TLS, which the parameters allow,
            or each server takes its own.
    """
    if credentials.passwords:
        servers = ", ".join(server for server, _ in credentials.passwords)
        raise ConfigurationError(
            f"asyncpg sends one password to all servers, but each of {servers} takes a token of "
            "its own: have a provider and a pool for each"
        )
    if not credentials.requires_tls:
        return credentials
    # In the order in which asyncpg looks.
    dsn = urlsplit(str((args[0] if args else kwargs.get("dsn")) or ""))
    query = dict(parse_qsl(dsn.query))
    host = kwargs.get("host") or query.get("host") or dsn.hostname or os.environ.get("PGHOST")
    ssl = kwargs.get("ssl")
    if ssl is None:
        ssl = query.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    mode = str(getattr(ssl, "name", ssl)).replace("_", "-")
    if str(host).startswith("/") or mode not in {"False", "disable", "allow", "prefer"}:
        return credentials
    raise plain_text(str(host or "localhost"), f"ssl={mode}")


def asyncpg_failure(error: Exception) -> ConnectFailure:
    """Return why a connect of asyncpg's failed, as the server said it. Does not block.

    Raise its ``error`` after the ``except`` block, as with `psycopg_failure`. It is `error` itself,
    without the frames that have the password, unless that is neither asyncpg's nor the system's.
    """
    where = traceback.extract_tb(error.__traceback__)[-1:]
    error.__traceback__ = error.__cause__ = error.__context__ = None
    if isinstance(error, EphemeralCredsError):
        return ConnectFailure(error, reason=None)
    if isinstance(error, OSError):  # a TimeoutError is one, too
        return ConnectFailure(error, LoginFailure.UNREACHABLE)
    if type(error).__module__.split(".")[0] != "asyncpg":
        # It may hold anything, as a UnicodeEncodeError does what could not be encoded.
        place = "".join(f" at {frame.filename}:{frame.lineno}" for frame in where)
        return ConnectFailure(RuntimeError(f"{type(error).__name__}{place}"), reason=None)
    sqlstate = getattr(error, "sqlstate", None)
    if not sqlstate:
        return ConnectFailure(error, reason=None)
    if getattr(error, "severity", None) is None:
        # asyncpg's own word for a line that broke.
        return ConnectFailure(error, LoginFailure.UNREACHABLE)
    routine = getattr(error, "server_source_function", None)
    reason = LoginFailure.from_sqlstate(sqlstate, routine, str(error))
    return ConnectFailure(error, reason, sqlstate)


def reject(session: Session, failure: ConnectFailure) -> None:
    """Tell `session` that its login failed.

    What comes before or after the login says nothing about the credentials, like no answer.
    """
    session.rejected(failure.reason or LoginFailure.UNREACHABLE, failure.sqlstate)
