"""Certificates: good ones, and what is said of each kind of bad one."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from raw_server import RawServer
from test_vault_raw_replies import asked_of

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
    verify: str | bool | None = None,
    **changed: object,
) -> tuple[Exception, str, int]:
    """Return the error of a login, the outcome of its event, and how often Vault was asked."""
    issued = ca.issue("vault.internal", server=True, ip=ip, from_now=from_now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    with RawServer([REFUSAL], tls=context) as server:
        address = f"https://127.0.0.1:{server.port}"
        trusted = str(ca.path) if verify is None else verify
        error, event = asked_of(address, verify=trusted, **changed)
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
        ("127.0.0.1", 5, "check this machine's clock: the certificate is not valid yet"),
    ],
    ids=["other name", "expired", "not yet valid"],
)
def test_the_fault_of_a_certificate_is_named(
    ca: Authority, ip: str, from_now: int, remedy: str
) -> None:
    error, outcome, times = asked(ca, ip=ip, from_now=from_now)
    assert isinstance(error, ConfigurationError)
    assert remedy in str(error)
    assert (outcome, times) == ("failed", 0)


def test_a_certificate_of_an_unknown_ca_names_the_setting(ca: Authority, tmp_path: Path) -> None:
    error, outcome, times = asked(ca, verify=str(Authority(tmp_path, "another CA").path))
    assert isinstance(error, ConfigurationError)
    assert "VAULT_CACERT" in str(error)
    assert (outcome, times) == ("failed", 0)


def test_a_directory_of_plain_certificates_is_trusted(ca: Authority, tmp_path: Path) -> None:
    """OpenSSL would look for names made of hashes; the vault command does not."""
    folder = tmp_path / "cas"
    folder.mkdir()
    (folder / "README").write_text("not a certificate: täglich")
    error, outcome, times = asked(ca, verify=str(folder))
    assert "cannot be trusted" in str(error)
    other = Authority(tmp_path, "another CA")
    (folder / "another.crt").write_text(other.pem)
    error, outcome, times = asked(ca, verify=str(folder))
    assert "cannot be trusted" in str(error)
    (folder / "ours.pem").write_text(f"Our CA\n{ca.pem}{other.pem}")
    error, outcome, times = asked(ca, verify=str(folder))
    assert "it is Vault" in str(error)
    assert (outcome, times) == ("refused", 1)


def test_only_certificates_given_by_value_are_trusted(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is written; and what requests would trust besides is not."""
    other = Authority(tmp_path, "another CA")
    error, outcome, times = asked(ca, verify=f"Our CA\n{other.pem}{ca.pem}")
    assert "it is Vault" in str(error)
    assert (outcome, times) == ("refused", 1)
    for bundle in (str(ca.path), str(ca.path.parent)):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        error, outcome, times = asked(ca, verify=other.pem)
        assert "cannot be trusted" in str(error)
    error, outcome, times = asked(
        ca, verify=ca.pem, ip="127.0.0.2", tls_server_name="vault.internal"
    )
    assert "it is Vault" in str(error)


@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nxx\n"])
def test_an_invalid_ca_file_is_not_treated_as_an_outage(
    ca: Authority, tmp_path: Path, text: str
) -> None:
    bundle = tmp_path / "empty.pem"
    bundle.write_text(text)
    error, outcome, times = asked(ca, verify=str(bundle))
    assert isinstance(error, ConfigurationError)
    assert "a certificate file cannot be loaded" in str(error)
    assert "VAULT_CACERT" in str(error)
    assert (outcome, times) == ("failed", 0)


@pytest.mark.parametrize("fault", ["empty", "key of another"])
def test_an_invalid_client_certificate_is_not_treated_as_an_outage(
    ca: Authority, tmp_path: Path, fault: str
) -> None:
    mine, other = ca.issue("mine"), ca.issue("other")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    pair = (empty, mine.key) if fault == "empty" else (mine.cert, other.key)
    error, outcome, times = asked(ca, client_cert=tuple(map(str, pair)))
    assert isinstance(error, ConfigurationError)
    assert "VAULT_CLIENT_CERT" in str(error)
    assert (outcome, times) == ("failed", 0)


def test_without_the_check_there_is_no_warning_for_each_request(
    ca: Authority, recwarn: pytest.WarningsRecorder
) -> None:
    error, _, times = asked(ca, verify=False)
    assert "it is Vault" in str(error)
    assert times == 1
    assert recwarn.list == []
