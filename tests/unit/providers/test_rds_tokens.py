"""Signed tokens of Amazon RDS and DSQL: what is signed, for which region, with which keys."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ephemeral_creds import (
    AuroraDSQLProvider,
    ConfigurationError,
    Event,
    ProviderUnavailable,
    RDSIAMProvider,
)
from ephemeral_creds.providers.aws import find_region
from ephemeral_creds.providers.url import provider_from_url
from token_server import AWSKeys

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds import CredentialProvider

botocore_session = pytest.importorskip("botocore.session")

HOST = "mydb.abc123.eu-central-1.rds.amazonaws.com"
KEY, SECRET = "AKIAEXAMPLE", "-".join(["aws", "secret", "key", "7Q"])
SESSION_TOKEN = "-".join(["aws", "session", "token/+=", "7Q"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def server(endpoint: str = f"{HOST}:5432", session: str = "") -> AWSKeys:
    return AWSKeys(
        "rds-db", endpoint, "eu-central-1", ("connect",), secrets={KEY: (SECRET, session)}
    )


def token_of(provider: CredentialProvider) -> str:
    return provider.fetch().credentials.password.reveal()


class Keys:
    """AWS credentials as an assumed role has them, by botocore's own class."""

    def __init__(self, seconds: float) -> None:
        self.ends = datetime.now(UTC) + timedelta(seconds=seconds)

    def get_credentials(self) -> Any:
        credentials = pytest.importorskip("botocore.credentials")
        return credentials.RefreshableCredentials(
            *(KEY, SECRET, None, self.ends, self._refresh, "assume-role"),
            advisory_timeout=0,
            mandatory_timeout=0,
        )

    def _refresh(self) -> dict[str, str]:
        raise OSError(SECRET)


