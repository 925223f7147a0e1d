"""What a refused login to PostgreSQL may come from."""

from __future__ import annotations

from ephemeral_creds._pool_connect import role_at_login

__all__ = ["login_remedy"]


def login_remedy(said: str, session_role: str | None) -> str:
    """Return what to do about what PostgreSQL or libpq said."""
    if session_role is not None and "permission denied to set role" in said:
        return f'write into the creation_statements: GRANT {session_role} TO "{{{{name}}}}"'
    if session_role is not None and f'role "{session_role}" does not exist' in said:
        return "check the name of the session role: it is one of PostgreSQL's, not of Vault's"
    if session_role is not None and "unsupported startup parameter" in said:
        return role_at_login(session_role)
    if "not permitted to log in" in said:
        return (
            "the role has NOLOGIN: write into its creation_statements\n"
            "  CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' "
            "VALID UNTIL '{{expiration}}';"
        )
    if "database" in said and ("does not exist" in said or "permission denied" in said):
        return (
            "check dbname in the connection string, and that the role may CONNECT to it: GRANT "
            'CONNECT ON DATABASE … TO "{{name}}"'
        )
    if "password authentication failed" in said:
        return (
            "check that Vault's connection and the connection string mean the same server, that "
            "the creation_statements set PASSWORD '{{password}}', and that VALID UNTIL is not past"
        )
    if "too many connections" in said:
        return "raise CONNECTION LIMIT in the creation_statements"
    return "check host and port of the connection string, and pg_hba.conf of the server"
