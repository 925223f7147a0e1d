"""Who vouches for whom: an issuer of JSON Web Tokens with its keys, and AWS's STS."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ephemeral_creds import Secret
from rest_stub import Answer, RestStub

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


def verified_claims(key: rsa.RSAPrivateKey, token: str) -> dict[str, Any] | None:
    """Return what a token of the issuer with `key` says; ``None`` if that has not signed it."""
    signed, _, signature = token.rpartition(".")
    try:
        key.public_key().verify(
            _decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
    except (InvalidSignature, ValueError):
        return None
    claims: dict[str, Any] = json.loads(_decoded(signed.partition(".")[2]))
    return claims


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class StubSTS(RestStub):
    """Answers GetCallerIdentity the way AWS does, with any signature."""

    def __init__(self, arn: str) -> None:
        text = (
            "<GetCallerIdentityResponse "
            'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            f"<Arn>{arn}</Arn><UserId>AIDAEXAMPLE</UserId><Account>123456789012</Account>"
            "</GetCallerIdentityResult></GetCallerIdentityResponse>"
        )
        super().__init__(lambda _: Answer(200, text, {"Content-Type": "text/xml"}))


class KeySet(RestStub):
    """The public keys of an issuer, as JWKS (RFC 7517); `keys` may change."""

    def __init__(self, *keys: rsa.RSAPrivateKey) -> None:
        self.keys = list(keys)
        super().__init__(lambda _: Answer(200, {"keys": [_jwk(key) for key in self.keys]}))


def _jwk(key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "use": "sig", "alg": "RS256"} | {
        name: _encoded(number.to_bytes((number.bit_length() + 7) // 8, "big"))
        for name, number in (("n", numbers.n), ("e", numbers.e))
    }
