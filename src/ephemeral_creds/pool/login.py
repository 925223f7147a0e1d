"""Logging in with leased credentials."""

from __future__ import annotations

import re
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "acting_as",
    "check_parameters",
    "clean_failure",
    "explain_role",
    "parameters_in_use",
    "refuses_options",
    "role_at_login",
    "said_by",
]

# insufficient_privilege and invalid_parameter_value: what the startup option of a role leads to
# that was not granted, or does not exist.
_LACKS_RIGHT = "42501"
_NO_SUCH_ROLE = "22023"

# Parameters that others depend on: sslrootcert=system means sslmode=verify-full.
_LEADING = ("service", "servicefile", "sslrootcert")


def clean_failure(error: Exception) -> ConnectFailure:
    """Copy what is safe of a failed connect's exception.

    psycopg keeps the connection in ``pgconn``, whose repr has the password in clear, and the
    frames of the traceback have it in their variables: neither is taken along. An error of
    those of other code may hold anything, as a `UnicodeEncodeError` does what could not be encoded:
    only what it is, and where it was raised, is kept of it.
    """
    if isinstance(error, EphemeralCredsError):
        error.__cause__ = error.__context__ = None
        return ConnectFailure(error.with_traceback(None), reason=None)
    if not isinstance(error, psycopg.Error):
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        text = f"{type(error).__name__}{where}"
        return ConnectFailure(psycopg.OperationalError(text), reason=None)
    # psycopg has no code for a login that failed: with one, a query did.
    lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    # A subclass of the user's may take other arguments, or more than a text.
    kind = next(k for k in type(error).__mro__ if k.__module__.startswith("psycopg"))
    return ConnectFailure(kind(str(error)), LoginFailure.UNREACHABLE if lost else None)


def said_by(error: Exception) -> str:
    """Return what `error` is and, if that is safe, what it says."""
    text = str(clean_failure(error).error)
    return f"{type(error).__name__}: {text}" if isinstance(error, psycopg.Error) else text


def check_parameters(conninfo: str, kwargs: Mapping[str, object]) -> None:
    """Refuse a conninfo that cannot be parsed, or that sets user, password or passfile.

    Raises:
        ConfigurationError: a user or a password is given, or `conninfo` cannot be read.
    """
    parsed, wrong = None, ""
    try:
        parsed = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        # What libpq says of anything but an option's name repeats a part of the text.
        said = str(error).strip()
        wrong = f" ({said})" if said.startswith("invalid connection option") else ""
    if parsed is None:
        raise ConfigurationError(
            f"the pool's conninfo cannot be read{wrong}: it has to look like 'host=db dbname=mydb' "
            "or postgresql://db/mydb"
        )
    given = {*parsed, *kwargs} & {"user", "password", "passfile"}
    if given:
        raise ConfigurationError(
            f"the pool's conninfo or kwargs set {', '.join(sorted(given))}: remove it, the "
            "credential provider brings user and password"
        )


def acting_as(role: str, conninfo: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `kwargs` with the startup option that has the session act as `role`.

    Unlike SET ROLE after the connect it is where RESET ROLE and DISCARD ALL go back to
    (https://www.postgresql.org/docs/current/sql-set-role.html), and costs no round trip. RESET ALL
    leaves the role alone, whatever it is.
    """
    escaped = re.sub(r"([\\\s])", r"\\\1", role)
    options = f"{_startup_options(conninfo, kwargs)} -c role={escaped}"
    return {**kwargs, "options": options.lstrip()}


def _startup_options(conninfo: str, kwargs: Mapping[str, Any]) -> str:
    """Ask libpq for what it would send as ``options``.

    The parameter overrides the options of a service file and PGOPTIONS, which would be
    lost where a role is added to what is given alone.
    """
    return parameters_in_use(conninfo, kwargs, "options")["options"]


def parameters_in_use(conninfo: str, kwargs: Mapping[str, Any], *names: str) -> dict[str, str]:
    """Ask libpq for the parameters that a connect would use, with those of service and environment.

    Args:
        conninfo: what the connect is given.
        kwargs: so, by name; ``None`` counts as not given.
        names: the parameters to return; a value is empty if the parameter has none.
    """
    given = conninfo_to_dict(conninfo) | {k: v for k, v in kwargs.items() if v is not None}
    asked = {name: given[name] for name in (*names, *_LEADING) if name in given}
    # libpq reads all of this when a connect begins, and there ends what wants no such session.
    refused = make_conninfo("", **asked, target_session_attrs="none-such")
    connection = PGconn.connect_start(refused.encode())
    found = {option.keyword.decode(): (option.val or b"").decode() for option in connection.info}
    connection.finish()
    return {name: found.get(name, "") for name in names}


def refuses_options(said: str) -> bool:
    """Tell whether a pooler refused a login for the startup parameter ``options``.

    By PgBouncer's words, which are English everywhere: it has one code for all that it says itself.
    """
    return "unsupported startup parameter" in said


def role_at_login(role: str) -> str:
    """Say what has sessions act as `role` where the startup parameter does not get through."""
    return (
        "set the role where PostgreSQL sets it at each login, in the creation_statements: "
        f'GRANT {role} TO "{{{{name}}}}"; ALTER ROLE "{{{{name}}}}" SET role = {role!r}; and leave '
        "session_role out, or keep it and set ignore_startup_parameters = options in PgBouncer"
    )


def explain_role(role: str, failure: ConnectFailure) -> ConnectFailure:
    """Say what a login may have failed for, when it also asked to act as `role`."""
    if refuses_options(str(failure.error)):
        error = ConfigurationError(
            f"session_role={role!r}: a pooler between here and PostgreSQL takes no startup "
            f"parameter 'options' ({failure.error}): {role_at_login(role)}"
        )
        return replace(failure, error=error)
    lacks_right = failure.sqlstate == _LACKS_RIGHT
    if not (failure.refused or lacks_right or failure.sqlstate == _NO_SUCH_ROLE):
        return failure
    # Of other credentials the role may be a member.
    reason = LoginFailure.CREDENTIALS if lacks_right else failure.reason
    cure = (
        f"check that there is a role {role}"
        if failure.sqlstate == _NO_SUCH_ROLE
        else f"GRANT {role} TO the roles that log in, for example in Vault's creation_statements"
    )
    return replace(failure, reason=reason).with_hint(
        f"session_role={role!r}: if that is why, {cure}"
    )
