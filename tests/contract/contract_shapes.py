"""What answers look like: keys and types, without what differs each time."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from differences import extra, said

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import VaultResponse

# For that many seconds after `early_in_a_second` no second ends.
_QUIET = 0.6

LEASE_DATA = {
    "expire_time": "str",
    "id": "str",
    "issue_time": "str",
    "last_renewal": None,
    "renewable": "bool",
    "ttl": "int",
} | extra("lease")

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
BAD_TOKEN = said("unknown token")
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
    } | extra("envelope")


def refusal(answer: VaultResponse) -> tuple[int, list[str]]:
    """Return status and texts of an error, checking that there is nothing else in it."""
    assert shape(answer.body) == {"errors": ["str"] if answer.errors else []}
    assert answer.headers["content-type"] == "application/json"
    return answer.status, answer.errors


def early_in_a_second() -> float:
    """Wait, if need be, for an instant after which no second ends for a while; and return it.

    Vault cuts the fractions off the instants from which it computes what is left of a maximum,
    so that the answer depends on whether a second ended between two requests.
    """
    while True:
        now = time.monotonic()
        rest = 1.0 - time.time() % 1.0
        if rest >= _QUIET:
            return now
        time.sleep(rest + 0.02)


def capped(duration: int, *, wish: str, maximum: int, since: float) -> list[str]:
    """See that an answer is what is left of a maximum, and return the warning that goes with it.

    Args:
        duration: the answer, in seconds.
        wish: what was asked for, as Vault writes it.
        maximum: in seconds.
        since: what `early_in_a_second` returned just before the maximum began to count.
    """
    passed = time.monotonic() - since
    ended = 0 if passed < _QUIET else math.ceil(passed)
    assert maximum - ended <= duration <= maximum
    minutes, seconds = divmod(duration, 60)
    left = (f"{minutes}m" if minutes else "") + (f"{seconds}s" if seconds else "")
    why = f'TTL of "{wish}" exceeded the effective max_ttl of "{left}"'
    return [f"{why}; TTL value is capped accordingly"]


def eventually(condition: Callable[[], bool], patience: float = 30.0) -> bool:
    """Wait for something that a server does in its own time."""
    give_up_at = time.monotonic() + patience
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.02)
    return True
