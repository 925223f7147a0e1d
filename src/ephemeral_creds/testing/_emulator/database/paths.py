"""The paths of a database engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator._wire import (
    SYSTEM_MAX_TTL,
    Answer,
    Refusal,
    envelope,
    one_error,
)

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._core import Core
    from ephemeral_creds.testing._emulator._tokens import Token
    from ephemeral_creds.testing._emulator._wire import Request
    from ephemeral_creds.testing._emulator.database.engine import DatabaseMount, Role

__all__ = ["serve_database"]

_LAST_USE = (
    "Secret cannot be returned; token had one use left, so leased credentials were "
    "immediately revoked."
)


def serve_database(
    core: Core, mount: DatabaseMount, request: Request, rest: str, token: Token
) -> Answer:
    """Answer a request to a database engine."""
    match rest.split("/"), request.operation:
        case ["static-creds", name], "read":
            return envelope(mount.static.read(name), mount_type=mount.mount_type)
        case ["static-roles", name], "update":
            mount.static.write(name, request.body)
            return Answer(204)
        case ["static-roles", name], "delete":
            mount.static.delete(name)
            return Answer(204)
        case ["rotate-role", name], "update":
            mount.static.rotate(name)
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
