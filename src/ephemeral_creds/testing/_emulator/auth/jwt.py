"""Logins by JSON Web Token, whose issuer's public keys are configured."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import Refusal
from ephemeral_creds.testing._emulator.auth.base import AuthMount, no_cryptography

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from ephemeral_creds.testing._emulator._wire import Answer, Request

__all__ = ["JWTMount"]

_CLOCK_SKEW = 60.0  # seconds that a token's times may be off
_LEEWAY = 150.0  # seconds around the time that a token names, where it names only one


class JWTMount(AuthMount):
    """Logins by a token signed with RS256; of Vault's ways to name the keys, one is known."""

    mount_type = "jwt"
    config_path = "config"

    def configure(self, body: dict[str, Any]) -> None:
        """Take the issuer's public keys, in PEM.

        Raises:
            Refusal: there are none, or they cannot be read; 501 where ``cryptography`` is missing.
        """
        keys = body.get("jwt_validation_pubkeys")
        if not keys:
            raise Refusal(
                400,
                "exactly one of 'jwt_validation_pubkeys', 'jwks_url', 'jwks_pairs' or "
                "'oidc_discovery_url' must be set",
            )
        for key in keys:
            _public_key(key)
        super().configure(body)

    def write_role(self, name: str, body: dict[str, Any]) -> None:
        """Create or change a role."""
        if not any(body.get(f"bound_{what}") for what in ("audiences", "subject", "claims")):
            raise Refusal(
                400, "must have at least one bound constraint when creating/updating a role"
            )
        if not body.get("user_claim"):
            raise Refusal(400, "a user claim must be defined on the role")
        super().write_role(name, body)

    def login(self, request: Request) -> Answer:
        """Answer a login."""
        if request.operation != "update":
            raise Refusal(405, "unsupported operation")
        if not self.config:
            raise Refusal(400, "could not load configuration")
        if not request.text("role"):
            raise Refusal(400, "missing role")
        role = self._roles.get(request.text("role"))
        if role is None:
            raise Refusal(400, f'role "{request.text("role")}" could not be found')
        if not request.text("jwt"):
            raise Refusal(400, "missing token")
        claims = self._verified(request.text("jwt"))
        self._check_times(claims)
        _check_bounds(role.body, claims)
        user_claim = role.body["user_claim"]
        if user_claim not in claims:
            raise Refusal(400, f'claim "{user_claim}" not found in token')
        return self._grant(role, str(claims[user_claim]), {"role": role.name})

    def _verified(self, jwt: str) -> dict[str, Any]:
        parts = jwt.split(".")
        if len(parts) != 3:
            raise _unverified("go-jose/go-jose: compact JWS format must have three parts")
        try:
            head, claims = (json.loads(_decoded(part)) for part in parts[:2])
            signature = _decoded(parts[2])
        except ValueError:
            raise _unverified("illegal base64 data at input byte 0") from None
        signed = ".".join(parts[:2]).encode()
        keys = map(_public_key, self.config["jwt_validation_pubkeys"])
        if head.get("alg") != "RS256" or not any(_signed(key, signature, signed) for key in keys):
            raise _unverified("no known key successfully validated the token signature")
        return dict(claims)

    def _check_times(self, claims: dict[str, Any]) -> None:
        issued, begin, end = (float(claims.get(name, 0)) for name in ("iat", "nbf", "exp"))
        if not (issued or begin or end):
            raise _invalid(
                "no issued at (iat), not before (nbf), or expiration time (exp) claims in token"
            )
        begin = begin or issued or end - _LEEWAY
        end = end or max(issued, begin) + _LEEWAY
        now = self._now()
        if now > end + _CLOCK_SKEW:
            raise _invalid("invalid expiration time (exp) claim: token is expired")
        if now < begin - _CLOCK_SKEW:
            raise _invalid("invalid not before (nbf) claim: token not yet valid")


def _check_bounds(role: dict[str, Any], claims: dict[str, Any]) -> None:
    subject = role.get("bound_subject")
    if subject and claims.get("sub") != subject:
        raise _invalid("invalid subject (sub) claim")
    audiences = role.get("bound_audiences")
    if audiences and not set(audiences) & set(_listed(claims.get("aud"))):
        raise _invalid(
            "invalid audience (aud) claim: audience claim does not match any expected audience"
        )
    if not audiences and claims.get("aud"):
        raise Refusal(400, "audience claim found in JWT but no audiences bound to the role")
    for name, wanted in (role.get("bound_claims") or {}).items():
        if name not in claims:
            raise Refusal(400, f'error validating claims: claim "{name}" is missing')
        if not any(value in _listed(wanted) for value in _listed(claims[name])):
            raise Refusal(
                400,
                f'error validating claims: claim "{name}" does not match any associated bound '
                "claim values",
            )


def _invalid(why: str) -> Refusal:
    return Refusal(400, f"error validating token: {why}")


def _unverified(why: str) -> Refusal:
    return _invalid(f"error verifying token signature: {why}")


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _decoded(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _public_key(pem: str) -> RSAPublicKey:
    # Not above: the emulator is of use without it, too.
    try:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise no_cryptography("checks the signatures of JSON Web Tokens") from None
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError:
        key = None
    if not isinstance(key, RSAPublicKey):
        raise Refusal(400, "error parsing public key: data does not contain any valid public keys")
    return key


def _signed(key: RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(signature, signed, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True
