"""What to do about a login to PostgreSQL that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.lifecycle.refusals import LoginFailure, advice
from ephemeral_creds.pool.login import refuses_options, role_at_login

if TYPE_CHECKING:
    from ephemeral_creds.pool.diagnosis import Verdict

__all__ = ["login_remedy"]


def login_remedy(verdict: Verdict, said: str, session_role: str | None) -> str:
    """Return what to do about a login that failed for this reason, and with these words."""
    if session_role is not None and refuses_options(said):
        return role_at_login(session_role)
    hint = advice(verdict.reason, verdict.sqlstate)
    match verdict.sqlstate:
        case "42501" if session_role is not None:
            return (
                f'write into the creation_statements: GRANT {session_role} TO "{{{{name}}}}"; or, '
                f"where the server speaks of the database, {hint}"
            )
        case "22023" if session_role is not None:
            return "check the name of the session role: it is one of PostgreSQL's, not of Vault's"
        case "28000" if verdict.reason is LoginFailure.CREDENTIALS:
            return (
                "the role has NOLOGIN: write into its creation_statements\n"
                "  CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' "
                "VALID UNTIL '{{expiration}}';"
            )
    return hint
