"""What users hand to the auth methods and cannot be right: told at once, and without the secret."""

from __future__ import annotations

import base64
import json
import logging
import os
import traceback
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
from stub_vault import SECRET_ID, StubVault

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.vault import (
    AgentAuth,
    AppRoleAuth,
    AWSAuth,
    AzureAuth,
    CertAuth,
    GCPAuth,
    JWTAuth,
    KubernetesAuth,
    LDAPAuth,
    TokenAuth,
    UserpassAuth,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.providers.vault.http.client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ephemeral_creds.providers.vault import AuthMethod
    from ephemeral_creds.testing import FakeClock

ODD = cast("str", SECRET_ID.encode())

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "empty token": (lambda: TokenAuth(""), "TokenAuth: the token is empty"),
    "blank token": (lambda: TokenAuth(" \n"), "the token is empty"),
    "token of bytes": (lambda: TokenAuth(ODD), "the token must be a str or a Secret, not bytes"),
    "empty role id": (lambda: AppRoleAuth(""), "AppRoleAuth: the role_id must be a str"),
    "no role id": (lambda: AppRoleAuth(cast("str", None)), "role_id must be a str that"),
    "empty secret id": (lambda: AppRoleAuth("r", ""), "secret_id is empty; a role that asks for"),
    "secret id of bytes": (lambda: AppRoleAuth("r", ODD), "secret_id must be a str or a Secret"),
    "empty jwt": (lambda: JWTAuth("r", ""), "JWTAuth: the jwt is empty"),
    "jwt of bytes": (lambda: JWTAuth("r", ODD), "jwt must be a str or a Secret, not bytes"),
    "async jwt": (lambda: JWTAuth("r", cast("Callable[[], str]", later)), "function is async"),
    "two jwts": (lambda: JWTAuth("r", SECRET_ID, path="/x"), "give one of them"),
    "empty password": (lambda: UserpassAuth("u", ""), "UserpassAuth: the password is empty"),
    "password of bytes": (lambda: LDAPAuth("u", ODD), "LDAPAuth: the password must be a str"),
    "two passwords": (lambda: UserpassAuth("u", SECRET_ID, password_file="/x"), "give one of"),
    "odd user": (lambda: UserpassAuth("a/b", SECRET_ID), "cannot be the name of a user"),
    "two secret ids": (lambda: AppRoleAuth("r", SECRET_ID, secret_id_file="/x"), "not both"),
    "two tokens": (lambda: TokenAuth(SECRET_ID, path="/x"), "not both"),
    "odd mount": (lambda: AppRoleAuth("r", SECRET_ID, mount="../sys"), "cannot be the mount"),
    "no auth method": (
        lambda: VaultDynamicProvider(
            "app", auth=cast("AuthMethod", SECRET_ID), config=VaultConfig("http://vault")
        ),
        "auth must be an auth method, such as KubernetesAuth('my-app'), not a str",
    ),
}


async def later() -> str:
    return SECRET_ID


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_an_impossible_argument_is_refused_at_once(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert text in str(caught.value)
    # As error reporters show our objects; they do not fail on one that is half made.
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    for frame in shown.stack:
        # What was given in place of an auth method is not known to be a secret.
        if "providers/vault/auth" in frame.filename:
            assert SECRET_ID not in str(frame.locals)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda: later(), r"returned a coroutine: it must be a str or a Secret"),
        (lambda: 5, r"returned a int: it must be a str"),
        (lambda: None, r"returned no token"),
        (lambda: " ", r"returned no token"),
    ],
    ids=["coroutine", "number", "nothing", "blank"],
)
def test_the_result_of_a_function_is_validated(
    stub: StubVault,
    config: VaultConfig,
    clock: FakeClock,
    function: Callable[[], str],
    text: str,
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        JWTAuth("r", function).login(VaultClient(config), clock)
    assert stub.requests == []


@pytest.mark.parametrize("value", ["", "  "])
def test_a_blank_variable_holds_no_token(
    stub: StubVault, config: VaultConfig, clock: FakeClock, value: str
) -> None:
    """An agent next door would answer a request without one, as itself."""
    auth = TokenAuth(environ={"VAULT_TOKEN": value, "BAO_TOKEN": value})
    with pytest.raises(ConfigurationError, match="there is no Vault token"):
        auth.login(VaultClient(config), clock)
    assert stub.requests == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (lambda path: path.write_bytes(b"x" * 70_000), "has more than 65536 bytes"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not text"),
        (lambda path: path.write_text(" \n"), "is empty"),
        (lambda path: None, "cannot be read: No such file"),
    ],
    ids=["fifo", "device", "directory", "long", "bytes", "blank", "missing"],
)
def test_a_file_that_cannot_hold_a_secret_is_not_read(
    tmp_path: Path,
    config: VaultConfig,
    clock: FakeClock,
    make: Callable[[Path], object],
    text: str,
) -> None:
    path = tmp_path / "token"
    make(path)
    with pytest.raises(ConfigurationError, match=f"should hold a Vault token, but it {text}"):
        TokenAuth(path=path).login(VaultClient(config), clock)


