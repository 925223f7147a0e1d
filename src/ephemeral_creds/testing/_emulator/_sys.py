"""The paths below ``sys/``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import Answer, Refusal, envelope, one_error, seconds
from ephemeral_creds.testing._emulator.auth import METHODS
from ephemeral_creds.testing._emulator.database.engine import DatabaseMount

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing._emulator._core import Core
    from ephemeral_creds.testing._emulator._wire import Request

    Handler = Callable[["_Call"], Answer]

__all__ = ["serve"]


@dataclass(frozen=True, slots=True)
class _Call:
    core: Core
    request: Request
    rest: str  # what follows the route's prefix


def serve(core: Core, request: Request) -> Answer:
    """Answer a request below ``sys/``; its token has been checked already."""
    for prefix, operations in _ROUTES.items():
        exact = not prefix.endswith("/")
        if request.path == prefix or (not exact and request.path.startswith(prefix)):
            handler = operations.get(request.operation)
            if handler is None:
                raise Refusal(405, one_error("unsupported operation"))
            rest = request.path.removeprefix(prefix).strip("/")
            return handler(_Call(core, request, rest))
    raise Refusal(404, one_error("unsupported path"))


def _reply(data: dict[str, Any] | None = None, **fields: Any) -> Answer:
    return envelope(data, mount_type="system", **fields)


def _health(call: _Call) -> Answer:
    body = {
        "initialized": True,
        "sealed": call.core.sealed,
        "standby": call.core.sealed,
        "performance_standby": False,
        "replication_performance_mode": "unknown" if call.core.sealed else "disabled",
        "replication_dr_mode": "unknown" if call.core.sealed else "disabled",
        "server_time_utc": int(call.core.now()),
        "version": call.core.version,
        "enterprise": False,
        "echo_duration_ms": 0,
        "clock_skew_ms": 0,
        "replication_primary_canary_age_ms": 0,
    }
    if not call.core.sealed:
        body |= {"cluster_name": "vault-cluster-emulator", "cluster_id": "emulator"}
    chosen = call.request.query
    status = chosen.get("sealedcode", 503) if call.core.sealed else chosen.get("activecode", 200)
    return Answer(int(status), body)


def _seal_status(call: _Call) -> Answer:
    body = {
        "type": "shamir",
        "initialized": True,
        "sealed": call.core.sealed,
        "t": 1,
        "n": 1,
        "progress": 0,
        "nonce": "",
        "version": call.core.version,
        "build_date": "",
        "migration": False,
        "recovery_seal": False,
        "storage_type": "inmem",
    }
    if not call.core.sealed:
        body |= {"cluster_name": "vault-cluster-emulator", "cluster_id": "emulator"}
    return Answer(200, body)


def _seal(call: _Call) -> Answer:
    call.core.sealed = True
    return Answer(204)


def _unseal(call: _Call) -> Answer:
    if call.request.text("key") != call.core.unseal_key:
        raise Refusal(400, "invalid key: key is shorter than minimum 16 bytes")
    call.core.sealed = False
    return _seal_status(call)


def _list_mounts(call: _Call) -> Answer:
    return _reply({f"{name}/": {"type": "database"} for name in call.core.databases})


def _mount(call: _Call) -> Answer:
    if call.request.text("type") != "database":
        raise Refusal(400, f"plugin not found in the catalog: {call.request.text('type')}")
    if call.rest in call.core.databases:
        raise Refusal(400, f"path is already in use at {call.rest}/")
    call.core.databases[call.rest] = DatabaseMount(call.core.now)
    return Answer(204)


def _unmount(call: _Call) -> Answer:
    for lease in call.core.leases.below(f"{call.rest}/"):
        call.core.leases.revoke(lease.id)
    call.core.databases.pop(call.rest, None)
    return Answer(204)


def _list_auths(call: _Call) -> Answer:
    auths = {f"{name}/": {"type": mount.mount_type} for name, mount in call.core.auths.items()}
    return _reply({"token/": {"type": "token"}} | auths)


def _enable_auth(call: _Call) -> Answer:
    kind = METHODS.get(call.request.text("type"))
    if kind is None:
        raise Refusal(400, f"plugin not found in the catalog: {call.request.text('type')}")
    if call.rest in call.core.auths:
        raise Refusal(400, f"path is already in use at {call.rest}/")
    call.core.auths[call.rest] = kind(call.rest, call.core.tokens, call.core.now, call.core.lock)
    return Answer(204)


def _disable_auth(call: _Call) -> Answer:
    call.core.auths.pop(call.rest, None)
    return Answer(204)


def _write_policy(call: _Call) -> Answer:
    call.core.policies.write(call.rest, call.request.text("policy"))
    return Answer(204)


def _read_policy(call: _Call) -> Answer:
    text = call.core.policies.read(call.rest)
    if text is None:
        raise Refusal(404, f"No policy named: {call.rest}")
    return _reply({"name": call.rest, "policy": text})


def _delete_policy(call: _Call) -> Answer:
    call.core.policies.delete(call.rest)
    return Answer(204)


def _list_policies(call: _Call) -> Answer:
    return _reply({"keys": call.core.policies.names()})


def _lease_id(request: Request) -> str:
    lease_id = request.text("lease_id")
    if not lease_id:
        raise Refusal(400, "lease_id must be specified")
    return lease_id


def _renew_lease(call: _Call) -> Answer:
    increment = seconds(call.request.body.get("increment"))
    lease_id = call.rest or _lease_id(call.request)
    duration, warnings = call.core.leases.renew(lease_id, increment)
    return _reply(lease_id=lease_id, renewable=True, lease_duration=duration, warnings=warnings)


def _revoke_lease(call: _Call) -> Answer:
    lease_id = call.rest or _lease_id(call.request)
    if call.request.body.get("sync", True):
        call.core.leases.revoke(lease_id)
        return Answer(204)
    if lease := call.core.leases.find(lease_id):
        call.core.leases.end_soon(lease)
    return Answer(202)


def _revoke_prefix(call: _Call) -> Answer:
    for lease in call.core.leases.below(f"{call.rest}/"):
        call.core.leases.revoke(lease.id)
    return Answer(204)


def _lookup_lease(call: _Call) -> Answer:
    lease = call.core.leases.find(_lease_id(call.request))
    if lease is None:
        raise Refusal(400, "invalid lease")
    return _reply(lease.lookup(call.core.now()))


def _list_leases(call: _Call) -> Answer:
    prefix = f"{call.rest}/"
    keys = {lease.id.removeprefix(prefix) for lease in call.core.leases.below(prefix)}
    # Like folders: what lies deeper is named by its first part.
    names = sorted({k.split("/")[0] + ("/" if "/" in k else "") for k in keys})
    if not names:
        raise Refusal(404)
    return _reply({"keys": names})


def _capabilities(call: _Call) -> Answer:
    token = call.core.tokens.find(call.request.token)
    names = token.policies if token is not None else []
    paths = call.request.body.get("paths")
    if not paths:
        raise Refusal(400, "paths must be supplied")
    data = {path: sorted(call.core.policies.capabilities(names, path)) for path in paths}
    if len(paths) == 1:
        data["capabilities"] = data[paths[0]]
    answer = _reply(data)
    # As Vault did before it had frames, and still does.
    return Answer(answer.status, {**data, **(answer.body or {})})


_ROUTES: dict[str, dict[str, Handler]] = {
    "sys/health": {"read": _health},
    "sys/seal-status": {"read": _seal_status},
    "sys/seal": {"update": _seal},
    "sys/unseal": {"update": _unseal},
    "sys/mounts": {"read": _list_mounts},
    "sys/mounts/": {"update": _mount, "delete": _unmount},
    "sys/auth": {"read": _list_auths},
    "sys/auth/": {"update": _enable_auth, "delete": _disable_auth},
    "sys/policies/acl": {"list": _list_policies},
    "sys/policies/acl/": {
        "read": _read_policy, "update": _write_policy, "delete": _delete_policy,
    },
    "sys/policy/": {"read": _read_policy, "update": _write_policy, "delete": _delete_policy},
    "sys/capabilities-self": {"update": _capabilities},
    "sys/leases/renew": {"update": _renew_lease},
    "sys/leases/renew/": {"update": _renew_lease},
    "sys/renew": {"update": _renew_lease},
    "sys/leases/revoke": {"update": _revoke_lease},
    "sys/leases/revoke/": {"update": _revoke_lease},
    "sys/leases/revoke-prefix/": {"update": _revoke_prefix},
    "sys/leases/lookup": {"update": _lookup_lease},
    "sys/leases/lookup/": {"list": _list_leases},
}  # fmt: skip
