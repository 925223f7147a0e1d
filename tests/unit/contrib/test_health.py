"""Probes of pools and keepers, as values and by ASGI and WSGI."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from ephemeral_creds import AsyncCredentialKeeper, CredentialKeeper, RotatingConnectionPool
from ephemeral_creds.contrib.health import asgi_app, liveness, readiness, wsgi_app
from ephemeral_creds.events import FetchFailed
from ephemeral_creds.exceptions import ProviderUnavailable
from ephemeral_creds.keeper.phase import Phase
from ephemeral_creds.testing import EventCollector, FakeClock, ScriptedProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider(FakeClock())


@pytest.fixture
def keeper(provider: ScriptedProvider) -> Iterator[CredentialKeeper]:
    keeper = CredentialKeeper(provider, clock=provider._clock, name="orders")
    yield keeper
    keeper.close(PATIENCE)


def started(keeper: CredentialKeeper) -> CredentialKeeper:
    keeper.start()
    keeper.wait(PATIENCE)
    return keeper


@contextmanager
def crashed(keeper: CredentialKeeper) -> Iterator[None]:
    """Have it look as if its thread had crashed."""
    thread = keeper._thread
    phase, thread.phase = thread.phase, Phase.CRASHED
    yield
    thread.phase = phase


def test_a_pool_that_was_not_opened_is_alive_but_not_ready(keeper: CredentialKeeper) -> None:
    pool = RotatingConnectionPool(keeper, "host=/nowhere", open=False, name="main", max_size=5)
    status, body = readiness(pool)
    assert status == 503
    assert body == {
        "ready": False,
        "pools": {
            "main": {
                "ready": False,
                "keeper": "orders",
                "generation": 0,
                "connections": 0,
                "stale": 0,
                "available": 0,
                "waiting": 0,
                "max_size": 5,
                "reason": None,
                "sqlstate": None,
            }
        },
        "keepers": {
            "orders": {
                "ready": False,
                "state": "new",
                "generation": 0,
                "expires_in": None,
                "source_usable": True,
            }
        },
    }
    assert liveness(pool) == (200, {"alive": True, "keepers": {"orders": "new"}})


def test_a_keeper_with_credentials_is_ready(keeper: CredentialKeeper) -> None:
    assert readiness(started(keeper)).status == 200
    assert readiness().status == 200


def test_the_keeper_for_asyncio_is_taken(provider: ScriptedProvider) -> None:
    keeper = AsyncCredentialKeeper(provider, name="orders")
    assert readiness(keeper).status == 503
    assert liveness(keeper).status == 200


def test_an_outage_of_the_provider_leaves_it_alive(provider: ScriptedProvider) -> None:
    provider.failures["fetch"] = [ProviderUnavailable("http://vault: sealed")] * 100
    events = EventCollector()
    keeper = CredentialKeeper(provider, name="orders", observers=[events])
    keeper.start()
    events.wait_for(FetchFailed)
    with pytest.raises(Exception, match="sealed"):
        keeper.wait(0.1)
    assert readiness(keeper).status == 503
    assert liveness(keeper).status == 200
    assert "sealed" not in json.dumps(readiness(keeper).body)
    keeper.close(PATIENCE)


def test_only_a_crashed_thread_is_not_alive(keeper: CredentialKeeper) -> None:
    started(keeper)
    with crashed(keeper):
        assert liveness(keeper) == (503, {"alive": False, "keepers": {"orders": "failed"}})
        assert readiness(keeper).status == 200


def test_no_user_name_is_shown(keeper: CredentialKeeper) -> None:
    username = started(keeper).current().credentials.username
    for probe in (readiness, liveness):
        assert username not in json.dumps(probe(keeper).body)
        assert keeper.status().provider not in json.dumps(probe(keeper).body)


def by_wsgi(keeper: CredentialKeeper, path: str, method: str = "GET") -> tuple[int, Any]:
    told: list[str] = []

    def start_response(status: str, headers: Any, *_: object) -> Any:
        told.append(status)
        assert dict(headers)["content-type"] == "application/json"
        return bytes

    environ: dict[str, Any] = {
        "PATH_INFO": path,
        "REQUEST_METHOD": method,
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
    }
    setup_testing_defaults(environ)
    result = validator(wsgi_app(keeper))(environ, start_response)
    body = b"".join(result)
    result.close()  # type: ignore[attr-defined]
    return int(told[0].split()[0]), json.loads(body) if body else None


def by_asgi(keeper: CredentialKeeper, path: str, method: str = "GET") -> tuple[int, Any]:
    sent: list[Any] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        raise AssertionError

    scope = {"type": "http", "method": method, "path": path}
    asyncio.run(asgi_app(keeper)(scope, receive, send))  # type: ignore[arg-type]
    start, body = sent
    assert (b"content-type", b"application/json") in start["headers"]
    return start["status"], json.loads(body["body"]) if body["body"] else None


@pytest.mark.parametrize("ask", [by_wsgi, by_asgi])
class TestApplications:
    def test_they_answer_probes(self, keeper: CredentialKeeper, ask: Any) -> None:
        assert ask(keeper, "/ready")[0] == 503
        started(keeper)
        status, body = ask(keeper, "/health/ready/")
        assert (status, body["ready"]) == (200, True)
        assert ask(keeper, "/live") == (200, {"alive": True, "keepers": {"orders": "serving"}})
        assert ask(keeper, "/live", "HEAD") == (200, None)
        with crashed(keeper):
            assert ask(keeper, "/live")[0] == 503

    def test_they_have_nothing_else(self, keeper: CredentialKeeper, ask: Any) -> None:
        assert ask(keeper, "/") == (404, {"error": "there are /ready and /live"})
        assert ask(keeper, "/live", "POST")[0] == 405


def test_other_protocols_are_left_alone(keeper: CredentialKeeper) -> None:
    async def unused(*_: object) -> Any:
        raise AssertionError

    asyncio.run(asgi_app(keeper)({"type": "lifespan"}, unused, unused))  # type: ignore[arg-type]


def test_fastapi_mounts_it(keeper: CredentialKeeper) -> None:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()
    app.mount("/health", asgi_app(started(keeper)))
    sent: list[Any] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/health/ready",
        "headers": [],
        "query_string": b"",
        "root_path": "",
        "app": app,
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 200
