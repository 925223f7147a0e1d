"""One string in a setting is enough, and a wrong one says which part is wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import (
    AgentAuth,
    AppRoleAuth,
    AWSAuth,
    AzureAuth,
    CertAuth,
    ConfigurationError,
    FileProvider,
    GCPAuth,
    JWTAuth,
    KubernetesAuth,
    LDAPAuth,
    TokenAuth,
    UserpassAuth,
    VaultConfig,
    VaultDynamicProvider,
    provider_from_url,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ephemeral_creds import AuthMethod

ENVIRON = {"VAULT_ADDR": "https://vault:8200", "SECRET_ID": "a-secret-id", "EMPTY": ""}
VAULT = "vault://my-app?auth=kubernetes&auth_role=app"
# Whatever is done with it, none of it may come back in a message.
CANARY = "hvs.CAESIJcanary"


def vault(url: str, environ: Mapping[str, str] = ENVIRON) -> VaultDynamicProvider:
    provider = provider_from_url(url, environ=environ)
    assert isinstance(provider, VaultDynamicProvider)
    provider.close()
    return provider


def test_a_role_with_its_defaults() -> None:
    provider = vault(VAULT)
    assert provider.description == (
        "Vault role 'my-app' (database/creds/my-app at https://vault:8200)"
    )
    assert repr(provider._auth) == repr(KubernetesAuth("app"))
    assert provider.config == VaultConfig("https://vault:8200")


def test_everything_about_vault_can_be_said() -> None:
    provider = vault(
        f"{VAULT}&mount=team/db&auth_mount=k8s&namespace=team&auth_namespace=ops"
        "&address=https://other:8200&cacert=/ca.pem&client_cert=/c.pem&client_key=/k.pem"
    )
    assert "team/db/creds/my-app at https://other:8200" in provider.description
    assert repr(provider._auth) == repr(KubernetesAuth("app", mount="k8s"))
    assert provider.config == VaultConfig(
        "https://other:8200",
        namespace="team",
        auth_namespace="ops",
        verify="/ca.pem",
        client_cert=("/c.pem", "/k.pem"),
    )


WAYS_IN: list[tuple[str, AuthMethod]] = [
    ("agent", AgentAuth()),
    ("kubernetes&auth_role=app&jwt_file=/jwt", KubernetesAuth("app", jwt_path="/jwt")),
    ("token", TokenAuth()),
    ("token&token_file=/sink", TokenAuth(path="/sink")),
    ("token&token_env=SECRET_ID", TokenAuth("a-secret-id")),
    ("approle&role_id=app", AppRoleAuth("app")),
    ("approle&role_id=app&secret_id_env=SECRET_ID", AppRoleAuth("app", "a-secret-id")),
    ("approle&role_id=a&secret_id_file=/id", AppRoleAuth("a", secret_id_file="/id")),
    (
        "approle&role_id=a&secret_id_file=/id&wrapped=true",
        AppRoleAuth("a", secret_id_file="/id", wrapped=True),
    ),
    ("jwt&auth_role=ci&jwt_env=SECRET_ID", JWTAuth("ci", "a-secret-id")),
    ("jwt&auth_role=ci&jwt_file=/jwt&auth_mount=gh", JWTAuth("ci", path="/jwt", mount="gh")),
    ("userpass&username=me&password_env=SECRET_ID", UserpassAuth("me", "a-secret-id")),
    ("ldap&username=me&password_file=/pw", LDAPAuth("me", password_file="/pw")),
    ("cert", CertAuth()),
    ("cert&auth_role=web&auth_mount=tls", CertAuth("web", mount="tls")),
    (
        "aws&auth_role=a&region=eu-west-1&server_id=v",
        AWSAuth("a", region="eu-west-1", server_id="v"),
    ),
    ("gcp&auth_role=a&service_account=b", GCPAuth("a", service_account="b")),
    ("azure&auth_role=a", AzureAuth("a")),
    ("azure&auth_role=a&resource=r&client_id=c", AzureAuth("a", resource="r", client_id="c")),
]


@pytest.mark.parametrize(("query", "auth"), WAYS_IN, ids=[query for query, _ in WAYS_IN])
def test_every_way_in(query: str, auth: AuthMethod) -> None:
    assert repr(vault(f"vault://my-app?auth={query}")._auth) == repr(auth)


def test_names_are_percent_encoded_and_case_counts() -> None:
    assert vault(VAULT.replace("my-app", "My%20App")).role == "My App"


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "db creds.txt"
    path.write_text("PGUSER=me\nPGPASSWORD=x+y\n", encoding="utf-8")
    url = f"{path.as_uri()}?format=env&username_key=PGUSER&password_key=PGPASSWORD&poll_interval=9"
    provider = provider_from_url(url, environ={})
    assert isinstance(provider, FileProvider)
    assert provider.description == f"file {path}"
    assert provider.fetch().credentials.username == "me"
    assert provider._poll_interval == 9.0
    assert provider._notify


def test_a_file_with_a_uri_and_a_maximum_size(tmp_path: Path) -> None:
    path = tmp_path / "db.env"
    path.write_text("REPORTS_DB=postgresql://me:x@db/reports\n", encoding="utf-8")
    url = f"{path.as_uri()}?url_key=REPORTS_DB&max_size="
    assert provider_from_url(f"{url}100", environ={}).fetch().credentials.username == "me"
    with pytest.raises(ConfigurationError, match="more than the 10 of FilePolicy"):
        provider_from_url(f"{url}10", environ={}).fetch()


def test_the_environment_holds_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPHEMERAL_CREDS_URL", " file:///creds?notify=false\n")
    assert provider_from_url().description == "file /creds"
    assert FileProvider.from_env().description == "file /creds"
    with pytest.raises(ConfigurationError, match="begins with vault://"):
        VaultDynamicProvider.from_env()
    monkeypatch.delenv("EPHEMERAL_CREDS_URL")
    with pytest.raises(ConfigurationError, match="EPHEMERAL_CREDS_URL is not set"):
        provider_from_url()


@pytest.mark.parametrize(
    ("url", "texts"),
    [
        ("", ["begins with a scheme", "file:///"]),
        ("my-app", ["begins with a scheme"]),
        ("vault:my-app", ["begins with a scheme"]),
        (
            "postgres://host/db",
            ["postgres://", "no such scheme", "file://, google-secret://, infisical://"],
        ),
        ("vault://?auth=token", ["the role", "missing"]),
        ("vault://database/my-app?auth=token", ["path /my-app", "mount="]),
        ("vault://my-app", ["auth= is missing", "agent, approle, aws, azure"]),
        (
            "vault://my-app?auth=kubernets",
            ["auth=", "no such auth method", "did you mean 'kubernetes'"],
        ),
        ("vault://my-app?auth=kubernetes", ["auth_role= is missing"]),
        (f"{VAULT}&rol=1", ["'rol'", "no such key", "with auth=kubernetes", "auth_role"]),
        (f"{VAULT}&auth_mont=x", ["did you mean 'auth_mount'"]),
        (f"{VAULT}&secret_id_file=/x", ["'secret_id_file'", "with auth=kubernetes"]),
        (f"{VAULT}&mount=", ["mount=", "no value"]),
        (f"{VAULT}&auth_role=b", ["auth_role=", "twice"]),
        (f"{VAULT}&address=vault:8200", ["vault://my-app", "must look like https://vault:8200"]),
        (f"{VAULT}&client_cert=/c", ["go together"]),
        (f"{VAULT}&mount=../x", ["'../x' cannot be the mount"]),
        (f"{VAULT}&jwt_file=token", ["jwt_file=", "absolute"]),
        (f"{VAULT}#x", ["%23"]),
        ("vault://my%2Fapp?auth=token", ["cannot be the name of a Vault role"]),
        ("vault://my-app?auth=token&auth_mount=x", ["auth_mount=", "leave it out"]),
        ("vault://my-app?auth=token&token_env=NOBODY", ["token_env=NOBODY", "is not set"]),
        ("vault://my-app?auth=token&token_env=EMPTY", ["token_env=EMPTY", "empty"]),
        ("vault://a?auth=token&token_env=SECRET_ID&token_file=/x", ["token_env=", "one of them"]),
        ("vault://a?auth=jwt&auth_role=a", ["jwt_file= is missing", "jwt_env="]),
        ("vault://a?auth=userpass&username=a", ["password_file= is missing"]),
        ("file://vault/secrets", ["the path", "absolute"]),
        ("file:///", ["the path"]),
        ("file:///x?format=toml", ["format=toml", "known: auto", "conninfo"]),
        ("file:///x?world_readable=maybe", ["world_readable=maybe", "known: allow, warn, refuse"]),
        ("file:///x?mounted_alone=no", ["mounted_alone=no", "known: allow, warn, refuse"]),
        ("file:///x?owner=warn", ["'owner'", "foreign_owner"]),
        ("file:///x?poll_interval=soon", ["poll_interval=soon", "number of seconds"]),
        ("file:///x?max_size=0", ["max_size=0", "whole number"]),
        ("file:///x?max_size=64K", ["max_size=64K", "whole number"]),
        ("file:///x?notify=maybe", ["notify=maybe", "true or false"]),
    ],
)
def test_an_error_points_at_the_part(url: str, texts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        provider_from_url(url, environ=ENVIRON)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        (f"vault://a?auth=token&token={CANARY}", "token_file=… or"),
        (f"vault://a?auth=approle&role_id=a&secret_id={CANARY}", "secret_id_env=…"),
        (f"vault://a?auth=userpass&password={CANARY}", "password_file=…"),
        (f"vault://a?auth=jwt&jwt={CANARY}", "jwt_file=…"),
        (f"vault://me:{CANARY}@vault?auth=token", "neither belongs in a URL"),
        (f"vault://a?auth=token&token_env={CANARY}", "name of an environment variable"),
        (f"vault://a?auth=token&token_file={CANARY}", "absolute"),
        (f"vault://a?auth=token&tok={CANARY}", "no such key"),
        (f"vault://a?auth=token&{CANARY}", "part 2 of the query"),
        (f"vault://a?auth=token#{CANARY}", "%23"),
        (f"postgres://me:{CANARY}@host/db", "neither belongs in a URL"),
    ],
)
def test_r27_a_secret_in_a_url_is_refused_and_not_repeated(url: str, advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        provider_from_url(url, environ=ENVIRON)
    assert CANARY not in str(caught.value)
    assert advice.replace(" or", "") in str(caught.value)
    assert caught.value.__context__ is None or CANARY not in str(caught.value.__context__)


@pytest.mark.slow
def test_a_file_needs_no_hvac_and_vault_no_watchdog() -> None:
    code = """
