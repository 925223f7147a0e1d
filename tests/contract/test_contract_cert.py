"""Logins by the client certificate of a TLS connection."""

from __future__ import annotations

import http.client
import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from contract_shapes import AUTH, UNSUPPORTED, envelope, refusal, shape

from certificates import Authority
from differences import needs, said
from ephemeral_creds import ConfigurationError, Secret
from ephemeral_creds.testing import VaultAdmin, VaultServer, vault_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from certificates import Issued
    from ephemeral_creds.testing import DatabaseEngine, VaultResponse

    Unique = Callable[[str], str]

NO_TOKEN = Secret("")
NO_MATCH = (400, [said("no such certificate")])
NO_CERTIFICATE = (400, [said("no certificate")])
NO_TLS = (400, [said("no TLS")])
METADATA = {
    "authority_key_id": "str",
    "cert_name": "str",
    "common_name": "str",
    "serial_number": "str",
    "subject_key_id": "str",
}


@pytest.fixture(scope="module")
def client(authority: Authority) -> Issued:
    return authority.issue("contract-client")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return Authority(tmp_path_factory.mktemp("other"), "other CA").issue("contract-stranger")


class TLSAdmin(VaultAdmin):
    """Sends requests by TLS, showing a certificate or none."""

    def __init__(self, vault: VaultServer, authority: Authority) -> None:
        super().__init__(vault)
        self._tls_address = vault.tls_address
        self._authority = authority

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        *,
        showing: Issued | None = None,
        token: Secret = NO_TOKEN,
    ) -> VaultResponse:
        context = ssl.create_default_context(cafile=self._authority.path)
        if showing is not None:
            context.load_cert_chain(showing.cert, showing.key)
        return vault_request(self._tls_address, method, path, body, token=token, tls=context)


class Mount:
    """One mounted cert auth method."""

    def __init__(self, admin: TLSAdmin, path: str) -> None:
        self.admin = admin
        self.path = f"auth/{path}"

    def write(self, role: str, certificate: str, **body: object) -> VaultResponse:
        body["certificate"] = certificate
        return self.admin.request("POST", f"{self.path}/certs/{role}", body)

    def login(self, showing: Issued | None, role: str | None = None) -> VaultResponse:
        body: dict[str, object] = {} if role is None else {"name": role}
        return self.admin.ask("POST", f"{self.path}/login", body, showing=showing)


@pytest.fixture
def mount(vault: VaultServer, authority: Authority, unique: Unique) -> Mount:
    admin = TLSAdmin(vault, authority)
    admin.enable_auth("cert", path := unique("certs"))
    return Mount(admin, path)


def test_a_certificate_of_a_trusted_ca(
    engine: DatabaseEngine, mount: Mount, authority: Authority, client: Issued, unique: Unique
) -> None:
    engine.create_role(database_role := unique("cert"))
    policy = engine.policy(database_role)
    body = {"token_policies": [policy], "token_ttl": 30, "token_max_ttl": 60}
    assert mount.write("web", authority.pem, **body).status == 204
    for role in (None, "web"):
        answer = mount.login(client, role)
        assert answer.status == 200
        assert shape(answer.body) == envelope(auth=AUTH | {"metadata": METADATA})
        auth = answer.body["auth"]
        assert (auth["metadata"]["cert_name"], auth["metadata"]["common_name"]) == (
            "web", "contract-client",
        )  # fmt: skip
        assert re.fullmatch(r"\d+", auth["metadata"]["serial_number"])
        for key in ("subject_key_id", "authority_key_id"):
            assert re.fullmatch(r"([0-9a-f]{2}:){19}[0-9a-f]{2}", auth["metadata"][key])
        assert auth["policies"] == sorted(["default", policy])
        assert (auth["lease_duration"], auth["renewable"], auth["orphan"]) == (30, True, True)
    token = Secret(auth["client_token"])
    found = mount.admin.request("GET", "auth/token/lookup-self", token=token).data
    name = mount.path.removeprefix("auth/")
    assert (found["display_name"], found["path"]) == (f"{name}-web", f"{mount.path}/login")
    assert found["meta"] == auth["metadata"]
    minted = engine.read(database_role, token=token)
    assert minted.data["username"].startswith(f"v-{name}-web"[:10])


