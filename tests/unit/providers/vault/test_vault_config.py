"""Where Vault is, from arguments and from the environment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.vault import TokenAuth, VaultConfig, VaultDynamicProvider

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def test_the_environment_that_the_vault_command_reads() -> None:
    environ = {
        "VAULT_ADDR": "https://vault:8200/",
        "VAULT_NAMESPACE": "team/",
        "VAULT_CACERT": "/ca.pem",
        "VAULT_CACERT_BYTES": PEM,
        "VAULT_CAPATH": "/ca",
        "VAULT_CLIENT_CERT": "/cert.pem",
        "VAULT_CLIENT_KEY": "/key.pem",
        "VAULT_CLIENT_TIMEOUT": "1m30s",
        "VAULT_PROXY_ADDR": "http://proxy:3128",
        "VAULT_HTTP_PROXY": "http://other:3128",
        "VAULT_SKIP_VERIFY": "false",
    }
    assert VaultConfig.from_env(environ) == VaultConfig(
        "https://vault:8200",
        namespace="team",
        verify="/ca.pem",
        client_cert=("/cert.pem", "/key.pem"),
        read_timeout=90.0,
        proxies={"http": "http://proxy:3128", "https": "http://proxy:3128"},
    )


def test_certificates_in_a_variable_override_a_directory_of_them() -> None:
    """As Vault's client for Go has it; the command itself would take the directory."""
    environ = {"VAULT_ADDR": "https://v", "VAULT_CACERT_BYTES": PEM, "VAULT_CAPATH": "/ca"}
    config = VaultConfig.from_env(environ)
    assert config.verify == config.ca_certificates == PEM
    assert VaultConfig("https://v", verify="/ca").ca_certificates is None
    skipped = VaultConfig.from_env(environ | {"VAULT_SKIP_VERIFY": "1"})
    assert (skipped.verify, skipped.ca_certificates) == (False, None)


def test_the_older_name_of_the_proxy_counts_where_the_newer_is_not_set() -> None:
    environ = {"VAULT_ADDR": "https://v", "VAULT_HTTP_PROXY": "http://proxy:3128"}
    assert VaultConfig.from_env(environ).proxies == dict.fromkeys(
        ("http", "https"), "http://proxy:3128"
    )


def test_openbaos_names_are_twins() -> None:
    config = VaultConfig.from_env({"BAO_ADDR": "http://bao:8200", "BAO_CAPATH": "/ca"})
    assert (config.address, config.verify) == ("http://bao:8200", "/ca")
    assert VaultConfig.from_env({"VAULT_ADDR": "http://a", "BAO_ADDR": "http://b"}).address == (
        "http://a"
    )


def test_an_unset_variable_has_its_default() -> None:
    assert VaultConfig.from_env({"VAULT_ADDR": "http://v"}) == VaultConfig("http://v")


@pytest.mark.parametrize(("value", "verify"), [("1", False), ("TRUE", False), ("0", True)])
def test_skipping_verification_wins(value: str, verify: bool) -> None:
    environ = {"VAULT_ADDR": "https://v", "VAULT_SKIP_VERIFY": value}
    assert VaultConfig.from_env(environ).verify is verify
    if not verify:
        assert VaultConfig.from_env(environ | {"VAULT_CACERT": "/ca.pem"}).verify is False


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({}, "set VAULT_ADDR"),
        ({"VAULT_SKIP_VERIFY": "maybe"}, "VAULT_SKIP_VERIFY"),
        ({"VAULT_CLIENT_TIMEOUT": "soon"}, "VAULT_CLIENT_TIMEOUT"),
        ({"VAULT_CLIENT_TIMEOUT": "5s!"}, "VAULT_CLIENT_TIMEOUT"),
        ({"VAULT_CLIENT_TIMEOUT": "0"}, "read_timeout"),
        ({"VAULT_CLIENT_CERT": "/cert.pem"}, "go together"),
        ({"VAULT_CACERT_BYTES": "/ca.pem"}, "VAULT_CACERT takes the path"),
    ],
)
def test_an_environment_that_cannot_be_right(environ: dict[str, str], text: str) -> None:
    address = {"VAULT_ADDR": "https://v"} if environ else {}
    with pytest.raises(ConfigurationError, match=text):
        VaultConfig.from_env(address | environ)


