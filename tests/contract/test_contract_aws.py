"""Logins by a signed request to AWS's STS."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from contract_shapes import AUTH, envelope, refusal, shape

from differences import needs
from ephemeral_creds import Secret
from issuers import StubSTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import DatabaseEngine, VaultResponse

    Unique = Callable[[str], str]

pytestmark = needs("aws")

NO_TOKEN = Secret("")
ARN = "arn:aws:iam::123456789012:user/my-app"
URL = "https://sts.amazonaws.com/"
CALL = "Action=GetCallerIdentity&Version=2011-06-15"
SERVER_ID = "X-Vault-AWS-IAM-Server-ID"
SIGNED = (
    "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/us-east-1/sts/aws4_request, "
    f"SignedHeaders=content-type;host;x-amz-date;{SERVER_ID.lower()}, Signature=00"
)


@pytest.fixture(scope="module")
def sts() -> Iterator[StubSTS]:
    with StubSTS(ARN) as stub:
        yield stub


@pytest.fixture
def mount(engine: DatabaseEngine, unique: Unique, sts: StubSTS) -> str:
    """The path of an auth method that asks `sts`, with a role ``app``."""
    admin, path = engine.admin, f"auth/{unique('cloud')}"
    admin.enable_auth("aws", path.removeprefix("auth/"))
    config = {
        "sts_endpoint": sts.address,
        "sts_region": "us-east-1",
        "iam_server_id_header_value": "vault.example",
    }
    admin.call("POST", f"{path}/config/client", config)
    for name, arn in (("app", ARN), ("other", f"{ARN}-2")):
        role = {
            "auth_type": "iam",
            "bound_iam_principal_arn": [arn],
            "resolve_aws_unique_ids": False,
            "token_ttl": 30,
        }
        admin.call("POST", f"{path}/role/{name}", role)
    return path


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def signed(
    server_id: str | None = "vault.example", call: str = CALL, **changed: object
) -> dict[str, object]:
    """Return a login's body; no server here looks at the signature."""
    headers = {
        "Content-Type": ["application/x-www-form-urlencoded; charset=utf-8"],
        "X-Amz-Date": ["20260101T000000Z"],
        "Authorization": [SIGNED],
    }
    if server_id is not None:
        headers[SERVER_ID] = [server_id]
    return {
        "role": "app",
        "iam_http_request_method": "POST",
        "iam_request_url": encoded(URL),
        "iam_request_body": encoded(call),
        "iam_request_headers": encoded(json.dumps(headers)),
    } | changed


def login(engine: DatabaseEngine, mount: str, body: dict[str, object]) -> VaultResponse:
    return engine.admin.request("POST", f"{mount}/login", body, token=NO_TOKEN)


def test_a_signed_request(engine: DatabaseEngine, mount: str, sts: StubSTS) -> None:
    answer = login(engine, mount, signed())
    assert answer.status == 200
    metadata = {"account_id": "str", "auth_type": "str", "role_id": "str"}
    assert shape(answer.body) == envelope(auth=AUTH | {"metadata": metadata})
    auth = answer.body["auth"]
    assert auth["metadata"]["account_id"] == "123456789012"
    assert (auth["lease_duration"], auth["policies"]) == (30, ["default"])
    token = engine.admin.request(
        "GET", "auth/token/lookup-self", token=Secret(auth["client_token"])
    )
    assert token.data["display_name"] == f"{mount.removeprefix('auth/')}-my-app"
    headers = sts.requests[-1].headers
    assert headers["authorization"] == SIGNED
    assert headers[SERVER_ID.lower()] == "vault.example"


def test_refusals(engine: DatabaseEngine, mount: str) -> None:
    server_id = f"error validating {SERVER_ID} header:"
    field = 'Field validation failed: error converting input for field "iam_request_headers":'
    assert [
        refusal(login(engine, mount, body))
        for body in (
            signed(None),
            signed("other.example"),
            signed(role="nobody"),
            signed(role=""),
            signed(role="other"),
            signed(call="Action=AssumeRole&Version=2011-06-15"),
            signed(iam_http_request_method=""),
            signed(iam_request_url=""),
            signed(iam_request_url="!!"),
            signed(iam_request_body=""),
            signed(iam_request_headers=""),
            signed(iam_request_headers=encoded("{}")),
            {},
        )
    ] == [
        (400, [why])
        for why in (
            f'{server_id} missing header "{SERVER_ID}"',
            f'{server_id} expected "vault.example" but got "other.example"',
            "entry for role nobody not found",
            "entry for role my-app not found",
            f'IAM Principal "{ARN}" does not belong to the role "other"',
            "iam request body is invalid",
            "missing iam_http_request_method",
            "missing iam_request_url",
            "failed to base64 decode iam_request_url",
            "missing iam_request_body which is required for POST requests",
            f"{field} 'data' being decoded is nil",
            "missing iam_request_headers",
            "didn't supply required authentication values",
        )
    ]
    answer = engine.admin.request("GET", f"{mount}/login", token=NO_TOKEN)
    assert refusal(answer) == (405, ["unsupported operation"])
