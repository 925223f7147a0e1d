"""The step that revokes the lease, and checks whether PostgreSQL still has the role."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from ephemeral_creds import (
    AccessDenied,
    EphemeralCredsError,
    InfisicalProvider,
    ProviderUnavailable,
)
from ephemeral_creds.check.database import LoginFailed

if TYPE_CHECKING:
    from ephemeral_creds import CredentialProvider, Grant
    from ephemeral_creds.check.database import RoleSession
    from ephemeral_creds.check.findings import Findings

__all__ = ["check_revocation", "revocation_statements"]

_GONE_WITHIN = 5.0
_LOOK = 0.1
# How the role's SQL that fails is reported: by Vault, and by Infisical.
_NOT_DROPPED = frozenset({400, 200})
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*|CURRENT_USER")


def revocation_statements(owner: str | None, role: str = "{{name}}") -> tuple[str, ...]:
    """Return what removes a role that was minted, with its sessions, objects and rights.

    Args:
        owner: the role that gets its objects; ``None`` for the user that drops it.
        role: what stands for its name.
    """
    heir = owner or "CURRENT_USER"
    if not _PLAIN.fullmatch(heir):
        heir = '"' + heir.replace('"', '""') + '"'
    statements = (
        'ALTER ROLE "{{name}}" NOLOGIN;',
        'GRANT "{{name}}" TO CURRENT_USER;',
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{{name}}';",
        f'REASSIGN OWNED BY "{{{{name}}}}" TO {heir};',
        'DROP OWNED BY "{{name}}";',
        'DROP ROLE "{{name}}";',
    )
    return tuple(line.replace("{{name}}", role) for line in statements)


def check_revocation(
    provider: CredentialProvider,
    findings: Findings,
    grant: Grant,
    session: RoleSession | None,
    owner: str | None,
) -> None:
    """Revoke the lease, and say what remains of the role.

    Args:
        provider: where it came from; closed if only the end of its token removes the role.
        findings: where to write what is found.
        grant: what was minted.
        session: a connection of the role, if there is one.
        owner: the role that should own its objects, if known.
    """
    name = grant.credentials.username
    try:
        try:
            provider.revoke(grant)
        except AccessDenied as error:
            _end_with_token(provider, findings, session, name, str(error))
        except ProviderUnavailable as error:
            if error.status not in _NOT_DROPPED:
                raise
            left = session.left_behind() if session else ""
            _say_left(provider, findings, name, str(error), left, owner)
        else:
            _look(provider, findings, session, name, owner)
    except EphemeralCredsError as error:
        findings.add("revocation", "fail", str(error))
    except LoginFailed as error:
        findings.add(
            "revocation",
            "warn",
            f"it ended the session of the check; whether the role {name!r} is gone is not "
            f"known: {error}",
        )


def _look(
    provider: CredentialProvider,
    findings: Findings,
    session: RoleSession | None,
    name: str,
    owner: str | None,
) -> None:
    revoked = "the lease is reported as revoked"
    if session is None:
        findings.add("revocation", "ok", f"{revoked}; PostgreSQL was not asked")
    elif (left := session.left_behind()) is not None:
        _say_left(provider, findings, name, revoked, left, owner)
    elif session.ended:
        findings.add("revocation", "ok", f"the role {name!r} has no sessions and no login any more")
    else:
        findings.add("revocation", "ok", f"the role {name!r} is gone")


def _end_with_token(
    provider: CredentialProvider,
    findings: Findings,
    session: RoleSession | None,
    name: str,
    why: str,
) -> None:
    """Revoke the token, which ends its leases: the policy does not allow to revoke them."""
    provider.close()
    give_up_at = time.monotonic() + _GONE_WITHIN
    while session is not None and session.left_behind() is not None:
        if time.monotonic() > give_up_at:
            findings.add(
                "revocation", "warn", f"{why}; the role {name!r} is left until its lease ends"
            )
            return
        time.sleep(_LOOK)
    findings.add("revocation", "warn", f"{why}; the role went with the token")


def _say_left(
    provider: CredentialProvider,
    findings: Findings,
    name: str,
    why: str,
    left: str | None,
    owner: str | None,
) -> None:
    role = "{{username}}" if isinstance(provider, InfisicalProvider) else "{{name}}"
    statements = "\n".join(f"  {line}" for line in revocation_statements(owner, role))
    objects = (
        ""
        if owner is not None
        else "if the service's objects belong to a permanent role, replace CURRENT_USER, which is "
        "the user that drops roles, with that role,\n"
    )
    findings.add(
        "revocation",
        "fail",
        f"the role {name!r} is left behind{', ' if left else ''}{left or ''}: {why}",
        "set the role's revocation_statements to\n"
        f"{statements}\n"
        f"{objects}"
        f"and run them by hand for this role, with {role} replaced by {name}",
    )
