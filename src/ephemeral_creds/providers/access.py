"""Access tokens: what functions of users and libraries return, and what platforms reply."""

from __future__ import annotations

import base64
import inspect
import json
import math
import time
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.observers import where_raised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AccessToken", "TokenAnswer", "access_token_in", "call_for_token", "claims_of"]

AccessToken: TypeAlias = tuple[Secret, float]
"""A token, and the seconds that it works for from now on."""

TokenAnswer: TypeAlias = "str | Secret | tuple[str | Secret, float | datetime | None]"
"""A token; or it and its end, in seconds since 1970 or as a `datetime` with a time zone."""


def call_for_token(
    function: Callable[[], object],
    what: str,
    *,
    lifetime: float,
    explain: Callable[[Exception], EphemeralCredsError | None] = lambda _: None,
) -> AccessToken | EphemeralCredsError:
    """Call a function that returns a `TokenAnswer`; what it raises is not passed on.

    Args:
        function: what to call.
        what: the beginning of an error's message.
        lifetime: seconds that a token works for whose end is not returned.
        explain: the error for an exception that it knows; the text of others may hold anything.
    """
    try:
        answer = function()
    except EphemeralCredsError as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - of any library
        known = explain(error)
        return known or ProviderUnavailable(f"{what}: no token: {where_raised(error)}")
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        return ConfigurationError(
            f"{what}: the function is one for asyncio, but the keeper calls it from a thread of "
            "its own: give one that returns the token itself"
        )
    return _understand(answer, what, lifetime)


def _understand(answer: object, what: str, lifetime: float) -> AccessToken | EphemeralCredsError:
    ends: object = None
    if isinstance(answer, tuple) and len(answer) == 2:
        answer, ends = answer
    token = Secret(answer) if isinstance(answer, str) else answer
    if not isinstance(token, Secret) or not token:
        kind = "an empty one" if token == Secret("") else type(answer).__name__
        return MalformedResponse(
            f"{what}: the function must return a token, as str or Secret, or a pair of it and its "
            f"end; it returned {kind}"
        )
    if ends is None:
        return token, lifetime
    if isinstance(ends, datetime) and ends.tzinfo is not None:
        ends = ends.timestamp()
    if isinstance(ends, int | float) and math.isfinite(ends):
        return token, ends - time.time()
    return MalformedResponse(
        f"{what}: the end of a token must be in seconds since 1970 or a datetime with a time zone, "
        f"not {type(ends).__name__}"
    )


def access_token_in(body: Mapping[str, object], what: str) -> AccessToken | EphemeralCredsError:
    """Return the token of an OAuth reply (RFC 6749 §5.1), or of one that has ``expires_on``.

    Args:
        body: the reply's JSON.
        what: the beginning of an error's message.
    """
    token = body.get("access_token")
    if not isinstance(token, str) or not token:
        return MalformedResponse(f"{what} gave no access_token: check its address")
    # Azure's metadata service writes numbers as text.
    for name, begins in (("expires_on", time.time()), ("expires_in", 0.0)):
        try:
            return Secret(token), float(str(body[name])) - begins
        except (KeyError, ValueError):
            continue
    return MalformedResponse(f"{what} gave an access_token without its end")


def claims_of(token: Secret) -> Mapping[str, object]:
    """Return what a JSON Web Token says; nothing is verified. Another token says nothing."""
    parts = token.reveal().split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(f"{parts[1]}{'=' * (-len(parts[1]) % 4)}"))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
