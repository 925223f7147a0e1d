"""AWS Secrets Manager: what is asked of moto's, and what each of its replies becomes."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import (
    AccessDenied,
    ConfigurationError,
    Credentials,
    EphemeralCredsError,
    Event,
    Grant,
    MalformedResponse,
    ProviderUnavailable,
    RefreshPolicy,
    Secret,
    SecretsManagerProvider,
    provider_from_url,
)
from ephemeral_creds.events import ProviderRequest, SourceRecovered, SourceUnusable
from ephemeral_creds.lifecycle.actions import Fetch
from ephemeral_creds.lifecycle.machine import Lifecycle
from ephemeral_creds.lifecycle.signals import Granted, Start, Tick
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aws_secrets import AWSSecrets

    Make = Callable[..., SecretsManagerProvider]
    Unique = Callable[[str], str]

pytest.importorskip("moto", reason="moto, which is Secrets Manager here, is not installed")
pytest.importorskip("botocore", reason="botocore, the extra aws, is not installed")

# A request to moto takes about a tenth of a second.
pytestmark = pytest.mark.slow

READ, PREVIOUS, DESCRIBE = (
    "GetSecretValue AWSCURRENT",
    "GetSecretValue AWSPREVIOUS",
    "DescribeSecret",
)
ROTATED = {
    "engine": "postgres",
    "host": "db.example.com",
    "port": 5432,
    "dbname": "mydb",
    "masterarn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:admin-AbCdEf",
}


@pytest.fixture(scope="module")
def server() -> Iterator[AWSSecrets]:
    from aws_secrets import AWSSecrets

    with AWSSecrets() as server:
        yield server


@pytest.fixture
def aws(server: AWSSecrets, monkeypatch: pytest.MonkeyPatch) -> AWSSecrets:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-access-key")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", server.address)
    server.requests.clear()
    server.failures.clear()
    server.down = False
    server.on_request = lambda: None
    return server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def provider(clock: FakeClock) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(name: str, **arguments: object) -> SecretsManagerProvider:
            made = SecretsManagerProvider(name, clock=clock, **arguments)  # type: ignore[arg-type]
            return stack.enter_context(contextlib.closing(made))

        yield make


def login(number: int, user: str = "app") -> dict[str, object]:
    return {**ROTATED, "username": user, "password": f"aws-password-{number}"}


def password(grant: Grant) -> str:
    return grant.credentials.password.reveal()


# --- what is read -------------------------------------------------------------------------------


def test_a_secret_of_the_rotation_templates_is_read(
    aws: AWSSecrets, provider: Make, unique: Unique
) -> None:
    version = aws.create(name := unique("read"), login(1))
    grant = provider(name).fetch()
    assert grant.credentials == Credentials("app", Secret("aws-password-1"))
    assert grant.origin == version
    lease = grant.lease
    assert (lease.duration, lease.lease_id, lease.ask_again_in) == (math.inf, "", 60.0)
    assert (lease.rotates_in, lease.announced_duration) == (math.inf, math.inf)
    assert aws.requests == [READ, DESCRIBE]
    assert "/eu-central-1/secretsmanager/aws4_request" in aws.headers["AUTHORIZATION"]


def test_the_version_that_is_pending_is_never_asked_for(
    aws: AWSSecrets, provider: Make, unique: Unique
) -> None:
    aws.create(name := unique("pending"), login(1))
    reader = provider(name)
    version = aws.put(name, login(2), "AWSPENDING")
    assert password(reader.fetch()) == "aws-password-1"
    aws.finish(name, version)
    assert password(reader.fetch()) == "aws-password-2"
    assert not any("PENDING" in asked for asked in aws.requests)


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        ({"user": "app", "pw": "aws-password-1"}, {"fields": {"password": "pw"}}),
        ("aws-password-1", {"username": "app"}),
        ('{"brace"', {"username": "app", "format": "password"}),
        ({"uri": "postgresql://app:aws-password-1@db/mydb"}, {}),
    ],
)
def test_other_shapes(
    aws: AWSSecrets,
    provider: Make,
    unique: Unique,
    value: object,
    arguments: dict[str, object],
) -> None:
    aws.create(name := unique("shape"), value)
    assert provider(name, **arguments).fetch().credentials.username == "app"


def test_by_url(aws: AWSSecrets, unique: Unique) -> None:
    aws.create(name := f"prod/{unique('url')}", {"u": "app", "p": "aws-password-1"})
    url = f"aws-secret://{name}?region=eu-central-1&username_field=u&password_field=p"
    url += f"&poll_interval=20&endpoint={aws.address}"
    with contextlib.closing(provider_from_url(url)) as made:
        assert made.description == f"secret '{name}' in AWS Secrets Manager, eu-central-1"
        assert made.fetch().lease.ask_again_in == 20.0


def test_by_arn(aws: AWSSecrets, provider: Make, unique: Unique) -> None:
    aws.create(name := unique("arn"), login(1))
    arn = aws.call("DescribeSecret", SecretId=name)["ARN"]
    assert password(provider(arn).fetch()) == "aws-password-1"
    with contextlib.closing(provider_from_url(f"aws-secret://{arn}")) as made:
        assert made.fetch().credentials.username == "app"
    with pytest.raises(ConfigurationError, match="not that of the ARN, eu-central-1"):
        provider(arn, region="us-east-1")


class _Session:
    region_name = "eu-west-3"

    def get_credentials(self) -> object:
        from botocore.credentials import Credentials as Keys

        return Keys("AKIASESSION", "aws-session-secret-key", "aws-session-token")


def test_a_session_of_the_users(aws: AWSSecrets, provider: Make, unique: Unique) -> None:
    made = provider(unique("session"), session=_Session())
    with pytest.raises(ConfigurationError, match="the region eu-west-3"):
        made.fetch()
    assert "Credential=AKIASESSION/" in aws.headers["AUTHORIZATION"]
    assert "/eu-west-3/secretsmanager/" in aws.headers["AUTHORIZATION"]
    assert aws.headers["X-AMZ-SECURITY-TOKEN"] == "aws-session-token"


def test_endpoints_of_the_regions(
    aws: AWSSecrets,
    provider: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_SECRETS_MANAGER")
    for region, host in (
        ("eu-central-1", "secretsmanager.eu-central-1.amazonaws.com"),
        ("cn-north-1", "secretsmanager.cn-north-1.amazonaws.com.cn"),
    ):
        assert provider("app", region=region)._url == f"https://{host}/"
    with pytest.raises(ConfigurationError, match="endpoint= must begin with https://"):
        provider("app", endpoint="http://vpce.example.com")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("a b", {}, "cannot be the name of a secret"),
        ("", {}, "cannot be the name of a secret"),
        ("app", {"poll_interval": 0}, "poll_interval has to be > 0"),
        ("app", {"region": "nowhere"}, "no AWS region 'nowhere'"),
        ("app", {"format": "password"}, "has no user name"),
    ],
)
def test_arguments_that_cannot_be_right(
    aws: AWSSecrets,
    provider: Make,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: dict[str, object],
    message: str,
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_SECRETS_MANAGER")
    with pytest.raises(ConfigurationError, match=message):
        provider(name, **arguments)


def test_no_region(
    aws: AWSSecrets,
    provider: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ConfigurationError, match="region is not known: set region=, AWS_REGION"):
        provider("app")


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said", "error", "text"),
    [
        ("ThrottlingException", "Rate exceeded", ProviderUnavailable, "Rate exceeded"),
        ("InternalServiceError", "oops", ProviderUnavailable, "oops"),
        ("AccessDeniedException", "User: x is not authorized", AccessDenied,
         "allow secretsmanager:GetSecretValue on this secret"),
        ("AccessDeniedException", "Access to KMS is not allowed", AccessDenied,
         "allow kms:Decrypt on its KMS key"),
        ("DecryptionFailure", "cannot decrypt", ConfigurationError, "KMS key is enabled"),
        ("ResourceNotFoundException", "no secret value for staging label: AWSCURRENT",
         ConfigurationError, "has no value yet"),
        ("InvalidRequestException", "it was marked for deletion", ConfigurationError,
         "aws secretsmanager restore-secret --region eu-central-1 --secret-id app"),
        ("com.amazon.coral.service#UnrecognizedClientException", "invalid token", AccessDenied,
         "aws sts get-caller-identity"),
        ("ExpiredTokenException", "expired", AccessDenied, "AWS credentials of this process"),
        ("InvalidSignatureException", "Signature expired: 2026 is now earlier", AccessDenied,
         "check this machine's clock"),
        ("ValidationException", "no", ConfigurationError, "check the name of the secret"),
    ],
)  # fmt: skip
def test_each_refusal_says_what_to_do(
    aws: AWSSecrets,
    provider: Make,
    code: str,
    said: str,
    error: type[EphemeralCredsError],
    text: str,
) -> None:
    aws.fail("GetSecretValue", code, said)
    with pytest.raises(error, match=text) as caught:
        provider("app").fetch()
    message = str(caught.value)
    assert message.startswith(f"Secrets Manager at {aws.address}, asked for AWSCURRENT of secret")
    assert said in message
    assert caught.value.__context__ is None


def test_a_secret_that_does_not_exist_or_is_deleted(
    aws: AWSSecrets, provider: Make, unique: Unique
) -> None:
    with pytest.raises(ConfigurationError, match="check the name, the region eu-central-1"):
        provider(unique("nothing")).fetch()
    aws.create(name := unique("deleted"), login(1))
    aws.call("DeleteSecret", SecretId=name, RecoveryWindowInDays=7)
    with pytest.raises(ConfigurationError, match=f"restore-secret .* --secret-id {name}"):
        provider(name).fetch()
    aws.call("RestoreSecret", SecretId=name)
    assert provider(name).fetch().credentials.username == "app"


def test_a_binary_secret(aws: AWSSecrets, provider: Make, unique: Unique) -> None:
    aws.call("CreateSecret", Name=(name := unique("binary")), SecretBinary="YmluYXJ5")
    with pytest.raises(ConfigurationError, match="is binary: write it as text"):
        provider(name).fetch()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('{"username": "app"', "is not a JSON object"),
        ({"username": "app"}, "PASSWORD is missing"),
        ({"username": "app", "password": 12345678}, "PASSWORD is a number"),
        ("aws-password-only", "give the user name as username="),
    ],
)
def test_a_secret_without_credentials(
    aws: AWSSecrets,
    provider: Make,
    unique: Unique,
    value: object,
    text: str,
) -> None:
    aws.create(name := unique("wrong"), value)
    with pytest.raises(ConfigurationError, match=text) as caught:
        provider(name).fetch()
    assert str(caught.value).startswith(f"secret '{name}' in AWS Secrets Manager, eu-central-1: ")
    frames = caught.tb.tb_next  # without this one, which made the secret
    shown = "".join(
        traceback.StackSummary.extract(traceback.walk_tb(frames), capture_locals=True).format()
    )
    assert "outcome" in shown
    assert "aws-password-only" not in shown
    assert "12345678" not in shown


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        ((503, "down"), ProviderUnavailable, "answered HTTP 503"),
        ((200, "<html>"), MalformedResponse, "answered HTTP 200 with a body of type"),
        ((403, "<html>"), MalformedResponse, "any proxy in between"),
        ((200, {}), MalformedResponse, "no version or no text"),
    ],
)
def test_something_else_answers(
    aws: AWSSecrets,
    provider: Make,
    reply: tuple[int, object],
    error: type[Exception],
    text: str,
) -> None:
    from collections import deque

    aws.failures["GetSecretValue"] = deque([reply])
    with pytest.raises(error, match=text):
        provider("app").fetch()


def test_nothing_answers(aws: AWSSecrets, provider: Make) -> None:
    with pytest.raises(ProviderUnavailable, match="Connection refused; check the region, the end"):
        provider("app", endpoint="http://127.0.0.1:1").fetch()


def test_no_aws_credentials(
    aws: AWSSecrets,
    provider: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    made = provider("app")
    with pytest.raises(ConfigurationError, match=r"'app' in AWS .* no AWS credentials were found"):
        made.fetch()
    assert aws.requests == []
    # They are looked for each time.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    with pytest.raises(ConfigurationError, match="ResourceNotFoundException"):
        made.fetch()


# --- versions -----------------------------------------------------------------------------------


class TestPrevious:
    """The previous version, while PostgreSQL refuses the current one."""

    @pytest.fixture
    def name(self, aws: AWSSecrets, unique: Unique) -> str:
        aws.create(name := unique("previous"), login(1))
        aws.put(name, login(2))
        return name

    def test_it_is_used_while_it_helps(self, aws: AWSSecrets, provider: Make, name: str) -> None:
        reader, events = provider(name), list[Event]()
        reader.observe(events.append)
        current = reader.fetch()
        previous = reader.fetch_instead(current)
        assert [password(current), password(previous)] == ["aws-password-2", "aws-password-1"]
        # Polls stay with it.
        assert password(reader.fetch()) == "aws-password-1"
        # Until it is refused, too: from then on the current one is, whatever comes.
        assert password(reader.fetch_instead(previous)) == "aws-password-2"
        assert password(reader.fetch_instead(current)) == "aws-password-2"
        changes = [each for each in events if not isinstance(each, ProviderRequest)]
        assert [type(each) for each in changes] == [SourceUnusable, SourceRecovered]
        assert "PostgreSQL refuses AWSCURRENT" in str(changes[0])

    def test_another_version_ends_it(self, aws: AWSSecrets, provider: Make, name: str) -> None:
        reader = provider(name)
        assert password(reader.fetch_instead(reader.fetch())) == "aws-password-1"
        aws.put(name, login(3))
        assert password(reader.fetch()) == "aws-password-3"
        assert password(reader.fetch_instead(reader.fetch())) == "aws-password-2"

    def test_there_is_none(
        self, aws: AWSSecrets, provider: Make,
        unique: Unique,
    ) -> None:  # fmt: skip
        aws.create(name := unique("first"), login(1))
        reader = provider(name)
        assert password(reader.fetch_instead(reader.fetch())) == "aws-password-1"

    def test_it_has_the_same_credentials(
        self, aws: AWSSecrets, provider: Make,
        unique: Unique,
    ) -> None:  # fmt: skip
        aws.create(name := unique("same"), login(1))
        aws.put(name, login(1) | {"port": 5433})
        reader = provider(name)
        assert reader.fetch_instead(current := reader.fetch()).origin == current.origin

    def test_it_is_not_asked_for_without_a_refusal(
        self, aws: AWSSecrets, provider: Make, name: str
    ) -> None:
        reader = provider(name)
        reader.fetch()
        reader.fetch()
        assert PREVIOUS not in aws.requests


class TestNextRotation:
    """The date of the next rotation: an announcement, which may not be known."""

    def described(self, aws: AWSSecrets, date: object) -> None:
        from collections import deque

        aws.failures.setdefault("DescribeSecret", deque()).append((200, {"NextRotationDate": date}))

    def test_it_is_an_announcement(
        self, aws: AWSSecrets, provider: Make,
        unique: Unique,
    ) -> None:  # fmt: skip
        aws.create(name := unique("next"), login(1))
        self.described(aws, time.time() + 3600.5)
        reader = provider(name)
        lease = reader.fetch().lease
        assert lease.duration == math.inf
        assert 3590 < lease.rotates_in <= 3600.5  # type: ignore[operator]
        assert lease.announced_duration == lease.rotates_in
        # It is asked for once in the life of a version.
        reader.fetch()
        assert aws.requests == [READ, DESCRIBE, READ]
        aws.put(name, login(2))
        reader.fetch()
        assert aws.requests[3:] == [READ, DESCRIBE]

    def test_one_that_is_late_is_asked_for_again(
        self, aws: AWSSecrets, provider: Make,
        unique: Unique,
    ) -> None:  # fmt: skip
        aws.create(name := unique("late"), login(1))
        self.described(aws, time.time() - 10)
        reader = provider(name)
        assert reader.fetch().lease.rotates_in == math.inf
        self.described(aws, time.time() + 100)
        assert reader.fetch().lease.rotates_in != math.inf

    def test_it_is_asked_for_again_after_a_failure_that_may_pass(
        self, aws: AWSSecrets, provider: Make, unique: Unique
    ) -> None:
        aws.create(name := unique("throttled"), login(1))
        aws.fail("DescribeSecret", "ThrottlingException", "Rate exceeded")
        reader = provider(name)
        assert reader.fetch().lease.rotates_in == math.inf
        self.described(aws, time.time() + 100)
        assert reader.fetch().lease.rotates_in != math.inf

    def test_the_right_to_know_it_is_not_needed(
        self, aws: AWSSecrets, provider: Make,
        unique: Unique,
    ) -> None:  # fmt: skip
        aws.create(name := unique("denied"), login(1))
        aws.fail("DescribeSecret", "AccessDeniedException", "no")
        reader = provider(name)
        assert reader.fetch().lease.rotates_in == math.inf
        reader.fetch()
        assert aws.requests == [READ, DESCRIBE, READ]


def test_an_hour_costs_so_many_requests(
    aws: AWSSecrets,
    provider: Make,
    clock: FakeClock,
    unique: Unique,
) -> None:
    """One a minute, by the lifecycle's own timers; with the most jitter 67."""
    aws.create(name := unique("hour"), login(1))
    reader, asked = provider(name), []
    for draw in (0.0, 1.0):
        aws.requests.clear()
        machine = Lifecycle(RefreshPolicy(), mints=False, draw=lambda: draw)  # noqa: B023
        machine.join(1)
        started, actions = clock.now(), machine.handle(Start(), clock.now())
        while clock.now() < started + 3600:
            if Fetch() in actions:
                actions = machine.handle(Granted(reader.fetch()), clock.now())
                continue
            clock.advance(machine.deadline - clock.now())
            actions = machine.handle(Tick(), clock.now())
        asked.append(aws.requests.count(READ))
    assert asked == [60, 67]
    assert aws.requests.count(DESCRIBE) == 0


