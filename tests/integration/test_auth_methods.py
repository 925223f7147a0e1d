"""Ways to log in, against a real Vault whose counterparts (STS, a CA, an issuer) are ours."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

import pytest
from certificates import Authority
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ephemeral_creds import (
    AccessDenied,
    AppRoleAuth,
    AWSAuth,
    CertAuth,
    ConfigurationError,
    JWTAuth,
    MalformedResponse,
    Secret,
    UserpassAuth,
    VaultConfig,
    VaultDynamicProvider,
    provider_from_url,
)
from ephemeral_creds.testing import DatabaseEngine, VaultServer, find_vault
from ephemeral_creds.testing._process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds import AuthMethod
    from ephemeral_creds.testing import PostgresServer, VaultAdmin

    Unique = Callable[[str], str]
    Fetch = Callable[[AuthMethod], str]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def engine(
    authority: Authority,
    tls_port: int,
    postgres: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DatabaseEngine]:
    """A real Vault with a TLS listener, and one on a socket, besides the usual one."""
    if (binary := find_vault()) is None:
        pytest.skip("no vault, bao or go here: the emulator knows neither these methods nor TLS")
    certificate = authority.issue("localhost", server=True, ip="127.0.0.1")
    listeners = f"""
    listener "tcp" {{
      address       = "127.0.0.1:{tls_port}"
      tls_cert_file = "{certificate.cert}"
      tls_key_file  = "{certificate.key}"
    }}
    """
    with VaultServer(binary, config=listeners) as server:
        made = DatabaseEngine(server, postgres)
        made.create_role("app")
        made.policy("app")
        yield made


@pytest.fixture
def admin(engine: DatabaseEngine) -> VaultAdmin:
    return engine.admin


@pytest.fixture
def fetch(engine: DatabaseEngine) -> Fetch:
    """Log in, mint, give back, and return the user name that was minted."""

    def fetch(auth: AuthMethod) -> str:
        config = VaultConfig(engine.vault.address, read_timeout=20)
        with contextlib.closing(VaultDynamicProvider("app", auth=auth, config=config)) as provider:
            grant = provider.fetch()
            provider.renew(grant)
            provider.revoke(grant)
            return grant.credentials.username

    return fetch


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    """What the issuer of JSON Web Tokens signs with."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


POLICY = ["use-app"]


class TestAppRole:
    def test_a_wrapped_secret_id_is_opened_once_and_kept(
        self,
        engine: DatabaseEngine,
        admin: VaultAdmin,
        fetch: Fetch,
        tmp_path: Path,
        canary: Canary,
    ) -> None:
        role = admin.create_approle("wrapped", POLICY)
        path = tmp_path / "wrapping-token"
        canary.allow_secret_file(path)
        path.write_text(wrapped_secret_id(engine, "wrapped").reveal())
        auth = AppRoleAuth(role.role_id, secret_id_file=path, wrapped=True)
        assert fetch(auth).startswith("v-approle-app-")
        assert fetch(auth).startswith("v-approle-app-")
        path.write_text(wrapped_secret_id(engine, "wrapped").reveal())
        assert fetch(auth).startswith("v-approle-app-")

    def test_a_wrapping_token_that_somebody_opened_is_an_alarm(
        self, engine: DatabaseEngine, admin: VaultAdmin, fetch: Fetch
    ) -> None:
        role = admin.create_approle("stolen", POLICY)
        token = wrapped_secret_id(engine, "stolen")
        admin.call("POST", "sys/wrapping/unwrap", {}, token=token)
        with pytest.raises(AccessDenied, match=r"opened already.*find out by whom") as caught:
            fetch(AppRoleAuth(role.role_id, token, wrapped=True))
        assert token.reveal() not in str(caught.value)

    def test_something_else_in_the_wrapping_token(
        self, engine: DatabaseEngine, admin: VaultAdmin, fetch: Fetch
    ) -> None:
        role = admin.create_approle("odd", POLICY)
        answer = wrap(engine, "sys/wrapping/wrap", {"a": "b"})
        with pytest.raises(MalformedResponse, match="something else was wrapped"):
            fetch(AppRoleAuth(role.role_id, answer, wrapped=True))

    def test_a_secret_id_whose_uses_are_exhausted(self, admin: VaultAdmin, fetch: Fetch) -> None:
        role = admin.create_approle("twice", POLICY, secret_id_num_uses=2)
        auth = AppRoleAuth(role.role_id, role.secret_id)
        fetch(auth)
        fetch(auth)
        with pytest.raises(AccessDenied, match="secret id is expired or used up"):
            fetch(auth)