import sys
from ephemeral_creds import provider_from_url

provider_from_url(sys.argv[1], environ={"VAULT_ADDR": "https://vault:8200"})
assert sys.argv[2] not in sys.modules
"""
    for url, absent in [("file:///creds", "hvac"), (VAULT, "watchdog")]:
        subprocess.run([sys.executable, "-c", code, url, absent], check=True, timeout=60)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EPHEMERAL_CREDS_URL", raising=False)


def test_timeouts() -> None:
    config = vault(f"{VAULT}&connect_timeout=1.5&read_timeout=20").config
    assert (config.connect_timeout, config.read_timeout) == (1.5, 20.0)
    environ = {**ENVIRON, "VAULT_CLIENT_TIMEOUT": "7s"}
    assert vault(VAULT, environ).config.read_timeout == 7.0
    with pytest.raises(ConfigurationError, match="read_timeout=soon in the URL"):
        vault(f"{VAULT}&read_timeout=soon")


@pytest.mark.parametrize("prefix", ["VAULT", "BAO"])
def test_certificate_keys_of_the_url_replace_the_environments(prefix: str) -> None:
    environ = {
        **ENVIRON,
        f"{prefix}_CACERT": "/env/ca.pem",
        f"{prefix}_CACERT_BYTES": "-----BEGIN CERTIFICATE-----",
        f"{prefix}_CAPATH": "/env/ca",
        f"{prefix}_CLIENT_CERT": "/env/c.pem",
        f"{prefix}_CLIENT_KEY": "/env/k.pem",
    }
    assert vault(f"{VAULT}&capath=/url/ca", environ).config.verify == "/url/ca"
    assert vault(f"{VAULT}&cacert=/url/ca.pem", environ).config.verify == "/url/ca.pem"
    skipping = {**environ, f"{prefix}_SKIP_VERIFY": "true"}
    assert vault(VAULT, skipping).config.verify is False
    assert vault(f"{VAULT}&capath=/url/ca", skipping).config.verify == "/url/ca"
    assert vault(f"{VAULT}&skip_verify=no", skipping).config.verify == "/env/ca.pem"
    shown = vault(f"{VAULT}&client_cert=/url/c&client_key=/url/k", environ).config.client_cert
    assert shown == ("/url/c", "/url/k")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("file:/x", "this one has file: without the two slashes"),
        ("vault:/x", "this one has vault: without the two slashes"),
        ("vault_static://x", "no valid scheme before ://"),
        ("/x", "this one has none"),
        (f"{VAULT}&mount=/", r"URL vault://my-app\?….*mount="),
        (f"{VAULT}&skip_verify=maybe", "skip_verify=maybe in the URL"),
        (f"{VAULT}&client_cert=/c", "client_key= is missing in the URL"),
        (f"{VAULT}&client_key=/k", "client_cert= is missing in the URL"),
        (f"{VAULT}&cacert=/a&capath=/b", "capath= in the URL.*there is cacert= as well"),
        (f"{VAULT}&address=https://v/v1", r"URL vault://my-app\?….*leave the /v1 out"),
        ("vault://a/b?auth=agent", "the path /b in the URL"),
    ],
)
def test_an_error_is_about_what_is_wrong(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        vault(url)


def test_an_unknown_auth_method_is_not_shown_since_it_may_be_a_token() -> None:
    with pytest.raises(ConfigurationError, match="no such auth method") as caught:
        vault(f"vault://my-app?auth={CANARY}")
    assert CANARY not in str(caught.value)
