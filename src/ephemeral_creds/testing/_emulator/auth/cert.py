"""Logins by the client certificate of a TLS connection."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import Refusal
from ephemeral_creds.testing._emulator.auth.base import AuthMount, no_cryptography

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from ephemeral_creds.testing._emulator._tokens import Token
    from ephemeral_creds.testing._emulator._wire import Answer, Request
    from ephemeral_creds.testing._emulator.auth.base import AuthRole

__all__ = ["CertMount"]

_NO_MATCH = "failed to match all constraints for this login certificate"
_UNVERIFIED = "failed to verify client's certificate: x509: certificate"
_LONGEST_CHAIN = 10


class CertMount(AuthMount):
    """Logins by a certificate that a role names, or whose CA it names.

    Revocation lists, OCSP and the extensions that a role may demand are not known.
    """

    mount_type = "cert"
    config_path = "config"
    roles_path = "certs"

    def write_role(self, name: str, body: dict[str, Any]) -> None:
        """Create or change a role.

        Raises:
            Refusal: it has no certificate that can be read, or one that is for no client; 501
                where ``cryptography`` is missing.
        """
        known = self._roles.get(name)
        pem = str(body.get("certificate", known.body["certificate"] if known else ""))
        for certificate in _parsed(pem):
            if not (_is_authority(certificate) or _named_for_clients(certificate)):
                raise Refusal(
                    400,
                    "nonCA certificates should have TLS client authentication set as an extended "
                    "key usage",
                )
        super().write_role(name, body)

    def login(self, request: Request) -> Answer:
        """Answer a login."""
        if request.operation != "update":
            raise Refusal(405, "unsupported operation")
        role, certificate = self._match(request, request.text("name"))
        common_name = _common_name(certificate)
        metadata = {
            **dict(zip(("subject_key_id", "authority_key_id"), _key_ids(certificate), strict=True)),
            "cert_name": role.name,
            "common_name": common_name,
            "serial_number": str(certificate.serial_number),
        }
        shown = str(role.body.get("display_name") or role.name)
        return self._grant(role, common_name, metadata, display_name=shown)

    def check_renewal(self, token: Token, request: Request) -> None:
        """See that the connection shows a certificate that the token's role still takes."""
        if not self.config.get("disable_binding"):
            self._match(request, (token.metadata or {})["cert_name"])

    def _match(self, request: Request, name: str) -> tuple[AuthRole, Certificate]:
        """Return the role that takes the connection's certificate: of that name, or any."""
        if request.certificates is None:
            raise Refusal(400, "tls connection required")
        if not request.certificates:
            raise Refusal(400, "client certificate must be supplied")
        own, *others = request.certificates
        self._check_times(own)
        roles = [self._roles[known] for known in sorted(self._roles) if name in ("", known)]
        trusted = [(role, one) for role in roles for one in _parsed(role.body["certificate"])]
        # Vault looks for the certificate itself before it looks at who issued it.
        fits = [role for role, one in trusted if not _is_authority(one) and one == own]
        issued = [
            role for role, one in trusted if _is_authority(one) and _leads_to(one, own, others)
        ]
        if issued and not _may_be_client(own):
            raise Refusal(500, f"{_UNVERIFIED} specifies an incompatible key usage")
        for role in (*fits, *issued):
            if _meets_constraints(own, role.body):
                return role, own
        raise Refusal(400, _NO_MATCH)

    def _check_times(self, certificate: Certificate) -> None:
        now = datetime.fromtimestamp(self._now(), UTC)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if begin <= now <= end:
            return
        where, limit = ("before", begin) if now < begin else ("after", end)
        raise Refusal(
            500,
            f"{_UNVERIFIED} has expired or is not yet valid: current time {now:%Y-%m-%dT%H:%M:%SZ} "
            f"is {where} {limit:%Y-%m-%dT%H:%M:%SZ}",
        )


def _parsed(pem: str) -> list[Certificate]:
    # Not above: the emulator is of use without it, too.
    try:
        from cryptography.x509 import load_pem_x509_certificates
    except ImportError:
        raise no_cryptography("reads certificates") from None
    try:
        return load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise Refusal(400, "failed to parse certificate") from None


def _is_authority(certificate: Certificate) -> bool:
    from cryptography.x509 import BasicConstraints, ExtensionNotFound

    try:
        return certificate.extensions.get_extension_for_class(BasicConstraints).value.ca
    except ExtensionNotFound:
        return False


def _usages(certificate: Certificate) -> set[str] | None:
    """Return what a certificate says that it is for; ``None`` where it does not say."""
    from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound

    try:
        usage = certificate.extensions.get_extension_for_class(ExtendedKeyUsage).value
    except ExtensionNotFound:
        return None
    return {each.dotted_string for each in usage}


def _named_for_clients(certificate: Certificate) -> bool:
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string in (_usages(certificate) or ())


def _may_be_client(certificate: Certificate) -> bool:
    return _usages(certificate) is None or _named_for_clients(certificate)


def _leads_to(authority: Certificate, own: Certificate, others: Sequence[Certificate]) -> bool:
    """Say whether `authority` issued a certificate, perhaps by way of some of `others`."""
    current = own
    for _ in range(_LONGEST_CHAIN):
        if _issued(authority, current):
            return True
        between = (one for one in others if _is_authority(one) and _issued(one, current))
        if (found := next(between, None)) is None:
            return False
        current = found
    return False


def _issued(issuer: Certificate, certificate: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _common_name(certificate: Certificate) -> str:
    return next(iter(_subject(certificate, "COMMON_NAME")), "")


def _subject(certificate: Certificate, name: str) -> list[str]:
    from cryptography.x509.oid import NameOID

    return [
        str(a.value) for a in certificate.subject.get_attributes_for_oid(getattr(NameOID, name))
    ]


def _key_ids(certificate: Certificate) -> tuple[str, str]:
    """Return the ids of a certificate's key and of its issuer's; empty where there is none."""
    from cryptography.x509 import AuthorityKeyIdentifier, ExtensionNotFound, SubjectKeyIdentifier

    found: list[bytes | None] = [None, None]
    try:
        own = certificate.extensions.get_extension_for_class(SubjectKeyIdentifier)
        found[0] = own.value.digest
        issuer = certificate.extensions.get_extension_for_class(AuthorityKeyIdentifier)
        found[1] = issuer.value.key_identifier
    except ExtensionNotFound:
        pass
    subject, authority = ((digest or b"").hex(":") for digest in found)
    return subject, authority


def _meets_constraints(certificate: Certificate, role: dict[str, Any]) -> bool:
    from cryptography.x509 import (
        DNSName,
        ExtensionNotFound,
        RFC822Name,
        SubjectAlternativeName,
        UniformResourceIdentifier,
    )

    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        names = SubjectAlternativeName([])
    common = _subject(certificate, "COMMON_NAME")
    dns, mail = names.get_values_for_type(DNSName), names.get_values_for_type(RFC822Name)
    found = {
        "allowed_names": [*common, *dns, *mail],
        "allowed_common_names": common,
        "allowed_dns_sans": dns,
        "allowed_email_sans": mail,
        "allowed_uri_sans": names.get_values_for_type(UniformResourceIdentifier),
        "allowed_organizational_units": _subject(certificate, "ORGANIZATIONAL_UNIT_NAME"),
    }
    return all(_allowed(role.get(field), values) for field, values in found.items())


def _allowed(patterns: str | list[str] | None, values: list[str]) -> bool:
    wanted = patterns.split(",") if isinstance(patterns, str) else patterns
    return not wanted or any(fnmatchcase(value, one) for value in values for one in wanted)
