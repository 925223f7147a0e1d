"""The paths below ``auth/token/``; the tokens themselves are in `TokenStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator._wire import (
    SYSTEM_MAX_TTL,
    Answer,
    Refusal,
    envelope,
    one_error,
    seconds,
)

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._core import Core
    from ephemeral_creds.testing._emulator._tokens import Token
    from ephemeral_creds.testing._emulator._wire import Request

__all__ = ["serve_token"]


def serve_token(core: Core, request: Request, action: str, token: Token) -> Answer:
    """Answer a request below ``auth/token/``, made with `token`."""
    match action, request.operation:
        case "lookup-self", "read" | "update":
            return _token_reply(data=token.lookup(core.now()))
        case "renew-self", "update":
            if (mount := core.login_mount(token.path)) is not None:
                mount.check_renewal(token, request)
            warnings = core.tokens.renew(token, seconds(request.body.get("increment")))
            return _token_reply(auth=token.auth(core.now()), warnings=warnings)
        case "revoke-self", "update":
            core.tokens.revoke(token)
            return Answer(204)
        case "lookup", "update":
            return _token_reply(data=_other(core, request).lookup(core.now()))
        case "revoke", "update":
            if (other := core.tokens.find(request.text("token"))) is not None:
                core.tokens.revoke(other)
            return Answer(204)
        case "create" | "create-orphan", "update":
            return _create_token(core, request, token, orphan=action == "create-orphan")
        case (
            "lookup-self" | "renew-self" | "revoke-self" | "lookup" | "revoke" | "create"
            | "create-orphan",
            _,
        ):  # fmt: skip
            raise Refusal(405, one_error("unsupported operation"))
    raise Refusal(404, one_error("unsupported path"))


def _token_reply(**fields: object) -> Answer:
    return envelope(mount_type="token", **fields)  # type: ignore[arg-type]


def _other(core: Core, request: Request) -> Token:
    found = core.tokens.find(request.text("token"))
    if found is None:
        raise Refusal(403, "bad token")
    return found


def _create_token(core: Core, request: Request, parent: Token, *, orphan: bool) -> Answer:
    body = request.body
    if parent.batch:
        raise Refusal(400, "batch tokens cannot create more tokens")
    wanted = list(body.get("policies") or parent.policies)
    if "root" not in parent.policies and not set(wanted) <= {*parent.policies, "default"}:
        raise Refusal(400, "child policies must be subset of parent")
    if body.get("no_default_policy"):
        wanted = [policy for policy in wanted if policy != "default"]
    elif "root" not in wanted:
        wanted.append("default")
    warnings: list[str] = []
    token = core.tokens.create(
        ttl=seconds(body.get("ttl")),
        limit_warnings=warnings,
        policies=sorted(set(wanted)),
        path=request.path,
        display_name="token",
        max_ttl=SYSTEM_MAX_TTL,
        explicit_max_ttl=seconds(body.get("explicit_max_ttl")),
        period=seconds(body.get("period")),
        num_uses=int(body.get("num_uses") or 0),
        renewable=bool(body.get("renewable", True)),
        batch=body.get("type") == "batch",
        parent=None if orphan or body.get("no_parent") else parent.id,
    )
    return _token_reply(auth=token.auth(core.now()), warnings=warnings or None)
