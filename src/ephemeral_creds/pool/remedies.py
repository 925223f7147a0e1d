"""What to do about a login that failed, in words."""

from __future__ import annotations

from ephemeral_creds.lifecycle.refusals import LoginFailure

__all__ = ["advice"]

_CREDENTIALS = (
    "check that provider and pool mean the same server, and that the role has LOGIN, this password "
    "and a VALID UNTIL that is not past (where Vault makes it: that its creation_statements give "
    "it all three, and that renew_statements of your own move VALID UNTIL)"
)
_POOLER_CREDENTIALS = (
    "the pooler in between knows no such user, or another password: have it ask PostgreSQL "
    "(auth_user in PgBouncer), and check that the role exists there and that provider and pool "
    "mean the same server"
)
_PG_HBA = (
    "pg_hba.conf lets nobody in with this user, database, client address and encryption: add a "
    "line, GRANT the role that its line names (+role) in the creation_statements, or set sslmode"
)
_UNREACHABLE = "check host, port and that it runs"
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SERVER = {
    "08P01": (
        "a pooler in between, such as PgBouncer, refuses the connection for the reason that it "
        "gives: if that is a startup parameter, leave it out of conninfo and kwargs, or have the "
        "pooler drop it (ignore_startup_parameters)"
    ),
    "22023": (
        "a setting in 'options', or of ALTER ROLE … SET, has a value that the server does not "
        "take: correct it"
    ),
    "3D000": "there is no such database: check dbname",
    "42501": (
        "the role lacks a right: GRANT CONNECT ON DATABASE … TO it, or for a setting in 'options' "
        "or a session_role what that needs (where Vault makes the role: in its creation_statements)"
    ),
    "42704": "the server knows no such setting: check the names in 'options'",
    "53300": (
        "PostgreSQL has no free slot: max_connections, of which some are reserved for "
        "superusers, or the CONNECTION LIMIT of the role or the database is reached: lower "
        "max_size, close what is left open elsewhere, or raise that limit"
    ),
    "55000": (
        "the database takes no connections: ALTER DATABASE … ALLOW_CONNECTIONS true, or connect "
        "to another one"
    ),
    "57P03": "the server is starting, stopping or recovering: wait, and see its log if it lasts",
}
# Both come from elsewhere than a refused password: a pooler, and a session role.
_OF_CREDENTIALS = {"08P01": _POOLER_CREDENTIALS, "42501": _SERVER["42501"]}
_OTHER = "it gives its reason, and other credentials do not change it"


def advice(reason: LoginFailure, sqlstate: str | None) -> str:
    """Return what is wrong and what to do, as the end of a sentence.

    Args:
        reason: why the login failed.
        sqlstate: the server's code, where it is known.
    """
    match reason:
        case LoginFailure.CREDENTIALS:
            return _OF_CREDENTIALS.get(sqlstate or "", _CREDENTIALS)
        case LoginFailure.PG_HBA:
            return _PG_HBA
        case LoginFailure.SERVER:
            return _SERVER.get(sqlstate or "", _OTHER)
        case LoginFailure.UNREACHABLE:
            return _UNREACHABLE
