"""A stand-in for Infisical, over TLS, that makes real users in a real PostgreSQL.

Written from its published API, and answering errors as its source does: a TTL below a minute is
refused, a renewal adds to the end of a lease, one beyond the maximum is a 400, a token that has
expired a 403, and a revocation that could not drop the user a 200.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql

from ephemeral_creds import Secret
from ephemeral_creds.providers.infisical.replies import seconds_of

if TYPE_CHECKING:
    from certificates import Issued
    from ephemeral_creds.testing import PostgresServer

__all__ = ["CLIENT_ID", "InfisicalStub", "StubLease"]

CLIENT_ID = "0b1f2c9e-machine-identity"
_PLACE = ("my-project", "prod", "/")
_NOT_FOUND = {
    "projectSlug": "Project with slug '{}' not found",
    "environmentSlug": "Folder with path '/' in environment with slug '{}' not found",
    "path": "Folder with path '{}' in environment with slug 'prod' not found",
}


@dataclass
class StubLease:
    """A lease; times are in seconds since 1970."""

    lease_id: str
    user: str
    created_at: float
    expires_at: float

    def shown(self, **more: object) -> dict[str, object]:
        return {
            "id": self.lease_id,
            "version": 1,
            "externalEntityId": self.user,
            "expireAt": _date(self.expires_at),
            "createdAt": _date(self.created_at),
            "updatedAt": _date(time.time()),
            "dynamicSecretId": "3c90c3cc-0d44-4b50-8888-8dd25736052a",
            **more,
        }


class InfisicalStub:
    """One project with one dynamic secret, ``app-db``.

    Attributes:
        client_secret: what the machine identity logs in with.
        asked: the operations that were asked for, in order.
        leases: those that there are, by id.
        default_ttl, max_ttl: seconds; no maximum if it is ``None``.
        answers: what to answer to the next requests of an operation: status and body, or ``lost``
            to do it and hang up, or ``late`` to answer once `gate` is set.
        allowed: whether the identity may lease.
    """

    def __init__(self, postgres: PostgresServer, certificate: Issued) -> None:
        self.client_secret = Secret(secrets.token_urlsafe(24))
        self.asked: list[str] = []
        self.leases: dict[str, StubLease] = {}
        self.default_ttl = 3600.0
        self.max_ttl: float | None = 86400.0
        self.answers: dict[str, deque[tuple[int, dict[str, object]] | str]] = {}
        self.allowed = True
        self.token_ttl = 7200
        self.prefix = f"inf_{secrets.token_hex(4)}"
        self._tokens: set[str] = set()
        self.gate = threading.Event()
        self._admin: psycopg.Connection[Any] = postgres.admin()
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10.0
            disable_nagle_algorithm = True

            def do_any(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                answer = stub._answer(self.command, self.path, json.loads(raw or b"{}"), token)
                if answer is None:
                    self.close_connection = True
                    return
                status, body = answer
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_DELETE = do_any  # noqa: N815 - names that http.server looks for

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Say nothing: clients that went away are part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for user in self.users():
            self._admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))
        self._admin.close()

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self._server.server_port}"

    @property
    def live_tokens(self) -> int:
        """How many access tokens there are."""
        return len(self._tokens)

    def expire_tokens(self) -> None:
        """Forget all access tokens."""
        self._tokens.clear()

    def users(self) -> list[str]:
        """Return the users in PostgreSQL that it has made."""
        with self._lock:
            self._expire()
            query = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE %s ORDER BY 1"
            rows = self._admin.execute(query, [f"{self.prefix}\\_%"]).fetchall()
        return [str(name) for (name,) in rows]

    def script(self, operation: str, *answers: tuple[int, dict[str, object]] | str) -> None:
        """Give other answers to the next requests: ``login``, ``create``, ``renew``, ``revoke``."""
        self.answers.setdefault(operation, deque()).extend(answers)

    # --- what it does -----------------------------------------------------------------------

    def _answer(
        self, method: str, path: str, body: dict[str, Any], token: str
    ) -> tuple[int, dict[str, object]] | None:
        parts = path.removeprefix("/api/v1/").split("/")
        lease_id = ""
        match method, *parts:
            case "POST", "auth", "universal-auth", "login":
                operation = "login"
            case "POST", "auth", "token", "revoke":
                operation = "revoke-token"
            case "POST", "dynamic-secrets", "leases":
                operation = "create"
            case "POST", "dynamic-secrets", "leases", lease_id, "renew":
                operation = "renew"
            case "DELETE", "dynamic-secrets", "leases", lease_id:
                operation = "revoke"
            case _:
                return _error(404, "NotFound", f"Route {method}:{path} not found")
        self.asked.append(operation)
        scripted = self.answers.get(operation)
        answer = scripted.popleft() if scripted else None
        if isinstance(answer, tuple):
            return answer
        done = self._do(operation, lease_id, body, token)
        if answer == "late":
            self.gate.wait(30)
        return None if answer == "lost" else done

    def _do(
        self, operation: str, lease_id: str, body: dict[str, Any], token: str
    ) -> tuple[int, dict[str, object]]:
        if operation == "login":
            good = (CLIENT_ID, self.client_secret.reveal())
            if (body.get("clientId"), body.get("clientSecret")) != good:
                return _error(401, "UnauthorizedError", "Invalid credentials")
            made = secrets.token_urlsafe(24)
            self._tokens.add(made)
            expires = {"expiresIn": self.token_ttl, "accessTokenMaxTTL": 2592000}
            return 200, {"accessToken": made, "tokenType": "Bearer", **expires}
        if operation == "revoke-token":
            self._tokens.discard(body["accessToken"])
            return 200, {"message": "Successfully revoked access token"}
        if token not in self._tokens:
            message = "Your token has expired. Please re-authenticate."
            return _error(403, "TokenError", message)
        for key, known in zip(_NOT_FOUND, _PLACE, strict=True):
            if body[key] != known:
                return _error(404, "NotFound", _NOT_FOUND[key].format(body[key]))
        if not self.allowed:
            message = "You are not allowed to lease on dynamic-secrets"
            return _error(403, "PermissionDenied", message)
        if "ttl" in body and (seconds := seconds_of(body["ttl"])) < 60:
            issue = {"path": ["ttl"], "message": "TTL must be a greater than 1min"}
            return _error(422, "ValidationFailure", [issue])
        with self._lock:
            self._expire()
            if operation == "create":
                if body["dynamicSecretName"] != "app-db":
                    name = body["dynamicSecretName"]
                    message = f"Dynamic secret with name '{name}' in folder with path '/' not found"
                    return _error(404, "NotFound", message)
                return self._create(seconds if "ttl" in body else self.default_ttl)
            if lease_id not in self.leases:
                message = f"Dynamic secret lease with ID '{lease_id}' not found"
                return _error(404, "NotFound", message)
            lease = self.leases[lease_id]
            return self._renew(lease, seconds) if operation == "renew" else self._revoke(lease)

    def _expire(self) -> None:
        """Revoke the leases that have expired, as a job of the server's does."""
        for lease in list(self.leases.values()):
            if lease.expires_at < time.time():
                self._revoke(lease)

    def _create(self, ttl: float) -> tuple[int, dict[str, object]]:
        if self.max_ttl is not None and ttl > self.max_ttl:
            return _error(400, "BadRequest", "TTL cannot be larger than max TTL")
        now = time.time()
        user = f"{self.prefix}_{secrets.token_hex(6)}"
        password = secrets.token_urlsafe(36)
        lease = StubLease(secrets.token_hex(16), user, now, now + ttl)
        self._valid_until(lease, f"CREATE ROLE {{}} LOGIN PASSWORD '{password}' VALID UNTIL {{}}")
        self.leases[lease.lease_id] = lease
        secret = {
            "name": "app-db",
            "type": "sql-database",
            "defaultTTL": f"{int(self.default_ttl * 1000)}ms",
            "maxTTL": None if self.max_ttl is None else f"{int(self.max_ttl * 1000)}ms",
        }
        data = {"DB_USERNAME": user, "DB_PASSWORD": password}
        return 200, {"lease": lease.shown(), "dynamicSecret": secret, "data": data}

    def _renew(self, lease: StubLease, ttl: float) -> tuple[int, dict[str, object]]:
        ends_at = lease.expires_at + ttl
        if self.max_ttl is not None and ends_at > lease.created_at + self.max_ttl:
            message = "The requested renewal would exceed the maximum allowed lease duration. "
            return _error(400, "BadRequest", message + "Please choose a shorter TTL")
        lease.expires_at = ends_at
        self._valid_until(lease, "ALTER ROLE {} VALID UNTIL {}")
        return 200, {"lease": lease.shown()}

    def _revoke(self, lease: StubLease) -> tuple[int, dict[str, object]]:
        try:
            self._admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(lease.user)))
        except psycopg.Error as error:
            failed = {"status": "Failed to delete", "statusDetails": str(error).splitlines()[0]}
            return 200, {"lease": lease.shown(**failed)}
        del self.leases[lease.lease_id]
        return 200, {"lease": lease.shown()}

    def _valid_until(self, lease: StubLease, statement: str) -> None:
        names = sql.Identifier(lease.user), sql.Literal(_date(lease.expires_at))
        self._admin.execute(sql.SQL(statement).format(*names))


def _date(at: float) -> str:
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _error(status: int, name: str, message: object) -> tuple[int, dict[str, object]]:
    return status, {"reqId": "req-1", "statusCode": status, "message": message, "error": name}
