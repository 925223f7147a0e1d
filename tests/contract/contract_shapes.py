"""What answers look like: keys and types, without what differs each time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds.testing import VaultResponse

LEASE_DATA = {
    "expire_time": "str",
    "id": "str",
    "issue_time": "str",
    "last_renewal": None,
    "renewable": "bool",
    "ttl": "int",
}

TOKEN_DATA = {
    "accessor": "str",
    "creation_time": "int",
    "creation_ttl": "int",
    "display_name": "str",
    "entity_id": "str",
    "expire_time": "str",
    "explicit_max_ttl": "int",
    "id": "str",
    "issue_time": "str",
    "meta": None,
    "num_uses": "int",
    "orphan": "bool",
    "path": "str",
    "policies": ["str"],
    "renewable": "bool",
    "ttl": "int",
    "type": "str",
}

AUTH = {
    "client_token": "str",
    "accessor": "str",
    "policies": ["str"],
    "token_policies": ["str"],
    "metadata": None,
    "lease_duration": "int",
    "renewable": "bool",
    "entity_id": "str",
    "token_type": "str",
    "orphan": "bool",
    "mfa_requirement": None,
    "num_uses": "int",
}

DENIED = "1 error occurred:\n\t* permission denied\n\n"
BAD_TOKEN = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"
UNSUPPORTED = "1 error occurred:\n\t* unsupported operation\n\n"


def shape(value: object) -> object:
    """Return the keys and types of an answer's body."""
    match value:
        case dict():
            return {key: shape(member) for key, member in value.items()}
        case list():
            return [shape(member) for member in value[:1]]
        case None:
            return None
        case bool():
            return "bool"
        case int() | float():
            return "int"
        case _:
            return "str"


def envelope(
    data: object = None, *, auth: object = None, warnings: object = None
) -> dict[str, object]:
    """Return the shape of a success, with what is in it."""
    return {
        "request_id": "str",
        "lease_id": "str",
        "renewable": "bool",
        "lease_duration": "int",
        "data": data,
        "wrap_info": None,
        "warnings": warnings,
        "auth": auth,
        "mount_type": "str",
    }


def refusal(answer: VaultResponse) -> tuple[int, list[str]]:
    """Return status and texts of an error, checking that there is nothing else in it."""
    assert shape(answer.body) == {"errors": ["str"] if answer.errors else []}
    assert answer.headers["content-type"] == "application/json"
    return answer.status, answer.errors


def early_in_a_second() -> None:
    """Wait, if need be, for an instant after which no second ends for a while.

    Vault cuts the fractions off the instants from which it computes what is left of a maximum,
    so that the answer depends on whether a second ended between two requests.
    """
    rest = 1.0 - time.time() % 1.0
    if rest < 0.6:
        time.sleep(rest + 0.02)