class TestUserpass:
    @pytest.fixture(autouse=True)
    def user(self, admin: VaultAdmin, canary: Canary) -> None:
        canary.register_secret("userpass-canary-password")
        admin.enable_auth("userpass")
        body = {"password": "userpass-canary-password", "token_policies": POLICY}
        admin.call("POST", "auth/userpass/users/me", body)

    def test_a_password(self, fetch: Fetch) -> None:
        auth = UserpassAuth("me", "userpass-canary-password")
        assert fetch(auth).startswith("v-userpass-app-")

    def test_a_password_file_is_read_each_time(
        self, fetch: Fetch, tmp_path: Path, canary: Canary
    ) -> None:
        path = tmp_path / "password"
        canary.allow_secret_file(path)
        path.write_text("wrong-password-of-userpass\n")
        auth = UserpassAuth("me", password_file=path)
        with pytest.raises(AccessDenied, match=r"user 'me' at auth/userpass.*the password"):
            fetch(auth)
        path.write_text("userpass-canary-password\n")
        fetch(auth)

    def test_a_name_cannot_leave_its_path(self, fetch: Fetch) -> None:
        with pytest.raises(ConfigurationError, match="cannot be the name of a user"):
            fetch(UserpassAuth("../../approle/login/me", "userpass-canary-password"))


class TestJWT:
    @pytest.fixture(autouse=True)
    def issuer(self, admin: VaultAdmin, key: rsa.RSAPrivateKey) -> None:
        admin.enable_auth("jwt", "ci")
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        admin.call("POST", "auth/ci/config", {"jwt_validation_pubkeys": [public.decode()]})
        role = {
            "role_type": "jwt",
            "bound_audiences": ["vault"],
            "user_claim": "sub",
            "bound_claims": {"project": "app"},
            "token_policies": POLICY,
        }
        admin.call("POST", "auth/ci/role/app", role)

    def test_a_function_is_called_at_each_login(self, fetch: Fetch, key: rsa.RSAPrivateKey) -> None:
        made: list[Secret] = []

        def issue() -> Secret:
            made.append(jwt(key))
            return made[-1]

        auth = JWTAuth("app", issue, mount="ci")
        assert fetch(auth).startswith("v-ci-")
        fetch(auth)
        assert len(made) == 2

    def test_a_file(
        self, fetch: Fetch, key: rsa.RSAPrivateKey, tmp_path: Path, canary: Canary
    ) -> None:
        path = tmp_path / "jwt"
        canary.allow_secret_file(path)
        path.write_text(jwt(key).reveal())
        fetch(JWTAuth("app", path=path, mount="ci"))

    def test_the_wrong_claims_and_an_expired_one(
        self, fetch: Fetch, key: rsa.RSAPrivateKey
    ) -> None:
        for wrong in (jwt(key, project="other"), jwt(key, exp=int(time.time()) - 600)):
            with pytest.raises(AccessDenied, match="bound_audiences") as caught:
                fetch(JWTAuth("app", wrong, mount="ci"))
            assert wrong.reveal() not in str(caught.value)

    def test_an_unknown_role(self, fetch: Fetch, key: rsa.RSAPrivateKey) -> None:
        with pytest.raises((AccessDenied, ConfigurationError), match="role 'nobody' at auth/ci"):
            fetch(JWTAuth("nobody", jwt(key), mount="ci"))


class TestCert:
    @pytest.fixture(autouse=True)
    def trusted(self, admin: VaultAdmin, authority: Authority) -> None:
        admin.enable_auth("cert")
        body = {"certificate": authority.pem, "token_policies": POLICY}
        admin.call("POST", "auth/cert/certs/web", body)

    def test_a_certificate_by_url(
        self, authority: Authority, tls_port: int, canary: Canary
    ) -> None:
        client = authority.issue("client")
        url = (
            f"vault://app?auth=cert&auth_role=web&address=https://127.0.0.1:{tls_port}"
            f"&cacert={authority.path}&client_cert={client.cert}&client_key={client.key}"
        )
        with contextlib.closing(provider_from_url(url, environ={})) as provider:
            grant = provider.fetch()
            provider.revoke(grant)
        assert grant.credentials.username.startswith("v-cert-")

    def test_a_certificate_of_another_ca(
        self, authority: Authority, tls_port: int, tmp_path: Path
    ) -> None:
        stranger = Authority(tmp_path, "other CA").issue("stranger")
        config = VaultConfig(
            f"https://127.0.0.1:{tls_port}",
            verify=str(authority.path),
            client_cert=(str(stranger.cert), str(stranger.key)),
        )
        provider = VaultDynamicProvider("app", auth=CertAuth(), config=config)
        with (
            contextlib.closing(provider),
            pytest.raises(AccessDenied, match="trusts the CA of this certificate"),
        ):
            provider.fetch()

    def test_renewed_files_are_read_at_the_next_login(
        self, authority: Authority, tls_port: int, tmp_path: Path
    ) -> None:
        good = authority.issue("renewed")
        stranger = Authority(tmp_path, "other CA").issue("renewed")
        config = VaultConfig(
            f"https://127.0.0.1:{tls_port}",
            verify=str(authority.path),
            client_cert=(str(stranger.cert), str(stranger.key)),
        )
        provider = VaultDynamicProvider("app", auth=CertAuth("web"), config=config)
        with contextlib.closing(provider):
            with pytest.raises(AccessDenied):
                provider.fetch()
            stranger.cert.write_bytes(good.cert.read_bytes())
            stranger.key.write_bytes(good.key.read_bytes())
            provider.revoke(provider.fetch())

    def test_without_a_certificate(self, fetch: Fetch) -> None:
        with pytest.raises(ConfigurationError, match="VAULT_CLIENT_CERT"):
            fetch(CertAuth())