class TestSignature:
    @pytest.mark.parametrize("session", ["", SESSION_TOKEN])
    @pytest.mark.parametrize("user", ["app_user", "App User/ä"])
    def test_a_token_is_what_the_server_verifies(
        self, monkeypatch: pytest.MonkeyPatch, session: str, user: str
    ) -> None:
        if session:
            monkeypatch.setenv("AWS_SESSION_TOKEN", session)
        token = token_of(RDSIAMProvider(user, HOST))
        assert server(session=session).verify(user, token) == ""
        assert token.startswith(f"{HOST}:5432/?Action=connect&DBUser=")

    @pytest.mark.slow
    def test_it_is_what_botocore_itself_makes(self) -> None:
        client = botocore_session.Session().create_client("rds", region_name="eu-central-1")
        provider = RDSIAMProvider("app_user", HOST, 6543)
        for _ in range(3):
            theirs = client.generate_db_auth_token(HOST, 6543, "app_user")
            if theirs == token_of(provider):
                break  # in the same second
        else:
            pytest.fail("another token than botocore's")

    def test_a_wrong_one_is_refused_by_the_server_of_these_tests(self) -> None:
        token = token_of(RDSIAMProvider("app_user", HOST))
        keys = server()
        assert keys.verify("other", token) == "it is to connect as app_user"
        assert server(f"{HOST}:5433").verify("app_user", token) == f"it is for {HOST}:5432"
        assert server(session="x").verify("app_user", token) == "it has another session token"
        changed = token[:-1] + ("0" if token[-1] != "0" else "1")
        assert keys.verify("app_user", changed) == "its signature is wrong"
        keys.lifetime = -2.0
        assert keys.verify("app_user", token).endswith(" s old")
        keys.secrets[KEY] = ("another", "")
        keys.lifetime = 900.0
        assert keys.verify("app_user", token) == "its signature is wrong"
        keys.secrets.clear()
        assert keys.verify("app_user", token) == "it is signed with an unknown key"

    def test_no_log_has_what_a_token_is_made_of(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            token = token_of(RDSIAMProvider("app_user", HOST))
        signature = token.partition("X-Amz-Signature=")[2]
        assert len(signature) == 64
        assert signature not in caplog.text
        assert "CanonicalRequest" not in caplog.text

    def test_it_is_no_request_and_no_event(self) -> None:
        provider, events = RDSIAMProvider("app_user", HOST), list[Event]()
        provider.observe(events.append)
        provider.fetch()
        assert events == []

    def test_each_of_several_endpoints_has_its_own(self) -> None:
        other = f"reader.{HOST}"
        grant = RDSIAMProvider("app_user", [HOST, f"{other}:5433"]).fetch()
        (first, one), (second, two) = grant.credentials.passwords
        assert (first, second) == (f"{HOST}:5432", f"{other}:5433")
        assert server(first).verify("app_user", one.reveal()) == ""
        assert server(second).verify("app_user", two.reveal()) == ""
        assert grant.credentials.password == one


class TestLife:
    def test_a_token_lives_fifteen_minutes(self) -> None:
        lease = RDSIAMProvider("app_user", HOST).fetch().lease
        assert (lease.announced_duration, lease.rotates_in) == (900.0, math.inf)

    def test_or_as_long_as_the_aws_credentials(self) -> None:
        lease = RDSIAMProvider("app_user", HOST, session=Keys(300)).fetch().lease
        assert 290 <= lease.announced_duration <= 300
        lease = RDSIAMProvider("app_user", HOST, session=Keys(86400)).fetch().lease
        assert lease.announced_duration == 900.0

    def test_credentials_of_the_environment_are_looked_up_for_each_token(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider = RDSIAMProvider("app_user", HOST)
        assert f"Credential={KEY}%2F" in token_of(provider)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
        assert "Credential=AKIAOTHER%2F" in token_of(provider)


class TestRegion:
    @pytest.mark.parametrize(
        ("host", "region"),
        [
            (HOST, "eu-central-1"),
            ("app.proxy-abc.us-east-1.rds.amazonaws.com", "us-east-1"),
            ("my-db-1.cluster-ro-abc.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
            ("mydb.abc.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("mydb.abc.eu-isoe-west-1.rds.cloud.adc-e.uk", "eu-isoe-west-1"),
            ("my-db-1.example.com", None),
        ],
    )
    def test_it_is_in_the_name_of_an_endpoint(self, host: str, region: str | None) -> None:
        assert find_region(host, "rds", None) == region

    def test_else_in_the_configuration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigurationError, match=r"region of db.example.com:5432 .*region="):
            RDSIAMProvider("app_user", "db.example.com")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        assert "%2Feu-west-1%2F" in token_of(RDSIAMProvider("app_user", "db.example.com"))
        named = RDSIAMProvider("app_user", "db.example.com", region="eu-west-2")
        assert "%2Feu-west-2%2F" in token_of(named)


class TestDSQL:
    HOST = "abc123.dsql.us-east-1.on.aws"

    def keys(self, action: str) -> AWSKeys:
        return AWSKeys("dsql", self.HOST, "us-east-1", (action,), secrets={KEY: (SECRET, "")})

    @pytest.mark.parametrize(
        ("user", "action"), [("app_user", "DbConnect"), ("admin", "DbConnectAdmin")]
    )
    def test_a_token_is_for_the_cluster(self, user: str, action: str) -> None:
        grant = provider_from_url(f"dsql://{user}?host={self.HOST}").fetch()
        token = grant.credentials.password.reveal()
        assert self.keys(action).verify(user, token) == ""
        assert (grant.credentials.username, grant.credentials.requires_tls) == (user, True)
        assert (grant.lease.announced_duration, grant.lease.is_token) == (900.0, True)

    @pytest.mark.slow
    def test_it_is_what_botocore_itself_makes(self) -> None:
        session = botocore_session.Session()
        if "dsql" not in session.get_available_services():
            pytest.skip("this botocore does not know DSQL")
        client = session.create_client("dsql", region_name="us-east-1")
        provider = AuroraDSQLProvider("app_user", self.HOST)
        for _ in range(3):
            if client.generate_db_connect_auth_token(self.HOST) == token_of(provider):
                break  # in the same second
        else:
            pytest.fail("another token than botocore's")


class TestErrors:
    def test_no_aws_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_keys(monkeypatch)
        said = r"no AWS credentials were found \(searched: env, assume-role, .*iam-role\)"
        with pytest.raises(ConfigurationError, match=said):
            RDSIAMProvider("app_user", HOST).fetch()

    def test_no_such_profile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        provider = RDSIAMProvider("app_user", HOST)
        without_keys(monkeypatch)
        monkeypatch.setenv("AWS_PROFILE", "nothing")
        with pytest.raises(ConfigurationError, match=r"profile \(nothing\) could not be found"):
            provider.fetch()

    def test_half_of_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ConfigurationError, match="missing: AWS_SECRET_ACCESS_KEY"):
            RDSIAMProvider("app_user", HOST).fetch()

    def test_expired_credentials_that_cannot_be_refreshed(self) -> None:
        with pytest.raises(ProviderUnavailable, match=r"AWS credentials: OSError at") as caught:
            RDSIAMProvider("app_user", HOST, session=Keys(-1)).fetch()
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("host", ["", "/var/run/postgresql", "db:port", "db@x", []])
    def test_a_host_that_is_no_endpoint(self, host: str) -> None:
        with pytest.raises(ConfigurationError, match="endpoint"):
            RDSIAMProvider("app_user", host)


class TestURL:
    def test_everything(self) -> None:
        url = f"rds-iam://app_user?host={HOST},reader.{HOST}&port=6543&require_tls=false"
        provider = provider_from_url(url)
        assert isinstance(provider, RDSIAMProvider)
        assert provider.description == (
            f"tokens for 'app_user' from AWS credentials, for {HOST}:6543, reader.{HOST}:6543 in "
            "eu-central-1"
        )
        assert not provider.fetch().credentials.requires_tls

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            (f"rds-iam://?host={HOST}", r"the role .* rds-iam://ROLE\?KEY="),
            ("rds-iam://app_user", "host= is missing"),
            (f"rds-iam://app_user?host={HOST}&regoin=x", "did you mean 'region'"),
            (f"rds-iam://app_user?host={HOST}&port=x", "port=x"),
        ],
    )
    def test_wrong_ones(self, url: str, said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            provider_from_url(url)
