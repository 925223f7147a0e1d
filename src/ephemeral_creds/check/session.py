"""Steps of a check over a connection of the role: encryption, user, rights, VALID UNTIL."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds.check.database import same_role
from ephemeral_creds.check.findings import CLOCK_TOLERANCE, ahead_of
from ephemeral_creds.pool.login import role_at_login

if TYPE_CHECKING:
    from ephemeral_creds.check.database import Line, Rights, RoleSession
    from ephemeral_creds.check.findings import Findings

__all__ = ["Validity", "check_encryption", "check_expiry", "check_session"]

_VERIFY = "sslmode=verify-full in the connection string, and sslrootcert= where the CA is your own"
_TIME_SERVICE = "run a time service (NTP) on PostgreSQL's machine and on that of the source"


@dataclass(frozen=True, slots=True)
class Validity:
    """When a role's login expires; instants are Unix time.

    Attributes:
        until: the instant, by PostgreSQL's clock; ``inf`` for never.
        database: PostgreSQL's clock.
        here: this machine's clock at that moment.
        lease: seconds that the lease had left then; ``inf`` without a lease.
        mints: whether the source wrote `until`, for a role that it made.
    """

    until: float
    database: float
    here: float
    lease: float
    mints: bool


def check_session(
    session: RoleSession,
    session_role: str | None,
    lease_ends_at: float,
    *,
    mints: bool,
    findings: Findings,
) -> str | None:
    """Check everything that a connection of the role shows.

    Args:
        session: the connection.
        session_role: the role that sessions are to act as, if another one.
        lease_ends_at: by the monotonic clock; ``inf`` without a lease.
        mints: whether the source made the role.
        findings: where to write what is found.

    Returns:
        The role that should own what sessions create, if known.

    Raises:
        psycopg.Error: a query failed.
    """
    check_encryption(session.line, findings, token=session.sends_token)
    acts_as = _check_user(session, session_role, findings) or session_role
    rights = session.rights()
    _check_rights(rights, acts_as, findings)
    until = session.valid_until()
    database, here = session.clock()
    lease = lease_ends_at - time.monotonic()
    check_expiry(Validity(until, database, here, lease, mints), findings)
    return acts_as or rights.stable_owner


def check_encryption(line: Line, findings: Findings, *, token: bool = False) -> None:
    """Check whether the connection is encrypted and the server verified.

    Args:
        line: the connection's path.
        findings: where to write what is found.
        token: whether the login has sent a token, with which its reader could log in.
    """
    if line.gss:
        findings.add("encryption", "ok", "the connection is encrypted by GSSAPI")
    elif line.tls and line.sslmode in ("verify-ca", "verify-full"):
        findings.add("encryption", "ok", f"TLS, with sslmode={line.sslmode}")
    elif line.tls and token:
        findings.add(
            "encryption",
            "warn",
            "the login sends a token to a server that is not verified "
            f"(sslmode={line.sslmode}): another in its place can log in with it",
            f"use {_VERIFY}",
        )
    elif line.tls:
        findings.add(
            "encryption",
            "ok",
            f"TLS without verification of the certificate (sslmode={line.sslmode}): use {_VERIFY}",
        )
    elif line.local:
        findings.add("encryption", "ok", "not encrypted, within this machine")
    else:
        findings.add(
            "encryption",
            "warn",
            f"the connection to {line.host} is not encrypted: anything in between can read "
            "and change the traffic",
            f"use {_VERIFY}",
        )


def _check_user(session: RoleSession, session_role: str | None, findings: Findings) -> str | None:
    """Return the role that the session acts as, if that is not the one it logged in as."""
    logged_in_as, acts_as = session.logged_in_as(), session.acts_as()
    if not same_role(logged_in_as, session.username):
        findings.add(
            "connect",
            "fail",
            f"PostgreSQL knows the session as {logged_in_as!r}, not as {session.username!r}: a "
            "proxy in between logs in with its own user, so that neither the end of the lease nor "
            "its revocation ends this access",
            "leave user= out of the database's entry in PgBouncer, and have it learn users "
            "through auth_query",
        )
    if session_role not in (None, acts_as):
        findings.add(
            "rights",
            "fail",
            f"the session acts as {acts_as}, not as {session_role}",
            "a proxy in between drops the startup parameter 'options': "
            f"{role_at_login(str(session_role))}",
        )
    if acts_as == logged_in_as:
        return None
    if lost := session.lost_settings():
        findings.add(
            "settings",
            "warn",
            f"{acts_as} has settings that do not apply here: {', '.join(lost)}. PostgreSQL "
            "applies those of the role that logs in",
            "set them for that role in the creation_statements:\n"
            f'  ALTER ROLE "{{{{name}}}}" SET {lost[0]} = …;\n'
            "or in options= of the connection string",
        )
    return acts_as


def _check_rights(rights: Rights, session_role: str | None, findings: Findings) -> None:
    """Say whether the role has too many rights, too few, or rights that block its removal."""
    may = ", ".join(f"{what} {count}" for what, count in rights.may.items())
    text = f"of {rights.tables} tables and views it may {may}"
    if session_role is not None:
        text = f"acting as {session_role}: {text}"
    if rights.member_of:
        text += f"; member of {', '.join(rights.member_of)}"
    if rights.powers:
        findings.add(
            "rights",
            "warn",
            f"it has {', '.join(rights.powers)}, which a service does not need; {text}",
            "remove that from the creation_statements, and from the roles it is a member of",
        )
    elif not rights.tables or any(rights.may.values()):
        findings.add("rights", "ok", text)
    elif rights.not_inherited:
        name = rights.not_inherited[0]
        findings.add(
            "rights",
            "warn",
            "by itself it may use no table, since it does not inherit what "
            f"{', '.join(rights.not_inherited)} may; {text}",
            f"have sessions act as that role: session_role={name!r} of the pool, and "
            f"--session-role {name} here",
        )
    else:
        findings.add(
            "rights",
            "warn",
            f"it may use no table; {text}",
            "grant rights in the creation_statements, usually a membership: GRANT app TO "
            '"{{name}}"',
        )
    if rights.blocked_sequences:
        findings.add(
            "rights",
            "warn",
            "it may INSERT into tables whose keys come from sequences that it may not use: "
            f"{', '.join(rights.blocked_sequences)}",
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA … TO the role that has INSERT",
        )
    # Objects that a session creates as another role belong to that role.
    if rights.creates_in and not rights.powers and session_role is None:
        owner = rights.stable_owner or "ROLE"
        findings.add(
            "rights",
            "warn",
            f"it may create objects in {', '.join(rights.creates_in)}: they belong to it, and "
            "keep it from being dropped unless its revocation_statements reassign them",
            f"have sessions act as a permanent role: session_role={owner!r} of the pool, and "
            f"--session-role {owner} here; or revoke CREATE on the schema",
        )


def check_expiry(validity: Validity, findings: Findings) -> None:
    """Compare VALID UNTIL with the lease, and PostgreSQL's clock with this machine's."""
    difference = validity.database - validity.here
    clock = f"PostgreSQL's clock is {ahead_of(difference)} this machine's"
    if abs(difference) > CLOCK_TOLERANCE:
        findings.add("expiry", "warn", clock, _TIME_SERVICE)
    left = validity.until - validity.database
    text = f"logins work for another {left:.0f} s by PostgreSQL's clock"
    if validity.until == math.inf:
        text = "the role has no VALID UNTIL: its login works until it is dropped"
        if validity.mints:
            remedy = "add VALID UNTIL '{{expiration}}' to the creation_statements"
            findings.add("expiry", "warn", text, remedy)
        else:
            findings.add("expiry", "ok", text)
    elif left <= 0:
        findings.add(
            "expiry",
            "fail",
            f"VALID UNTIL has passed, {-left:.0f} s ago; {clock}",
            _TIME_SERVICE
            if validity.mints
            else "what writes these credentials no longer renews them: check it",
        )
    elif validity.lease != math.inf and left < validity.lease - 1.0:
        findings.add(
            "expiry", "warn", f"{text}, which is less than the lease; {clock}", _TIME_SERVICE
        )
    else:
        findings.add("expiry", "ok", f"{text}; {clock}")