def test_the_role_in_writing(mount: Mount, authority: Authority) -> None:
    mount.write("web", authority.pem, token_policies=["use-app"], token_ttl=30)
    ask, path = mount.admin.request, f"{mount.path}/certs/web"
    found = ask("GET", path).data
    assert (found["certificate"].strip(), found["token_policies"], found["token_ttl"]) == (
        authority.pem.strip(), ["use-app"], 30,
    )  # fmt: skip
    # What is not said stays as it was.
    assert ask("POST", path, {"token_ttl": 60}).status == 204
    changed = ask("GET", path).data
    assert (changed["certificate"], changed["token_ttl"]) == (found["certificate"], 60)
    assert ask("DELETE", path).status == 204
    assert refusal(ask("GET", path)) == (404, [])


def test_refusals(
    mount: Mount, authority: Authority, client: Issued, stranger: Issued, unique: Unique
) -> None:
    assert refusal(mount.login(client)) == NO_MATCH
    server = authority.issue(unique("a-server"), server=True)
    junk = (400, ["failed to parse certificate"])
    usage = "nonCA certificates should have TLS client authentication set as an extended key usage"
    assert [
        refusal(mount.write("bad", "")),
        refusal(mount.write("bad", "nonsense")),
        refusal(mount.write("bad", server.cert.read_text())),
    ] == [junk, junk, (400, [usage])]
    mount.write("web", authority.pem)
    login = f"{mount.path}/login"
    assert [
        refusal(mount.login(client, "other")),
        refusal(mount.login(stranger)),
        refusal(mount.login(stranger, "web")),
        refusal(mount.login(stranger, "other")),
        refusal(mount.login(None)),
        refusal(mount.login(None, "web")),
        refusal(mount.admin.request("POST", login, {}, token=NO_TOKEN)),
        refusal(mount.admin.request("GET", login, token=NO_TOKEN)),
        refusal(mount.admin.ask("GET", login, showing=client)),
        refusal(mount.admin.request("DELETE", f"{mount.path}/nowhere")),
    ] == [
        NO_MATCH,
        NO_MATCH,
        NO_MATCH,
        NO_MATCH,
        NO_CERTIFICATE,
        NO_CERTIFICATE,
        NO_TLS,
        (405, ["unsupported operation"]),
        (405, ["unsupported operation"]),
        (404, [UNSUPPORTED.replace("operation", "path")]),
    ]


