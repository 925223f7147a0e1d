"""Readiness and liveness of pools and keepers: as values, and as small ASGI and WSGI applications.

No framework is needed, and no extra. The bodies have no user name, no error's text and no address:
an endpoint for probes is often open to a whole network.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from ephemeral_creds.pool.base import LeasedPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import TypeAlias
    from wsgiref.types import StartResponse

    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
    from ephemeral_creds.keeper.status import KeeperStatus
    from ephemeral_creds.pool.status import PoolStatus

    Source: TypeAlias = LeasedPool | Keeper | AsyncCredentialKeeper
    ASGIApp: TypeAlias = Callable[
        [
            Mapping[str, object],
            Callable[[], Awaitable[Mapping[str, object]]],
            Callable[[dict[str, object]], Awaitable[None]],
        ],
        Awaitable[None],
    ]
    WSGIApp: TypeAlias = Callable[[dict[str, object], StartResponse], Iterable[bytes]]

__all__ = ["Health", "asgi_app", "liveness", "readiness", "wsgi_app"]


class Health(NamedTuple):
    """An answer to a probe.

    Attributes:
        status: the HTTP status: 200, or 503.
        body: what to answer, in values of JSON.
    """

    status: int
    body: dict[str, object]


def readiness(*sources: Source) -> Health:
    """Tell whether requests that need the database should be sent to this process.

    By `PoolStatus.ready` of each pool, and `KeeperStatus.ready` of each keeper that is given
    itself. An outage of Vault alone makes no pool unready. Never blocks.
    """
    pools = [source.status() for source in sources if isinstance(source, LeasedPool)]
    keepers = [source.status() for source in sources if not isinstance(source, LeasedPool)]
    ready = all(pool.ready for pool in pools) and all(keeper.ready for keeper in keepers)
    body: dict[str, object] = {
        "ready": ready,
        "pools": {status.name: _of_pool(status) for status in pools},
        "keepers": _of_keepers(pools, keepers),
    }
    return Health(_status(ready), body)


def liveness(*sources: Source) -> Health:
    """Tell whether a restart of this process is of help: if a keeper's thread has crashed.

    Nothing else makes it unhealthy. A process that is restarted while Vault is unreachable loses
    the credentials that it has. Never blocks.
    """
    pools = [source.status() for source in sources if isinstance(source, LeasedPool)]
    keepers = [source.status() for source in sources if not isinstance(source, LeasedPool)]
    states = {status.name: status.state for status in _all_keepers(pools, keepers)}
    alive = "failed" not in states.values()
    return Health(_status(alive), {"alive": alive, "keepers": states})


def asgi_app(*sources: Source) -> ASGIApp:
    """Return an ASGI application with ``/ready`` and ``/live``, below any prefix."""

    async def app(
        scope: Mapping[str, object],
        _: Callable[[], Awaitable[Mapping[str, object]]],
        send: Callable[[dict[str, object]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        status, body = _answer(str(scope["method"]), str(scope["path"]), sources)
        headers = [(name.encode(), value.encode()) for name, value in _headers(body)]
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        shown = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": shown})

    return app


def wsgi_app(*sources: Source) -> WSGIApp:
    """Return a WSGI application with ``/ready`` and ``/live``, below any prefix."""

    def app(environ: dict[str, object], start_response: StartResponse) -> Iterable[bytes]:
        method = str(environ["REQUEST_METHOD"])
        status, body = _answer(method, str(environ.get("PATH_INFO", "")), sources)
        start_response(f"{int(status)} {status.phrase}", _headers(body))
        return [b"" if method == "HEAD" else body]

    return app


def _answer(method: str, path: str, sources: tuple[Source, ...]) -> tuple[HTTPStatus, bytes]:
    probe = _PROBES.get(path.rstrip("/").rpartition("/")[2])
    if probe is None:
        answer = Health(404, {"error": f"there are {' and '.join(f'/{name}' for name in _PROBES)}"})
    elif method not in ("GET", "HEAD"):
        answer = Health(405, {"error": "use GET"})
    else:
        answer = probe(*sources)
    return HTTPStatus(answer.status), json.dumps(answer.body).encode()


_PROBES = {"ready": readiness, "live": liveness}


def _headers(body: bytes) -> list[tuple[str, str]]:
    return [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
    ]


def _status(healthy: bool) -> int:
    return 200 if healthy else 503


def _all_keepers(pools: list[PoolStatus], keepers: list[KeeperStatus]) -> list[KeeperStatus]:
    return [*(status.keeper for status in pools), *keepers]


def _of_keepers(pools: list[PoolStatus], keepers: list[KeeperStatus]) -> dict[str, object]:
    return {
        status.name: {
            "ready": status.ready,
            "state": status.state,
            "generation": status.generation,
            "expires_in": _rounded(status.expires_in),
            "source_usable": status.source_error is None,
        }
        for status in _all_keepers(pools, keepers)
    }


def _of_pool(status: PoolStatus) -> dict[str, object]:
    return {
        "ready": status.ready,
        "keeper": status.keeper.name,
        "generation": status.generation,
        "connections": sum(status.connections.values()),
        "stale": status.stale,
        "available": status.available,
        "waiting": status.waiting,
        "max_size": status.max_size,
        "reason": status.last_error_reason,
        "sqlstate": status.last_error_sqlstate,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