# --- secrets, forks, events ---------------------------------------------------------------------


def test_a_service_that_is_slow_is_asked_once(
    aws: AWSSecrets, provider: Make, clock: FakeClock, unique: Unique
) -> None:
    """When the secret is rotated, and what it was before, can wait for the next read."""
    aws.create(name := unique("slow"), login(1))
    aws.put(name, login(2))
    reader = provider(name)
    aws.on_request = lambda: clock.advance(21.0)
    current = reader.fetch()
    assert password(reader.fetch_instead(current)) == "aws-password-2"
    assert aws.requests == ["GetSecretValue AWSCURRENT"] * 2
    aws.on_request = lambda: None
    assert password(reader.fetch_instead(current)) == "aws-password-1"
    assert aws.requests[2:] == [
        "GetSecretValue AWSCURRENT", "DescribeSecret", "GetSecretValue AWSPREVIOUS",
    ]  # fmt: skip


def test_each_request_is_reported(aws: AWSSecrets, provider: Make, unique: Unique) -> None:
    aws.create(name := unique("events"), login(1))
    reader, events = provider(name), list[Event]()
    reader.observe(events.append)
    reader.fetch()
    aws.fail("GetSecretValue", "AccessDeniedException", "no")
    with pytest.raises(AccessDenied):
        reader.fetch()
    requests = [each for each in events if isinstance(each, ProviderRequest)]
    assert [(each.operation, each.outcome, each.status) for each in requests] == [
        ("read", "done", 200), ("describe", "done", 200), ("read", "refused", 400),
    ]  # fmt: skip
    assert {each.role for each in requests} == {name}
    assert {each.address for each in requests} == {aws.address}


def test_it_shows_and_pickles_no_secret(aws: AWSSecrets, provider: Make, unique: Unique) -> None:
    aws.create(name := unique("shown"), login(1))
    reader = provider(name)
    grant = reader.fetch()
    assert "aws-password-1" not in repr((reader, grant, vars(reader)))
    with pytest.raises(TypeError, match="send its settings"):
        pickle.dumps(reader)


def test_a_fork_has_connections_of_its_own(aws: AWSSecrets, provider: Make, unique: Unique) -> None:
    aws.create(name := unique("fork"), login(1))
    reader = provider(name)
    reader.fetch()
    before = reader._client
    reader._after_fork()
    assert reader._client is not before
    assert reader._own_session is None
    before.close()
    assert reader.fetch().credentials.username == "app"
