"""The step that looks at what the role may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds.check.database import Rights
    from ephemeral_creds.check.findings import Findings

__all__ = ["check_rights", "stable_owner"]


def stable_owner(rights: Rights) -> str | None:
    """Return the one role that stays and that the role is a member of, if it is one."""
    stable = [name for name in rights.member_of if not name.startswith("pg_")]
    return stable[0] if len(stable) == 1 else None


def check_rights(rights: Rights, session_role: str | None, findings: Findings) -> None:
    """Say whether the role has too many rights, too few, or those that get in the way later."""
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
            f"it has {', '.join(rights.powers)}, which a service needs for nothing; {text}",
            "leave that out of the creation_statements, and of the roles it is a member of",
        )
    elif rights.tables and not any(rights.may.values()):
        _say_none(rights, text, findings)
    else:
        findings.add("rights", "ok", text)
    if rights.blocked_sequences:
        findings.add(
            "rights",
            "warn",
            "it may INSERT into tables whose keys come from sequences that it may not use: "
            f"{', '.join(rights.blocked_sequences)}",
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA … TO the role that has INSERT",
        )
    # What a session makes as another role belongs to that one.
    if rights.creates_in and not rights.powers and session_role is None:
        owner = stable_owner(rights) or "ROLE"
        findings.add(
            "rights",
            "warn",
            f"it may create objects in {', '.join(rights.creates_in)}: they belong to it, and "
            "keep Vault from dropping it unless its revocation_statements hand them on",
            f"have sessions act as a role that stays, session_role={owner!r} of the pool, and say "
            f"so here with --session-role {owner}; or revoke CREATE on the schema",
        )


def _say_none(rights: Rights, text: str, findings: Findings) -> None:
    if rights.not_inherited:
        name = rights.not_inherited[0]
        findings.add(
            "rights",
            "warn",
            f"by itself it may use no table, since it does not inherit what "
            f"{', '.join(rights.not_inherited)} may; {text}",
            f"have sessions act as that role: session_role={name!r} of the pool, and "
            f"--session-role {name} here",
        )
    else:
        findings.add(
            "rights",
            "warn",
            f"it may use no table; {text}",
            "grant something in the creation_statements, as a rule membership: GRANT app TO "
            '"{{name}}"',
        )
