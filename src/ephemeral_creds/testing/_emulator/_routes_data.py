"""The paths below ``auth/`` and those of database engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator._auth import (
    AppRoleMount,
    UserpassMount,
)
from ephemeral_creds.testing._emulator._wire import (
    SYSTEM_MAX_TTL,
    Answer,
    Refusal,
    envelope,
    one_error,
    seconds,
)

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._auth import AuthMount
    from ephemeral_creds.testing._emulator._core import Core
    from ephemeral_creds.testing._emulator._database import DatabaseMount, Role
    from ephemeral_creds.testing._emulator._tokens import Token
    from ephemeral_creds.testing._emulator._wire import Request

__all__ = ["serve_auth", "serve_database"]

_LAST_USE = (
    "Secret cannot be returned; token had one use left, so leased credentials were "
    "immediately revoked."
)


def serve_auth(core: Core, request: Request, token: Token) -> Answer:
    """Answer a request below ``auth/``, other than a login."""
    rest = request.path.removeprefix("auth/")
    if rest.startswith("token/"):
        with core.lock:
            return _serve_token(core, request, rest.removeprefix("token/"), token)
    for name, mount in core.auths.items():
        if rest.startswith(f"{name}/"):
            with core.lock:
                return _serve_method(mount, request, rest.removeprefix(f"{name}/"))
    raise Refusal(404, f'no handler for route "{request.path}". route entry not found.')


def _serve_token(core: Core, request: Request, action: str, token: Token) -> Answer:
    match action, request.operation:
        case "lookup-self", "read" | "update":
            return _token_reply(data=token.lookup(core.now()))
        case "renew-self", "update":
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


def _serve_method(mount: AuthMount, request: Request, rest: str) -> Answer:
    kind = mount.mount_type
    match rest.split("/"), request.operation:
        case _, "update" if rest == mount.config_path:
            mount.configure(request.body)
            return Answer(204)
        case ["users", name], "update" if isinstance(mount, UserpassMount):
            mount.write_role(name.lower(), request.body)
            return Answer(204)
        case ["role", name], "update":
            mount.write_role(name, request.body)
            return Answer(204)
        case ["role", name], "read":
            role = mount.role(name)
            shown = {"token_policies": role.policies, "token_ttl": round(role.token_ttl)}
            return envelope(role.body | shown, mount_type=kind)
        case ["role", name], "delete":
            mount.delete_role(name)
            return Answer(204)
        case ["role", name, "role-id"], "read" if isinstance(mount, AppRoleMount):
            return envelope({"role_id": mount.role(name).role_id}, mount_type=kind)
        case ["role", name, "secret-id"], "update" if isinstance(mount, AppRoleMount):
            return envelope(mount.add_secret_id(name), mount_type=kind)
        case ["login" | "config"] | ["role", *_], _:
            raise Refusal(405, one_error("unsupported operation"))
    raise Refusal(404, one_error("unsupported path"))


def serve_database(
    core: Core, mount: DatabaseMount, request: Request, rest: str, token: Token
) -> Answer:
    """Answer a request to a database engine."""
    match rest.split("/"), request.operation:
        case ["static-creds", name], "read":
            return envelope(core.static_roles(mount).read(name), mount_type=mount.mount_type)
        case ["static-roles", name], "update":
            core.static_roles(mount).write(name, request.body)
            return Answer(204)
        case ["static-roles", name], "delete":
            core.static_roles(mount).delete(name)
            return Answer(204)
        case ["rotate-role", name], "update":
            core.static_roles(mount).rotate(name)
            return Answer(204)
        case ["creds", name], "read":
            return _read_credentials(core, mount, request, mount.role_of(name), name, token)
        case ["config", name], "update":
            mount.configure(name, request.body)
            return Answer(204)
        case ["config", name], "read":
            return envelope(mount.configuration(name), mount_type=mount.mount_type)
        case ["roles", name], "update":
            mount.write_role(name, request.body)
            return Answer(204)
        case ["roles", name], "read":
            role = mount.role_of(name)
            if role is None:
                raise Refusal(404)
            return envelope(role.describe(), mount_type=mount.mount_type)
        case ["roles", name], "delete":
            mount.roles.pop(name, None)
            return Answer(204)
        case ["roles"], "list":
            return envelope({"keys": sorted(mount.roles)}, mount_type=mount.mount_type)
        case ["creds" | "config" | "roles" | "static-creds" | "static-roles" | "rotate-role", _], _:
            raise Refusal(405, one_error("unsupported operation"))
    raise Refusal(404, one_error("unsupported path"))


def _read_credentials(
    core: Core,
    mount: DatabaseMount,
    request: Request,
    role: Role | None,
    name: str,
    token: Token,
) -> Answer:
    if role is None:
        raise Refusal(400, f"unknown role: {name}")
    limit = role.max_ttl or SYSTEM_MAX_TTL
    ttl = min(role.default_ttl or limit, limit)
    if token.batch:
        ttl = min(ttl, token.expires_at - core.now())
    data = mount.create(role, token.display_name, ttl)
    lease = core.leases.register(
        request.path,
        token,
        ttl=ttl,
        mount=mount,
        role=name,
        username=data["username"],
        connection=role.connection,
        revocation=role.revocation,
    )
    if token.spent or core.tokens.find(token.id) is None:
        core.leases.end_soon(lease)
        raise Refusal(400, _LAST_USE)
    core.minted.append(request.path)
    return envelope(
        data,
        mount_type=mount.mount_type,
        lease_id=lease.id,
        renewable=True,
        lease_duration=round(ttl),
    )