def test_certificates_of_no_use(
    mount: Mount, authority: Authority, tmp_path: Path, unique: Unique
) -> None:
    mount.write("web", authority.pem)
    elsewhere = Authority(tmp_path, "other CA")
    unverified = "failed to verify client's certificate: x509: certificate"

    def refused(certificate: Issued) -> tuple[int, list[str]]:
        status, errors = refusal(mount.login(certificate))
        return status, [re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", e) for e in errors]

    when = f"{unverified} has expired or is not yet valid: current time TIME is"
    assert [
        refused(authority.issue(unique("expired"), from_now=-5)),
        refused(authority.issue(unique("future"), from_now=5)),
        refused(elsewhere.issue(unique("expired"), from_now=-5)),
        refused(authority.issue(unique("server"), server=True)),
        refused(elsewhere.issue(unique("server"), server=True)),
    ] == [
        (500, [f"{when} after TIME"]),
        (500, [f"{when} before TIME"]),
        (500, [f"{when} after TIME"]),
        (500, [f"{unverified} specifies an incompatible key usage"]),
        NO_MATCH,
    ]


def test_one_certificate_only(
    mount: Mount, authority: Authority, client: Issued, stranger: Issued, unique: Unique
) -> None:
    mount.write("any", authority.pem)
    mount.write("this", client.cert.read_text(), display_name="shown")
    mount.write("that", stranger.cert.read_text())
    other = authority.issue(unique("other"))

    def role(showing: Issued, name: str | None = None) -> str | None:
        auth = mount.login(showing, name).body.get("auth")
        return auth and str(auth["metadata"]["cert_name"])

    # The certificate itself counts before its issuer does.
    assert [
        role(client), role(client, "this"), role(client, "any"), role(client, "that"), role(other),
        role(other, "this"), role(stranger), role(stranger, "any"),
    ] == ["this", "this", "any", None, "any", None, "that", None]  # fmt: skip
    token = Secret(mount.login(client).body["auth"]["client_token"])
    found = mount.admin.request("GET", "auth/token/lookup-self", token=token).data
    assert found["display_name"] == f"{mount.path.removeprefix('auth/')}-shown"


def test_two_cas_in_one_role(
    mount: Mount, authority: Authority, client: Issued, tmp_path: Path
) -> None:
    second = Authority(tmp_path, "second CA")
    mount.write("web", second.pem + authority.pem)
    for showing in (client, second.issue("contract-second")):
        assert mount.login(showing).status == 200


@pytest.mark.parametrize(
    ("constraints", "met"),
    [
        ({"allowed_common_names": ["contract-client"]}, True),
        ({"allowed_common_names": "other,contract-*"}, True),
        ({"allowed_common_names": ["contract"]}, False),
        ({"allowed_dns_sans": ["*-client"]}, True),
        ({"allowed_dns_sans": ["other"]}, False),
        ({"allowed_names": ["contract-client"]}, True),
        ({"allowed_names": ["other"]}, False),
        ({"allowed_common_names": ["contract-client"], "allowed_dns_sans": ["other"]}, False),
        ({"allowed_email_sans": ["*"]}, False),
        ({"allowed_uri_sans": ["spiffe://*"]}, False),
        ({"allowed_organizational_units": ["web"]}, False),
    ],
)
def test_constraints(
    mount: Mount, authority: Authority, client: Issued, constraints: dict[str, object], met: bool
) -> None:
    mount.write("web", authority.pem, **constraints)
    answer = mount.login(client)
    refused = (400, [said("certificate with other names")])
    assert answer.status == 200 if met else refusal(answer) == refused


@needs("another certificate")
def test_a_token_is_renewed_by_a_client_that_could_log_in(
    mount: Mount, authority: Authority, client: Issued, stranger: Issued, unique: Unique
) -> None:
    mount.write("web", authority.pem, token_ttl=600)
    token = Secret(mount.login(client).body["auth"]["client_token"])

    def renewed(showing: Issued | None) -> int | tuple[int, list[str]]:
        answer = mount.admin.ask("PUT", "auth/token/renew-self", {}, showing=showing, token=token)
        return 200 if answer.status == 200 else refusal(answer)

    assert [
        renewed(client), renewed(authority.issue(unique("renewer"))), renewed(stranger),
        renewed(None), refusal(mount.admin.request("PUT", "auth/token/renew-self", token=token)),
    ] == [
        200, 200, NO_MATCH, NO_CERTIFICATE,
        NO_TLS,
    ]  # fmt: skip
    mount.write("other", authority.pem)
    mount.admin.call("DELETE", f"{mount.path}/certs/web")
    assert renewed(client) == NO_MATCH
    assert mount.admin.request("GET", "auth/token/lookup-self", token=token).status == 200
    mount.admin.call("POST", f"{mount.path}/config", {"disable_binding": True})
    mount.write("web", authority.pem, token_ttl=600)
    assert [renewed(authority.issue(unique("renewer"))), renewed(None)] == [200, 200]


@needs("another certificate", there=False)
def test_a_token_is_renewed_by_the_client_that_logged_in(
    mount: Mount, authority: Authority, client: Issued, unique: Unique
) -> None:
    mount.write("web", authority.pem, token_ttl=600)
    token = Secret(mount.login(client).body["auth"]["client_token"])

    def renew(showing: Issued | None) -> VaultResponse:
        return mount.admin.ask("PUT", "auth/token/renew-self", {}, showing=showing, token=token)

    status, [text] = refusal(renew(other := authority.issue(unique("renewer"))))
    assert status == 500
    assert "client identity during renewal not matching client identity used during login" in text
    assert renew(client).status == 200
    assert refusal(renew(None)) == NO_CERTIFICATE
    mount.admin.call("POST", f"{mount.path}/config", {"disable_binding": True})
    assert [renew(other).status, renew(None).status] == [200, 200]


def test_a_batch_token(mount: Mount, authority: Authority, client: Issued) -> None:
    mount.write("web", authority.pem, token_type="batch", token_ttl=30)
    auth = mount.login(client).body["auth"]
    assert (auth["token_type"], auth["renewable"], auth["accessor"]) == ("batch", False, "")


def test_any_certificate_will_do_for_the_rest(
    mount: Mount, stranger: Issued, vault: VaultServer
) -> None:
    ask, token = mount.admin.ask, vault.root_token
    for showing in (stranger, None):
        assert ask("GET", "sys/health", showing=showing).status == 200
        answer = ask("GET", "auth/token/lookup-self", showing=showing, token=token)
        assert answer.data["policies"] == ["root"]


def test_plain_http_at_the_tls_listener(vault: VaultServer) -> None:
    where = urlsplit(vault.tls_address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        connection.request("GET", "/v1/sys/health")
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    assert answer.status == 400
    assert said == b"Client sent an HTTP request to an HTTPS server.\n"


def test_a_client_that_does_not_trust_the_server(vault: VaultServer, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=Authority(tmp_path, "other CA").path)
    with pytest.raises(ssl.SSLCertVerificationError):
        vault_request(vault.tls_address, "GET", "sys/health", tls=context)


def test_without_a_tls_listener(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"VaultServer .* tls_certificate="):
        _ = VaultServer(tmp_path).tls_address