@pytest.mark.parametrize(
    "address",
    ["", "vault:8200", "ftp://v", "https://", "https://v:0x1", "https://v/?a=1", "http://[v"],
)
def test_an_address_that_cannot_be_right(address: str) -> None:
    with pytest.raises(ConfigurationError, match="must look like"):
        VaultConfig(address)


@pytest.mark.parametrize("password", ["hunter2", "hunter2#", "/hunter2", "?hunter2"])
@pytest.mark.parametrize("host", ["vault", "vault:port", "[vault"])
def test_r27_an_address_with_a_password_is_refused_without_showing_it(
    password: str, host: str
) -> None:
    with pytest.raises(ConfigurationError, match="leave it out") as caught:
        VaultConfig(f"https://me:{password}@{host}")
    assert "hunter2" not in str(caught.value)


def test_r27_a_proxys_password_is_not_shown() -> None:
    config = VaultConfig("https://v", proxies={"https": "http://me:hunter2@proxy"})
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"connect_timeout": 0.0}, "connect_timeout"),
        ({"revoke_timeout": float("inf")}, "revoke_timeout"),
        ({"verify": ""}, "verify"),
        ({"namespace": "täm"}, "HTTP header"),
    ],
)
def test_a_setting_that_cannot_be_right(changed: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        replace(VaultConfig("https://v"), **changed)  # type: ignore[arg-type]


def test_a_provider_without_a_config_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAULT_ADDR", "https://vault:8200")
    provider = VaultDynamicProvider("my-app", auth=TokenAuth("t"))
    assert provider.description == (
        "Vault role 'my-app' (database/creds/my-app at https://vault:8200)"
    )
    provider.close()


def test_several_addresses_are_checked_one_by_one() -> None:
    config = VaultConfig("https://a:8200/, https://b:8200")
    assert config.addresses == ("https://a:8200", "https://b:8200")
    with pytest.raises(ConfigurationError, match="not 'b:8200'"):
        VaultConfig("https://a:8200,b:8200")


def test_an_agents_address_goes_first() -> None:
    environ = {"VAULT_ADDR": "https://v", "VAULT_AGENT_ADDR": "unix:///run/vault.sock"}
    assert VaultConfig.from_env(environ).address == "unix:///run/vault.sock"
    with pytest.raises(ConfigurationError, match="must look like unix:///run/vault"):
        VaultConfig("unix://vault.sock")


@pytest.mark.parametrize(
    ("address", "settings", "text"),
    [
        ("http://vault:8200", {}, "plain HTTP"),
        (
            "https://a,http://10.0.0.1:8200",
            {},
            "http://10.0.0.1:8200 is used over plain HTTP",
        ),
        ("https://vault:8200", {"verify": False}, "VAULT_SKIP_VERIFY"),
        ("http://localhost:8200", {"verify": False}, ""),
        ("http://127.0.0.2:8200", {}, ""),
        ("http://[::1]:8200", {}, ""),
        ("unix:///run/vault.sock", {}, ""),
        ("https://vault:8200", {}, ""),
        ("HTTP://vault:8200", {}, "plain HTTP"),
        ("HTTPS://vault:8200", {"verify": False}, "VAULT_SKIP_VERIFY"),
    ],
)
def test_a_weak_setting_is_warned_about(
    address: str, settings: dict[str, bool], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = VaultConfig(address, **settings)  # type: ignore[arg-type]
    VaultDynamicProvider("app", auth=TokenAuth("t"), config=config).close()
    assert [r.levelname for r in caplog.records] == (["WARNING"] if text else [])
    assert text in caplog.text


def test_a_scheme_may_be_in_capitals() -> None:
    config = VaultConfig("HTTPS://Vault:8200,Unix:///run/Vault.sock", client_cert=("/c", "/k"))
    assert config.addresses == ("https://Vault:8200", "unix:///run/Vault.sock")
    assert VaultConfig("HTTPS://vault", client_cert=("/c", "/k")).presents_certificate


@pytest.mark.parametrize("address", ["https://vault:8200/v1", "https://vault:8200/v1/"])
def test_the_version_of_the_api_is_no_part_of_the_address(address: str) -> None:
    with pytest.raises(ConfigurationError, match="leave the /v1 out of"):
        VaultConfig(address)
