"""Who vouches for whom: an issuer of JSON Web Tokens with its keys, and AWS's STS."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ephemeral_creds import Secret

if TYPE_CHECKING:
    from collections.abc import Sequence


def issuer_key() -> rsa.RSAPrivateKey:
    """Return what an issuer signs with."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_pem(key: rsa.RSAPrivateKey) -> str:
    """Return the public half of `key`."""
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public.decode()


def jwt(
    key: rsa.RSAPrivateKey, *, alg: str = "RS256", without: Sequence[str] = (), **claims: object
) -> Secret:
    """Return a token as a CI system would sign it."""
    now = int(time.time())
    body = {"aud": "vault", "sub": "job-1", "project": "app", "iat": now, "exp": now + 300}
    body = {name: value for name, value in (body | claims).items() if name not in without}
    parts = [_encoded(json.dumps(part).encode()) for part in ({"alg": alg}, body)]
    signature = key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
    return Secret(".".join([*parts, _encoded(signature)]))


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class _Stub:
    """Answers every request alike."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.asked.append(dict(self.headers))
                body = stub.body().encode()
                self.send_response(200)
                self.send_header("Content-Type", stub.kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - a name that http.server looks for

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def body(self) -> str:
        """Return what to answer."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class StubSTS(_Stub):
    """Answers GetCallerIdentity the way AWS does, with any signature."""

    kind = "text/xml"

    def __init__(self, arn: str) -> None:
        self._arn = arn
        super().__init__()

    def body(self) -> str:
        return (
            "<GetCallerIdentityResponse "
            'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            f"<Arn>{self._arn}</Arn><UserId>AIDAEXAMPLE</UserId><Account>123456789012</Account>"
            "</GetCallerIdentityResult></GetCallerIdentityResponse>"
        )


class KeySet(_Stub):
    """The public keys of an issuer, as JWKS (RFC 7517); `keys` may change."""

    kind = "application/json"

    def __init__(self, *keys: rsa.RSAPrivateKey) -> None:
        self.keys = list(keys)
        super().__init__()

    def body(self) -> str:
        return json.dumps({"keys": [_jwk(key) for key in self.keys]})


def _jwk(key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "use": "sig", "alg": "RS256"} | {
        name: _encoded(number.to_bytes((number.bit_length() + 7) // 8, "big"))
        for name, number in (("n", numbers.n), ("e", numbers.e))
    }