def test_each_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for auth in (
        TokenAuth(path="~/x"),
        AppRoleAuth("r", secret_id_file="~/x"),
        JWTAuth("r", path="~/x"),
        UserpassAuth("u", password_file="~/x"),
        KubernetesAuth("r", jwt_path="~/x"),
    ):
        assert "'/home/me/x'" in repr(auth)


@pytest.mark.parametrize(
    "make",
    [
        lambda mount: AppRoleAuth("r", mount=mount),
        lambda mount: KubernetesAuth("r", mount=mount),
        lambda mount: JWTAuth("r", "x", mount=mount),
        lambda mount: UserpassAuth("u", "x", mount=mount),
        lambda mount: CertAuth("r", mount=mount),
        lambda mount: AWSAuth("r", mount=mount),
        lambda mount: GCPAuth("r", mount=mount),
        lambda mount: AzureAuth("r", mount=mount),
    ],
)
def test_a_mount_may_have_the_auth_in_front_that_vault_shows(
    make: Callable[[str], AuthMethod],
) -> None:
    assert "mount='team/x'" in repr(make("auth/team/x/"))


def test_reprs_show_the_arguments_of_a_method() -> None:
    assert repr(AppRoleAuth("r", SECRET_ID)) == (
        "AppRoleAuth(secret_id=Secret('**********'), "
        "secret_id_file=None, wrapped=False, mount='approle')"
    )
    assert repr(AgentAuth()) == "AgentAuth()"
    assert repr(JWTAuth("ci", partial(str, SECRET_ID))) == (
        "JWTAuth(role='ci', jwt=<function>, path=None, mount='jwt')"
    )


@pytest.mark.parametrize(
    ("region", "host"),
    [
        (None, "sts.amazonaws.com"),
        ("eu-central-1", "sts.eu-central-1.amazonaws.com"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_aws_is_asked_where_the_region_is(
    stub: StubVault,
    config: VaultConfig,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    region: str | None,
    host: str,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ID)
    AWSAuth("app", region=region).login(VaultClient(config), clock)
    url = base64.b64decode(str(stub.requests[0].body["iam_request_url"])).decode()
    assert url == f"https://{host}/"


@pytest.mark.parametrize("region", ["mars-north-1", "mars/../x", ""])
def test_aws_has_no_such_region(
    stub: StubVault, config: VaultConfig, clock: FakeClock, region: str
) -> None:
    with pytest.raises(ConfigurationError, match="botocore knows no AWS region"):
        AWSAuth("app", region=region).login(VaultClient(config), clock)
    assert stub.requests == []


def test_no_log_has_the_signature_of_an_aws_login(
    stub: StubVault,
    config: VaultConfig,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Signed headers are a login for some minutes, and botocore logs what they are made of."""
    pytest.importorskip("botocore")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "-".join(["canary", "aws", "secret"]))
    with caplog.at_level(logging.DEBUG):
        AWSAuth("app").login(VaultClient(config), clock)
    signed = json.loads(base64.b64decode(str(stub.requests[0].body["iam_request_headers"])))
    signature = signed["Authorization"][0].rpartition("Signature=")[2]
    assert len(signature) == 64
    assert signature not in caplog.text
