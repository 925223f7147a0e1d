"""What to do about a login that failed, in words."""

from __future__ import annotations

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.lifecycle.refusals import LoginFailure

__all__ = ["advice", "plain_text"]

_CREDENTIALS = (
    "check that provider and pool name the same server, and that the role has LOGIN, this password "
    "and a VALID UNTIL in the future (where Vault creates it: that creation_statements set all "
    "three, and that renew_statements, if not empty, extend VALID UNTIL)"
)
# Besides a role without LOGIN, a method of pg_hba.conf such as PAM has this code.
_METHOD_REFUSED = (
    f"{_CREDENTIALS}; on Amazon RDS, that the role is a member of rds_iam, that IAM allows "
    "rds-db:connect for it, and that the token is for this endpoint, port and region"
)
_POOLER_CREDENTIALS = (
    "the pooler in between does not know this user, or has another password for it: have it ask "
    "PostgreSQL (auth_user in PgBouncer), and check that the role exists there and that provider "
    "and pool name the same server"
)
_PG_HBA = (
    "pg_hba.conf has no line that accepts this user, database, client address and encryption: add "
    "one, GRANT the role that a line names (+role) in the creation_statements, or set sslmode"
)
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_CLIENT = {
    "require_auth": (
        "the server, or a pooler in between, asks for another method than require_auth allows: "
        "allow that one, or have pg_hba.conf, or auth_type in PgBouncer, name one that is allowed"
    ),
    "channel_binding": (
        "channel_binding=require needs TLS as far as PostgreSQL itself and a password that is "
        "checked by scram-sha-256: set sslmode=require or above, and that method in pg_hba.conf; "
        "behind a pooler without it, set channel_binding=prefer"
    ),
    "sslmode": (
        "sslmode asks for TLS, which the server does not offer: check host and port, and turn it "
        "on there (ssl = on, or client_tls_sslmode in PgBouncer)"
    ),
    "sslrootcert": (
        "sslmode asks for a certificate of a known CA, with the server's name in it: name the CA's "
        "file in sslrootcert, and in host a name of the certificate, and check that it is valid"
    ),
}
_UNREACHABLE = "check host and port, and that the server is running"
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SERVER = {
    "08P01": (
        "a pooler in between, such as PgBouncer, refuses the connection: if its reason is a "
        "startup parameter, remove that from conninfo and kwargs, or have the pooler drop it "
        "(ignore_startup_parameters)"
    ),
    "22023": (
        "the server does not accept the value of a setting in 'options' or of ALTER ROLE … SET: "
        "correct it"
    ),
    "3D000": "this database does not exist: check dbname",
    "42501": (
        "the role lacks a privilege: GRANT CONNECT ON DATABASE … TO it, or what a setting in "
        "'options' or a session_role needs (where Vault creates it: in its creation_statements)"
    ),
    "42704": "the server does not know a setting: check the names in 'options'",
    "53300": (
        "PostgreSQL has no free slot: max_connections, of which some are reserved for "
        "superusers, or the CONNECTION LIMIT of the role or the database is reached: lower "
        "max_size, close connections of other clients, or raise that limit"
    ),
    "55000": (
        "the database does not accept connections: ALTER DATABASE … ALLOW_CONNECTIONS true, or "
        "connect to another one"
    ),
    "57P03": "the server is starting, stopping or recovering: wait, or read its log",
}
# Neither is about a refused password: one is a pooler's, the other a session role's.
_OF_CREDENTIALS = {
    "08P01": _POOLER_CREDENTIALS,
    "28000": _METHOD_REFUSED,
    "42501": _SERVER["42501"],
}
_OTHER = "its reason follows"


def advice(reason: LoginFailure, sqlstate: str | None, parameter: str = "") -> str:
    """Return what is wrong and what to do, as the end of a sentence.

    Args:
        reason: why the login failed.
        sqlstate: the server's code, where it is known.
        parameter: the client's own, if that is why.
    """
    match reason:
        case LoginFailure.CREDENTIALS:
            return _OF_CREDENTIALS.get(sqlstate or "", _CREDENTIALS)
        case LoginFailure.PG_HBA:
            return _PG_HBA
        case LoginFailure.SERVER:
            return _SERVER.get(sqlstate or "", _OTHER)
        case LoginFailure.CLIENT:
            return _CLIENT.get(parameter, _OTHER)
        case LoginFailure.UNREACHABLE:
            return _UNREACHABLE


def plain_text(host: str, given: str) -> ConfigurationError:
    """Return the error that refuses to send a token without TLS.

    Args:
        host: where it would be sent.
        given: the parameter that allows that.
    """
    return ConfigurationError(
        f"{given} lets a login send its token to {host} without TLS, and what reads it there can "
        "log in with it: set sslmode=verify-full, and sslrootcert= to the CA of the server, or "
        "sslmode=require at the least. On a connection that is safe without TLS, set the "
        "provider's requires_tls=False (require_tls=false in a URL)"
    )
