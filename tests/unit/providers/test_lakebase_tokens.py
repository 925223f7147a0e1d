"""Tokens of Databricks for Lakebase: requests, replies and errors."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import pytest

from ephemeral_creds import (
    AccessDenied,
    ConfigurationError,
    CredentialProvider,
    EphemeralCredsError,
    Event,
    LakebaseProvider,
    MalformedResponse,
    ProviderUnavailable,
    Secret,
)
from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.providers.url import provider_from_url
from ephemeral_creds.testing import ProviderContract
from lakebase_workspace import CLIENT, ENDPOINT, INSTANCE, LakebaseWorkspace
from rest_stub import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from canary import Canary
    from certificates import Authority

LOGIN, DATABASE, POSTGRES = (
    "/oidc/v1/token",
    "/api/2.0/database/credentials",
    "/api/2.0/postgres/credentials",
)


@pytest.fixture
def stub(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[LakebaseWorkspace]:
    with LakebaseWorkspace(authority.issue("localhost", server=True, ip="127.0.0.1")) as made:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.path))
        monkeypatch.setenv("DATABRICKS_HOST", made.host)  # without a scheme, as in an app
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT)
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", made.secret)
        yield made


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"DATABRICKS_{name}", raising=False)


class WorkspaceClient:
    """As that of databricks-sdk has it."""

    def __init__(self, host: str, headers: Callable[[], dict[str, str]]) -> None:
        self.host, self.authenticate = host, headers
        self.config = self


class TestServicePrincipal:
    @pytest.mark.parametrize(
        ("of", "path"), [({"instance": INSTANCE}, DATABASE), ({"endpoint": ENDPOINT}, POSTGRES)]
    )
    def test_its_token(self, stub: LakebaseWorkspace, of: dict[str, Any], path: str) -> None:
        provider = LakebaseProvider(**of)
        grants = provider.fetch(), provider.fetch()
        for grant in grants:
            assert grant.credentials.username == CLIENT
            assert stub.verify(CLIENT, grant.credentials.password.reveal()) == ""
            assert grant.credentials.requires_tls
            lease = grant.lease
            assert (lease.duration, lease.rotates_in, lease.is_token) == (math.inf, math.inf, True)
            assert 3580 <= lease.announced_duration <= 3600
        assert grants[0].credentials.password != grants[1].credentials.password
        assert [asked.what for asked in stub.requests] == [f"POST {LOGIN}", f"POST {path}"] * 2

    def test_each_request_is_reported(self, stub: LakebaseWorkspace) -> None:
        provider, events = LakebaseProvider(instance=INSTANCE), list[Event]()
        provider.observe(events.append)
        provider.fetch()
        stub.answer = lambda _: Answer(403, {"error": "access_denied"})
        with pytest.raises(AccessDenied):
            provider.fetch()
        requests = [each for each in events if isinstance(each, ProviderRequest)]
        assert [(each.operation, each.outcome, each.status) for each in requests] == [
            ("login", "done", 200), ("read", "done", 200), ("login", "refused", 403),
        ]  # fmt: skip
        assert {(each.role, each.address) for each in requests} == {(CLIENT, stub.address)}

    def test_its_description(self, stub: LakebaseWorkspace) -> None:
        assert LakebaseProvider("app", instance=INSTANCE).description == (
            f"tokens for 'app' from Databricks at {stub.address}, by client {CLIENT}, for "
            "instance 'my-instance'"
        )

    def test_a_secret_in_a_file_is_read_for_each_token(
        self, stub: LakebaseWorkspace, tmp_path: Path, canary: Canary
    ) -> None:
        path = tmp_path / "client-secret"
        canary.allow_secret_file(path)
        path.write_text(f"{stub.secret}\n")
        provider = LakebaseProvider(instance=INSTANCE, client_secret_file=path)
        provider.fetch()
        stub.secret += "0"
        with pytest.raises(AccessDenied):
            provider.fetch()
        path.write_text(stub.secret)
        provider.fetch()
        path.unlink()
        with pytest.raises(ConfigurationError, match="should hold the client secret, but it can"):
            provider.fetch()

    def test_a_wrong_secret(self, stub: LakebaseWorkspace) -> None:
        """Whose reply repeats what was sent: the message does not."""
        provider = LakebaseProvider(instance=INSTANCE, client_secret=Secret("not-the-secret"))
        said = rf"asked to log in client {CLIENT}, answered HTTP 401: invalid_client; check the cl"
        with pytest.raises(AccessDenied, match=said) as caught:
            provider.fetch()
        assert "Basic" not in str(caught.value)
        assert [asked.what for asked in stub.requests] == [f"POST {LOGIN}"]


class TestOtherLogins:
    def test_a_workspace_client(self, stub: LakebaseWorkspace, nothing_set: None) -> None:
        client = WorkspaceClient(
            stub.address, lambda: {"Authorization": f"Bearer {stub.access_token()}"}
        )
        provider = LakebaseProvider(CLIENT, instance=INSTANCE, workspace=client)
        assert "by WorkspaceClient, for instance" in provider.description
        assert stub.verify(CLIENT, provider.fetch().credentials.password.reveal()) == ""
        assert [asked.what for asked in stub.requests] == [f"POST {DATABASE}"]

    @pytest.mark.slow
    def test_one_of_databricks_sdk(
        self, stub: LakebaseWorkspace, nothing_set: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sdk = pytest.importorskip("databricks.sdk")
        monkeypatch.setenv("DATABRICKS_HOST", stub.address)
        monkeypatch.setenv("DATABRICKS_TOKEN", stub.access_token())
        monkeypatch.setenv("DATABRICKS_CONFIG_FILE", "/dev/null")
        provider = LakebaseProvider(CLIENT, endpoint=ENDPOINT, workspace=sdk.WorkspaceClient())
        assert stub.verify(CLIENT, provider.fetch().credentials.password.reveal()) == ""

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}])
    def test_a_workspace_client_without_a_token(
        self, stub: LakebaseWorkspace, headers: dict[str, str]
    ) -> None:
        client = WorkspaceClient(stub.address, lambda: headers)
        provider = LakebaseProvider(CLIENT, instance=INSTANCE, workspace=client)
        with pytest.raises(ConfigurationError, match=r"without a token, by (Basic|nothing)"):
            provider.fetch()

    def test_a_workspace_client_that_fails(self, stub: LakebaseWorkspace) -> None:
        def fail() -> dict[str, str]:
            raise ValueError("with-a-secret-in-it")

        client = WorkspaceClient(stub.address, fail)
        provider = LakebaseProvider(CLIENT, instance=INSTANCE, workspace=client)
        said = "WorkspaceClient of databricks-sdk: no token: ValueError at"
        with pytest.raises(ProviderUnavailable, match=said) as caught:
            provider.fetch()
        assert "with-a-secret-in-it" not in str(caught.value)

    def test_a_function(self, stub: LakebaseWorkspace) -> None:
        provider = LakebaseProvider(CLIENT, instance=INSTANCE, token=stub.access_token)
        assert stub.verify(CLIENT, provider.fetch().credentials.password.reveal()) == ""

    def test_a_function_whose_token_is_refused(self, stub: LakebaseWorkspace) -> None:
        provider = LakebaseProvider(CLIENT, instance=INSTANCE, token=lambda: "another-workspace's")
        with pytest.raises(AccessDenied, match=r"HTTP 401: UNAUTHENTICATED; the workspace does no"):
            provider.fetch()


@pytest.mark.parametrize(
    ("path", "reply", "error", "said"),
    [
        (LOGIN, Answer(503, "down"), ProviderUnavailable, "HTTP 503"),
        (LOGIN, Answer(200, {}), MalformedResponse, "gave no access_token"),
        (LOGIN, Answer(200, "<html>"), MalformedResponse, "HTTP 200 with a body of type"),
        (LOGIN, Answer(404, "<html>"), MalformedResponse, "HTTP 404 with a body of type"),
        (LOGIN, Answer(303, "", {"Location": "/login"}), MalformedResponse, "HTTP 303 with an em"),
        (LOGIN, Answer(400, {"error": "invalid_scope"}), AccessDenied, "invalid_scope; check the"),
        (
            DATABASE,
            Answer(403, {"error_code": "PERMISSION_DENIED", "message": "no\nright"}),
            AccessDenied,
            "HTTP 403: PERMISSION_DENIED: no right; allow the identity to use the instance",
        ),
        (DATABASE, Answer(403, "blocked"), AccessDenied, "HTTP 403; allow the identity"),
        (
            DATABASE,
            Answer(400, {"error_code": "FEATURE_DISABLED", "message": "not here"}),
            ConfigurationError,
            "HTTP 400: FEATURE_DISABLED: not here; check the address of the workspace and the na",
        ),
        (DATABASE, Answer(400, {"error_code": 400}), MalformedResponse, "HTTP 400 with a body"),
        (
            DATABASE,
            Answer(429, {"error_code": "RESOURCE_EXHAUSTED"}, {"Retry-After": "7"}),
            ProviderUnavailable,
            "HTTP 429: RESOURCE_EXHAUSTED",
        ),
        (DATABASE, Answer(500, "<html>"), ProviderUnavailable, "HTTP 500"),
        (DATABASE, Answer(200, {}), MalformedResponse, "a body without token or expiration_time"),
        (DATABASE, Answer(200, {"token": "x.y.z"}), MalformedResponse, "without token or exp"),
        (
            DATABASE,
            Answer(200, {"token": "x.y.z", "expiration_time": "soon"}),
            MalformedResponse,
            "without token or exp",
        ),
        (
            DATABASE,
            Answer(200, {"token": "x.y.z", "expiration_time": "2020-01-01T00:00:00"}),
            ProviderUnavailable,
            "the token had expired when it arrived",
        ),
    ],
)
def test_other_replies(
    stub: LakebaseWorkspace, path: str, reply: Answer, error: type[EphemeralCredsError], said: str
) -> None:
    stub.replies[path] = reply
    with pytest.raises(error, match=said) as caught:
        LakebaseProvider(instance=INSTANCE).fetch()
    assert stub.address in str(caught.value)
    assert getattr(caught.value, "retry_after", None) == (7.0 if reply.status == 429 else None)


@pytest.mark.parametrize("of", [{"instance": "other"}, {"endpoint": ENDPOINT.replace("y", "i")}])
def test_no_such_database(stub: LakebaseWorkspace, of: dict[str, Any]) -> None:
    said = rf"HTTP 404: NOT_FOUND: .* found\.?; check .* and the name of the {next(iter(of))}"
    with pytest.raises(ConfigurationError, match=said):
        LakebaseProvider(**of).fetch()


def test_fractions_of_a_second(stub: LakebaseWorkspace) -> None:
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 100)) + ".123456789Z"
    stub.replies[DATABASE] = Answer(200, {"token": "x.y.z", "expiration_time": end})
    lease = LakebaseProvider(instance=INSTANCE).fetch().lease
    assert 80 <= lease.announced_duration <= 101


def test_the_workspace_is_not_trusted(
    stub: LakebaseWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(ConfigurationError, match="certificate that cannot be trusted"):
        LakebaseProvider(instance=INSTANCE).fetch()
    assert stub.requests == []


@pytest.mark.usefixtures("nothing_set")
class TestArguments:
    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"instance": None}, "give instance=.* or endpoint=.*one of the two"),
            ({"endpoint": ENDPOINT}, "one of the two"),
            ({"instance": None, "endpoint": "primary"}, r"endpoint='primary'.* list-endpoints"),
            ({"client_secret": None}, "client_secret is missing: give it, or DATABRICKS_CLIENT_S"),
            ({"client_secret": ""}, "client_secret is empty"),
            ({"client_secret_file": "/x"}, "client_secret and client_secret_file contradict"),
            ({"client_id": None}, "client_id is missing: give it, or set DATABRICKS_CLIENT_ID"),
            ({"token": str}, "three ways to log in to the workspace: give one"),
            ({"address": None}, "the workspace is missing: give it, or set DATABRICKS_HOST"),
            ({"address": "http://dbc-1.example.com"}, "must begin with https://"),
        ],
    )
    def test_wrong_ones(self, wrong: dict[str, Any], said: str) -> None:
        right: dict[str, Any] = {
            "instance": INSTANCE,
            "client_id": CLIENT,
            "client_secret": Secret("the-client-secret"),
            "address": "https://dbc-1.cloud.databricks.com",
        }
        with pytest.raises(ConfigurationError, match=said):
            LakebaseProvider(**right | wrong)

    def test_a_function_has_no_name(self) -> None:
        with pytest.raises(ConfigurationError, match="must name the role of the identity"):
            LakebaseProvider(instance=INSTANCE, token=str, address="dbc-1.cloud.databricks.com")

    def test_a_url(self) -> None:
        environ = {
            "DATABRICKS_HOST": "dbc-1.cloud.databricks.com/",
            "DATABRICKS_CLIENT_ID": CLIENT,
            "DATABRICKS_CLIENT_SECRET": "the-client-secret",
            "OTHER": "another-client-secret",
        }
        provider = provider_from_url(f"lakebase://?endpoint={ENDPOINT}", environ=environ)
        assert type(provider) is LakebaseProvider
        assert provider.description == (
            f"tokens for '{CLIENT}' from Databricks at https://dbc-1.cloud.databricks.com, by "
            f"client {CLIENT}, for {ENDPOINT}"
        )
        url = "lakebase://app?instance=my-instance&client_id=me&client_secret_env=OTHER"
        provider = provider_from_url(f"{url}&address=dbc-2.cloud.databricks.com", environ=environ)
        assert provider.description == (
            "tokens for 'app' from Databricks at https://dbc-2.cloud.databricks.com, by client me, "
            "for instance 'my-instance'"
        )
        for wrong in ("lakebase://app/x?instance=y", "lakebase://app?instances=y"):
            with pytest.raises(ConfigurationError):
                provider_from_url(wrong, environ=environ)


class TestContract(ProviderContract):
    @pytest.fixture
    def known_secrets(self, stub: LakebaseWorkspace) -> Sequence[str]:
        return [stub.secret]

    @pytest.fixture
    def provider(self, stub: LakebaseWorkspace) -> CredentialProvider:
        return LakebaseProvider(instance=INSTANCE)

    @pytest.fixture
    def change(self, stub: LakebaseWorkspace) -> Callable[[], object]:
        return lambda: None  # each token is another

    @pytest.fixture
    def unavailable(self, stub: LakebaseWorkspace) -> CredentialProvider:
        stub.replies[LOGIN] = Answer(503, "down")
        return LakebaseProvider(instance=INSTANCE)

    @pytest.fixture
    def misconfigured(self, stub: LakebaseWorkspace) -> CredentialProvider:
        return LakebaseProvider(instance="another")

    @pytest.fixture
    def denied(self, stub: LakebaseWorkspace) -> CredentialProvider:
        return LakebaseProvider(instance=INSTANCE, client_secret=Secret("not-the-secret"))


def test_requests_have_what_the_reference_says(stub: LakebaseWorkspace) -> None:
    LakebaseProvider(instance=INSTANCE).fetch()
    login, generate = stub.requests
    assert login.headers["content-type"] == "application/x-www-form-urlencoded"
    assert generate.headers["content-type"] == "application/json"
    assert json.loads(generate.body).keys() == {"request_id", "instance_names"}
