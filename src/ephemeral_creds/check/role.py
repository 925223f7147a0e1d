"""The steps that look at the role's definition, where the token may read it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ephemeral_creds import AccessDenied, ConfigurationError, EphemeralCredsError
from ephemeral_creds.check.units import in_words
from ephemeral_creds.providers.vault.facts import RoleFacts

if TYPE_CHECKING:
    from ephemeral_creds.check.findings import Findings
    from ephemeral_creds.providers.vault.facts import StaticRoleFacts, TokenFacts
    from ephemeral_creds.providers.vault.inspect import Inspector

__all__ = ["check_role"]


def check_role(inspector: Inspector, token: TokenFacts, findings: Findings) -> bool:
    """Look at the role's definition; say whether it makes sense to ask for credentials."""
    try:
        role = inspector.definition()
    except AccessDenied:
        findings.add(
            "role", "skipped", "the token may not read the role's definition, which is fine"
        )
        return True
    except ConfigurationError as error:
        kind = inspector.creds_path.split("/")[-2].replace("creds", "roles")
        findings.add("role", "fail", str(error), f"vault list {inspector.mount}/{kind}")
        return False
    except EphemeralCredsError as error:
        findings.add("role", "warn", f"the role's definition cannot be read: {error}")
        return True
    if role is None:
        findings.add(
            "role", "skipped", "it is not a database engine's: of its definition nothing is known"
        )
        return True
    if isinstance(role, RoleFacts):
        _check_times(inspector, role, token, findings)
        _check_statements(role, findings)
    else:
        _check_rotation(inspector, role, findings)
    return _check_allowed(inspector, role.connection, findings)


def _check_times(
    inspector: Inspector, role: RoleFacts, token: TokenFacts, findings: Findings
) -> None:
    times = ", ".join(
        f"{name} {in_words(ttl) if ttl else 'of the mount'}"
        for name, ttl in (("default_ttl", role.default_ttl), ("max_ttl", role.max_ttl))
    )
    findings.add("role", "ok", f"{inspector.role!r}: {times}")
    if token.ttl < role.default_ttl * 0.95 and not token.renewable:
        findings.add(
            "role",
            "warn",
            f"the token lives {in_words(token.ttl)}, the lease {in_words(role.default_ttl)}: "
            "leases die with the token that they were made under",
            "raise token_ttl and token_max_ttl of the auth role above default_ttl, or give it a "
            "token_period",
        )


def _check_statements(role: RoleFacts, findings: Findings) -> None:
    creation = " ".join(role.creation).upper()
    if "NOLOGIN" in creation:
        findings.add(
            "role", "warn", "its creation_statements say NOLOGIN", "write WITH LOGIN instead"
        )
    renewal = " ".join(role.renewal).upper()
    if renewal and "VALID UNTIL" not in renewal:
        findings.add(
            "role",
            "warn",
            "its renew_statements do not move VALID UNTIL: a renewed lease outlives its login",
            "leave renew_statements empty, so that Vault does it by itself",
        )


def _check_rotation(inspector: Inspector, role: StaticRoleFacts, findings: Findings) -> None:
    when = (
        f"by the schedule {role.schedule!r}" if role.schedule else f"each {in_words(role.period)}"
    )
    findings.add(
        "role", "ok", f"{inspector.role!r}: the password of {role.username!r} changes {when}"
    )
    if role.rotation and "{{password}}" not in " ".join(role.rotation):
        findings.add(
            "role",
            "warn",
            "its rotation_statements set no {{password}}: what Vault hands out does not log in "
            "after the next rotation",
            "leave rotation_statements empty, so that Vault does it by itself",
        )


def _check_allowed(inspector: Inspector, connection: str, findings: Findings) -> bool:
    try:
        allowed = inspector.allowed_roles(connection)
    except AccessDenied:
        return True
    except EphemeralCredsError as error:
        findings.add("role", "fail", str(error))
        return False
    if any(_matches(pattern, inspector.role) for pattern in allowed):
        return True
    findings.add(
        "role",
        "fail",
        f"{inspector.role!r} is not in allowed_roles of its connection {connection!r}, which "
        f"has {', '.join(allowed) or 'none'}",
        f"vault write {inspector.mount}/config/{connection} "
        f"allowed_roles={','.join([*allowed, inspector.role])}",
    )
    return False


def _matches(pattern: str, role: str) -> bool:
    """Whether Vault takes a role for one of `pattern`: a star stands for anything, nothing else."""
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), role, re.DOTALL))