class TestAWS:
    ARN = "arn:aws:iam::123456789012:user/my-app"

    @pytest.fixture(autouse=True)
    def sts(
        self, admin: VaultAdmin, monkeypatch: pytest.MonkeyPatch, canary: Canary
    ) -> Iterator[StubSTS]:
        canary.register_secret("aws-canary-secret-access-key")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-canary-secret-access-key")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        with StubSTS(self.ARN) as stub:
            admin.enable_auth("aws")
            admin.call(
                "POST",
                "auth/aws/config/client",
                {
                    "sts_endpoint": stub.address,
                    "sts_region": "us-east-1",
                    "iam_server_id_header_value": "vault.example",
                    "allowed_sts_header_values": [],
                },
            )
            admin.call(
                "POST",
                "auth/aws/role/app",
                {
                    "auth_type": "iam",
                    "bound_iam_principal_arn": [self.ARN],
                    "resolve_aws_unique_ids": False,
                    "token_policies": POLICY,
                },
            )
            yield stub

    def test_a_signed_request(self, fetch: Fetch, sts: StubSTS) -> None:
        assert fetch(AWSAuth("app", server_id="vault.example")).startswith("v-aws-")
        headers = sts.asked[-1]
        assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/")
        assert "/us-east-1/sts/aws4_request" in headers["Authorization"]
        assert "x-vault-aws-iam-server-id" in headers["Authorization"]

    def test_a_missing_server_id(self, fetch: Fetch) -> None:
        with pytest.raises(ConfigurationError, match="whether Vault demands a server_id"):
            fetch(AWSAuth("app"))

    def test_no_credentials(self, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ConfigurationError, match="no AWS credentials"):
            fetch(AWSAuth("app"))


def wrap(engine: DatabaseEngine, path: str, body: dict[str, object]) -> Secret:
    """Return a wrapping token for the answer to a request."""
    import requests

    answer = requests.post(
        f"{engine.vault.address}/v1/{path}",
        json=body,
        headers={
            "X-Vault-Token": engine.vault.root_token.reveal(),
            "X-Vault-Wrap-TTL": "60",
            "X-Vault-Request": "true",
        },
        timeout=20,
    )
    return Secret(answer.json()["wrap_info"]["token"])


def wrapped_secret_id(engine: DatabaseEngine, role: str) -> Secret:
    return wrap(engine, f"auth/approle/role/{role}/secret-id", {})


def jwt(key: rsa.RSAPrivateKey, **claims: object) -> Secret:
    """Return a token as a CI system would sign it."""
    now = int(time.time())
    body = {"aud": "vault", "sub": "job-1", "project": "app", "iat": now, "exp": now + 300}
    parts = [encoded(json.dumps(part).encode()) for part in ({"alg": "RS256"}, body | claims)]
    signature = key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
    return Secret(".".join([*parts, encoded(signature)]))


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class StubSTS:
    """Answers GetCallerIdentity the way AWS does, whoever asks."""

    def __init__(self, arn: str) -> None:
        self.asked: list[dict[str, str]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.asked.append(dict(self.headers))
                body = (
                    "<GetCallerIdentityResponse "
                    'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
                    f"<Arn>{arn}</Arn><UserId>AIDAEXAMPLE</UserId><Account>123456789012</Account>"
                    "</GetCallerIdentityResult></GetCallerIdentityResponse>"
                ).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
