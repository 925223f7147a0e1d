"""Where Vault and OpenBao differ, as far as tests have seen it; docs/reference/vault.md shows it.

Tests run against whichever server is there: they ask here for what it says and has, and skip what
it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest

from ephemeral_creds.testing import find_vault
from ephemeral_creds.testing._binaries import vault_version

__all__ = ["DIFFERENCES", "Difference", "extra", "has", "needs", "said", "table"]

Answer = str | bool | dict[str, str]


@dataclass(frozen=True)
class Difference:
    """One difference.

    Args:
        about: what differs, for people.
        vault: a text that is part of the answer, keys of it with their types, or whether a thing
            is there.
        openbao: the same.
    """

    about: str
    vault: Answer
    openbao: Answer


DIFFERENCES = {
    "envelope": Difference("every reply has", {"mount_type": "str"}, {}),
    "unknown token": Difference(
        "403 for a token that it does not know",
        "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n",
        "permission denied",
    ),
    "no such certificate": Difference(
        "400 for a login whose certificate no role trusts",
        "failed to match all constraints for this login certificate",
        "invalid certificate or no client certificate supplied",
    ),
    "certificate with other names": Difference(
        "400 for a login whose certificate is not of the names that a role wants",
        "failed to match all constraints for this login certificate",
        "no chain matching all constraints could be found for this login certificate",
    ),
    "no certificate": Difference(
        "400 for a login without a certificate",
        "client certificate must be supplied",
        "no client certificate found",
    ),
    "no TLS": Difference(
        "400 for a login by certificate without TLS",
        "tls connection required",
        "no client certificate found",
    ),
    "no keys": Difference(
        "400 for a JWT method without keys",
        "exactly one of 'jwt_validation_pubkeys', 'jwks_url', 'jwks_pairs' or "
        "'oidc_discovery_url' must be set",
        "exactly one of 'jwt_validation_pubkeys', 'jwks_url', 'jwks_pairs', "
        "'oidc_discovery_url', or 'provider_config' must be set",
    ),
    "no role id": Difference(
        "500 for an AppRole login without a role id",
        "failed to determine alias name from login request",
        "missing role_id",
    ),
    "no uid": Difference(
        "a Kubernetes login by a token without a uid",
        "500 could not parse UID from claims",
        "403 permission denied",
    ),
    "no password": Difference(
        "a userpass login without a password", "400 invalid credentials", "500 missing password"
    ),
    "lease": Difference("a lease looked up has", {}, {"path": "str"}),
    "health": Difference("health has", {"enterprise": "bool"}, {}),
    "connection": Difference(
        "a database connection has",
        {
            "disable_automated_rotation": "bool",
            "rotation_period": "int",
            "rotation_schedule": "str",
            "rotation_window": "int",
            "skip_static_role_import_rotation": "bool",
            "verify_connection": "bool",
        },
        {},
    ),
    "static role": Difference("a static role has", {"skip_import_rotation": "bool"}, {}),
    "another certificate": Difference(
        "renewing the token of one certificate with another one that the role trusts",
        vault=True,
        openbao=False,
    ),
    "review at renewal": Difference(
        "renewing the token of a Kubernetes login has the service account reviewed again",
        vault=False,
        openbao=True,
    ),
    "kubernetes without a CA": Difference(
        "the Kubernetes method with `disable_local_ca_jwt` and no `kubernetes_ca_cert`",
        vault=True,
        openbao=False,
    ),
    "aws": Difference("auth methods `aws`, `azure`, `gcp`, `ldap`", vault=True, openbao=False),
    "schedule": Difference("`rotation_schedule` of static roles", vault=True, openbao=False),
    "consul": Difference(
        "secrets engines other than databases: `consul`, `aws`, `gcp` …",
        vault=True,
        openbao=False,
    ),
    "namespaces": Difference(
        "namespaces in the free edition, without which `X-Vault-Namespace` has no effect",
        vault=False,
        openbao=True,
    ),
}


def said(what: str) -> str:
    """Return a text of the server at hand."""
    answer = _of_the_server_at_hand(what)
    assert isinstance(answer, str)
    return answer


def extra(what: str) -> dict[str, str]:
    """Return keys that only one of them has, with their types, if it is the server at hand."""
    answer = _of_the_server_at_hand(what)
    assert isinstance(answer, dict)
    return answer


def has(what: str) -> bool:
    """Return whether the server at hand has something."""
    answer = _of_the_server_at_hand(what)
    assert isinstance(answer, bool)
    return answer


def needs(what: str, *, there: bool = True) -> pytest.MarkDecorator:
    """Skip a test where the server at hand lacks something, or has what should not be there."""
    verb = "has" if has(what) else "lacks"
    reason = f"{_server_at_hand()} {verb} this: {DIFFERENCES[what].about.replace('`', '')}"
    return pytest.mark.skipif(has(what) is not there, reason=reason)


def table() -> str:
    """Return it all as a table in Markdown."""
    lines = ["| | Vault | OpenBao |", "|---|---|---|"]
    lines += [
        f"| {row.about} | {_cell(row.vault)} | {_cell(row.openbao)} |"
        for row in DIFFERENCES.values()
    ]
    return "\n".join(lines)


def _cell(answer: Answer) -> str:
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    if isinstance(answer, dict):
        return ", ".join(f"`{key}`" for key in answer) or "–"
    return f"`{' '.join(answer.split())}`"


def _of_the_server_at_hand(what: str) -> Answer:
    row = DIFFERENCES[what]
    return row.openbao if _server_at_hand() == "OpenBao" else row.vault


@cache
def _server_at_hand() -> str:
    return vault_version(find_vault()).split()[0]
