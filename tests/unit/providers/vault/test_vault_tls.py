"""Certificates: good ones, and what is said of each kind of bad one."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from raw_server import RawServer
from test_vault_answers import asked_of

from certificates import Authority
from ephemeral_creds.exceptions import AccessDenied, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

REFUSAL = b'HTTP/1.1 403 Forbidden\r\nContent-Length: 26\r\n\r\n{"errors":["it is Vault"]}'


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def asked(
    ca: Authority,
    *,
    ip: str = "127.0.0.1",
    from_now: int = 0,
    trusted: Authority | None = None,
) -> tuple[Exception, str, int]:
    """Return the error of a login, the outcome of its event, and how often Vault was asked."""
    issued = ca.issue("vault.internal", server=True, ip=ip, from_now=from_now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    with RawServer([REFUSAL], tls=context) as server:
        address = f"https://127.0.0.1:{server.port}"
        error, event = asked_of(address, verify=str((trusted or ca).path))
        return error, event.outcome, server.asked


def test_a_certificate_of_the_given_ca_is_trusted(ca: Authority) -> None:
    error, outcome, times = asked(ca)
    assert isinstance(error, AccessDenied)
    assert "it is Vault" in str(error)
    assert (outcome, times) == ("refused", 1)


@pytest.mark.parametrize(
    ("ip", "from_now", "remedy"),
    [
        ("127.0.0.2", 0, "use a host name that the certificate has"),
        ("127.0.0.1", -5, "renew Vault's certificate, or check this machine's clock"),
        ("127.0.0.1", 5, "check this machine's clock: to it, the certificate is from the future"),
    ],
    ids=["other name", "expired", "not yet valid"],
)
def test_what_is_wrong_with_a_certificate_is_told(
    ca: Authority, ip: str, from_now: int, remedy: str
) -> None:
    error, outcome, times = asked(ca, ip=ip, from_now=from_now)
    assert isinstance(error, ConfigurationError)
    assert remedy in str(error)
    assert (outcome, times) == ("failed", 0)


def test_a_certificate_of_an_unknown_ca_names_the_setting(ca: Authority, tmp_path: Path) -> None:
    error, outcome, times = asked(ca, trusted=Authority(tmp_path, "another CA"))
    assert isinstance(error, ConfigurationError)
    assert "VAULT_CACERT" in str(error)
    assert (outcome, times) == ("failed", 0)
