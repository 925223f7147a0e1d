"""A TLS server in front of a PostgreSQL that takes tokens for passwords, as the clouds' servers do.

It speaks the startup of PostgreSQL's protocol, asks for a password in clear, has the token verified
by a function, logs in with the role's real password by SCRAM, and passes on the rest. A login that
is refused gets the error that Amazon RDS sends.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import hmac
import secrets
import ssl
import struct
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, quote

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from certificates import Issued
    from ephemeral_creds.testing import PostgresAccess

_SSL_REQUEST, _GSS_REQUEST, _CANCEL = 80877103, 80877104, 80877102
_PATIENCE = 20.0


class TokenServer:
    """Listens on 127.0.0.1 until the end of the block.

    Args:
        postgres: what it logs in to.
        certificate: what it shows.
        verify: called with user and token; returns why it is refused, or nothing.

    Attributes:
        accepted: the users of accepted logins, one after the other.
        refused: why others were refused.
        refuse: how many of the next logins to refuse, whatever their token.
    """

    def __init__(
        self,
        postgres: PostgresAccess,
        certificate: Issued,
        verify: Callable[[str, str], str],
    ) -> None:
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.refuse = 0
        self._postgres, self._verify = postgres, verify
        self._passwords: dict[str, str] = {}
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate.cert, certificate.key)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def create_role(self, name: str) -> None:
        """Create a role that logs in by tokens; its real password is known here only."""
        self._passwords[name] = word = secrets.token_urlsafe(16)
        with self._postgres.admin() as conn:
            conn.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), word)
            )

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """Have such a role in the block, whose name other tests may use."""
        self.create_role(name)
        try:
            yield
        finally:
            with self._postgres.admin() as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE usename = %s",
                    [name],
                )
                conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))

    def create_role_like(self, other: TokenServer, name: str) -> None:
        """Let in a role of another server in front of the same PostgreSQL."""
        self._passwords[name] = other._passwords[name]

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            await self._session(reader, writer)
        with suppress(Exception):
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        encrypted = False
        while True:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code == _GSS_REQUEST:
                writer.write(b"N")
            elif code == _SSL_REQUEST:
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(self._tls)
                encrypted = True
            else:
                break
        startup = struct.pack("!i", length) + body
        if code == _CANCEL:
            await self._pass_on(startup, reader, writer)
            return
        fields = body[4:].split(b"\0")
        user = dict(zip(fields[::2], fields[1::2], strict=False))[b"user"].decode()
        if not encrypted:
            said = f'no pg_hba.conf entry for user "{user}", no encryption'
            writer.write(_error(said, "ClientAuthentication"))
            return
        writer.write(b"R" + struct.pack("!ii", 8, 3))
        kind, password = await _message(reader)
        assert kind == b"p"
        if problem := self._problem(user, password.rstrip(b"\0").decode()):
            self.refused.append(problem)
            writer.write(_error(f'PAM authentication failed for user "{user}"', "auth_failed"))
            return
        self.accepted.append(user)
        await self._pass_on(startup, reader, writer, self._passwords[user])

    def _problem(self, user: str, token: str) -> str:
        if self.refuse > 0:
            self.refuse -= 1
            return "refused on request"
        if user not in self._passwords:
            return "no such user"
        return self._verify(user, token)

    async def _pass_on(
        self,
        startup: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        password: str | None = None,
    ) -> None:
        host, port = self._postgres.host, self._postgres.port
        upstream, sink = await asyncio.open_connection(host, port)
        try:
            sink.write(startup)
            if password is not None:
                await _scram(upstream, sink, writer, password)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, sink))
                group.create_task(_copy(upstream, writer))
        except* (ConnectionError, ssl.SSLError):
            pass
        finally:
            sink.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        sink.write(data)
        await sink.drain()
    # The other direction has nothing to say to this one any more.
    sink.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    (length,) = struct.unpack("!i", await reader.readexactly(4))
    return kind, await reader.readexactly(length - 4)


def _error(said: str, routine: str, sqlstate: str = "28000") -> bytes:
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": said, "F": "auth.c", "R": routine}
    body = b"".join(f"{name}{value}\0".encode() for name, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!i", len(body) + 4) + body


async def _scram(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    client: asyncio.StreamWriter,
    password: str,
) -> None:
    """Log in by SCRAM-SHA-256 (RFC 7677) and tell `client` that it is logged in.

    An error of PostgreSQL's, such as that of a missing database, goes to `client` as it is.
    """
    nonce = secrets.token_urlsafe(18)
    first = f"n=,r={nonce}"
    if not await _expect(reader, client, 10):
        return
    initial = b"SCRAM-SHA-256\0" + struct.pack("!i", len(first) + 3) + b"n,," + first.encode()
    writer.write(b"p" + struct.pack("!i", len(initial) + 4) + initial)
    challenge = (await _message(reader))[1][4:].decode()
    said = dict(part.split("=", 1) for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(said["s"]), int(said["i"])
    )
    key = hmac.digest(salted, b"Client Key", "sha256")
    final = f"c=biws,r={said['r']}"
    signed = f"{first},{challenge},{final}".encode()
    signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    last = f"{final},p={base64.b64encode(proof).decode()}".encode()
    writer.write(b"p" + struct.pack("!i", len(last) + 4) + last)
    if await _expect(reader, client, 12) and await _expect(reader, client, 0):
        client.write(b"R" + struct.pack("!ii", 8, 0))


async def _expect(
    reader: asyncio.StreamReader, client: asyncio.StreamWriter, authentication: int
) -> bool:
    kind, body = await _message(reader)
    if kind == b"R" and body[:4] == struct.pack("!i", authentication):
        return True
    client.write(kind + struct.pack("!i", len(body) + 4) + body)
    return False


# -- what AWS verifies -------------------------------------------------------------------------


@dataclass
class AWSKeys:
    """The AWS keys that a server of tokens knows, and what it demands of a signed URL.

    Written from https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html,
    not from botocore.

    Attributes:
        secrets: secret keys and, perhaps, session tokens by the key's id; may change.
        lifetime: seconds that a token works for.
    """

    service: str
    endpoint: str
    region: str
    actions: tuple[str, ...]
    secrets: dict[str, tuple[str, str]] = field(default_factory=dict)
    lifetime: float = 900.0

    def verify(self, user: str, token: str) -> str:
        """Return why a token is refused, or nothing."""
        host, separator, query = token.partition("/?")
        if not separator or host != self.endpoint:
            return f"it is for {host}"
        raw, _, signature = query.rpartition("&X-Amz-Signature=")
        fields = dict(parse_qsl(raw, keep_blank_values=True))
        named = fields.get("DBUser", user)
        if fields.get("Action") not in self.actions or named != user:
            return f"it is to {fields.get('Action')} as {named}"
        key, date, *scope = fields["X-Amz-Credential"].split("/")
        if scope != [self.region, self.service, "aws4_request"]:
            return f"it is for {scope}"
        if key not in self.secrets:
            return "it is signed with an unknown key"
        secret, session = self.secrets[key]
        if fields.get("X-Amz-Security-Token", "") != session:
            return "it has another session token"
        if not 0 < int(fields["X-Amz-Expires"]) <= 900:
            return "it lives too long"
        signed_at = datetime.datetime.strptime(fields["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
        age = (datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - signed_at).total_seconds()
        if not -1.0 <= age <= self.lifetime:
            return f"it is {age:.1f} s old"
        if not hmac.compare_digest(signature, self._signature(fields, secret, date, scope)):
            return "its signature is wrong"
        return ""

    def _signature(self, fields: dict[str, str], secret: str, date: str, scope: list[str]) -> str:
        pairs = sorted((quote(n, safe="-_.~"), quote(v, safe="-_.~")) for n, v in fields.items())
        query = "&".join(f"{name}={value}" for name, value in pairs)
        empty = hashlib.sha256(b"").hexdigest()
        canonical = f"GET\n/\n{query}\nhost:{self.endpoint}\n\nhost\n{empty}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{fields['X-Amz-Date']}\n{'/'.join([date, *scope])}\n{digest}"
        key = f"AWS4{secret}".encode()
        for part in (date, *scope):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()
