"""Ways to log in, where the counterparts (STS, a CA, an issuer) are ours."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from differences import needs
from ephemeral_creds import (
    AccessDenied,
    AppRoleAuth,
    AWSAuth,
    ConfigurationError,
    CredentialKeeper,
    JWTAuth,
    MalformedResponse,
    RefreshPolicy,
    Secret,
    UserpassAuth,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.testing import DatabaseEngine
from issuers import KeySet, StubSTS, issuer_key, jwt, public_pem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import rsa

    from canary import Canary
    from ephemeral_creds import AuthMethod
    from ephemeral_creds.testing import PostgresServer, VaultAdmin, VaultServer

    Unique = Callable[[str], str]
    Fetch = Callable[[AuthMethod], str]


@pytest.fixture(scope="module")
def engine(engine: DatabaseEngine) -> DatabaseEngine:
    """A database engine with a role ``app`` and the policy to use it."""
    engine.create_role("app")
    engine.policy("app")
    return engine


@pytest.fixture
def admin(engine: DatabaseEngine) -> VaultAdmin:
    return engine.admin


@pytest.fixture
def fetch(engine: DatabaseEngine) -> Fetch:
    """Log in, mint, revoke, and return the user name that was minted."""

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
    return issuer_key()


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

    def test_a_wrapping_token_that_was_already_used_is_an_alarm(
        self, engine: DatabaseEngine, admin: VaultAdmin, fetch: Fetch
    ) -> None:
        role = admin.create_approle("stolen", POLICY)
        token = wrapped_secret_id(engine, "stolen")
        admin.call("POST", "sys/wrapping/unwrap", {}, token=token)
        with pytest.raises(AccessDenied, match=r"unwrapped already.*find out by whom") as caught:
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
        admin.call("POST", "auth/ci/config", {"jwt_validation_pubkeys": [public_pem(key)]})
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

    def test_one_that_is_valid_in_a_moment_is_waited_for(
        self, engine: DatabaseEngine, key: rsa.RSAPrivateKey
    ) -> None:
        """The issuer's clock is ahead of Vault's: no reason to give up at the start."""
        later = time.time() + 600
        tokens = [jwt(key), jwt(key, iat=later), jwt(key, nbf=later)]
        auth = JWTAuth("app", tokens.pop, mount="ci")
        config = VaultConfig(engine.vault.address, read_timeout=20)
        provider = VaultDynamicProvider("app", auth=auth, config=config)
        with CredentialKeeper(provider, refresh=RefreshPolicy(retry_initial=0.05)) as keeper:
            assert keeper.wait(30).credentials.username.startswith("v-ci-")
            assert keeper.status().failed_fetches == 2

    def test_an_unknown_role(self, fetch: Fetch, key: rsa.RSAPrivateKey) -> None:
        with pytest.raises((AccessDenied, ConfigurationError), match="role 'nobody' at auth/ci"):
            fetch(JWTAuth("nobody", jwt(key), mount="ci"))


def test_the_issuers_keys_by_url_and_new_ones_of_it(
    vault: VaultServer, postgres: PostgresServer, key: rsa.RSAPrivateKey, unique: Unique
) -> None:
    """Vault asks the issuer for its keys, as with GitHub and GitLab, and again for one it lacks."""
    engine = DatabaseEngine(vault, postgres)
    role, mount = unique("jwks"), unique("oidc")
    engine.create_role(role)
    engine.admin.enable_auth("jwt", mount)
    config = VaultConfig(vault.address, read_timeout=20)
    with KeySet(key) as issuer:
        engine.admin.call("POST", f"auth/{mount}/config", {"jwks_url": issuer.address})
        body: dict[str, object] = {
            "role_type": "jwt",
            "bound_audiences": ["vault"],
            "user_claim": "sub",
            "token_policies": [engine.policy(role)],
        }
        engine.admin.call("POST", f"auth/{mount}/role/app", body)
        signing = key
        auth = JWTAuth("app", lambda: jwt(signing), mount=mount)

        def fetch() -> str:
            with contextlib.closing(VaultDynamicProvider(role, auth=auth, config=config)) as found:
                grant = found.fetch()
                found.revoke(grant)
                return grant.credentials.username

        assert fetch().startswith("v-")
        assert issuer.requests
        signing = issuer_key()
        with pytest.raises(AccessDenied, match=f"a JWT login for role 'app' at auth/{mount}"):
            fetch()
        issuer.keys = [signing]
        assert fetch().startswith("v-")


@needs("aws")
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
        signature = sts.requests[-1].headers["authorization"]
        assert signature.startswith("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/")
        assert "/us-east-1/sts/aws4_request" in signature
        assert "x-vault-aws-iam-server-id" in signature

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
    answer = engine.admin.request("POST", path, body, wrap_ttl="60")
    return Secret(answer.body["wrap_info"]["token"])


def wrapped_secret_id(engine: DatabaseEngine, role: str) -> Secret:
    return wrap(engine, f"auth/approle/role/{role}/secret-id", {})
