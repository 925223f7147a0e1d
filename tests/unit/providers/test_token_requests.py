"""How many requests the sources of tokens get in an hour, counted there.

By the lifecycle's own timers and a clock that is moved; without jitter and with all of it. What
docs/how-to/database-tokens.md says.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import (
    AlloyDBIAMProvider,
    AuroraDSQLProvider,
    CloudSQLIAMProvider,
    EntraProvider,
    LakebaseProvider,
    RDSIAMProvider,
    RefreshPolicy,
    TokenProvider,
)
from ephemeral_creds.lifecycle.actions import Fetch
from ephemeral_creds.lifecycle.machine import Lifecycle
from ephemeral_creds.lifecycle.signals import Granted, Start, Tick
from ephemeral_creds.testing import FakeClock
from lakebase_workspace import CLIENT as SERVICE_PRINCIPAL
from lakebase_workspace import INSTANCE, LakebaseWorkspace
from platforms import Platform, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from canary import Canary
    from certificates import Authority
    from ephemeral_creds import CredentialProvider

HOURS = 24

pytestmark = pytest.mark.slow


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def per_hour(
    provider: CredentialProvider, clock: FakeClock, asked: Sequence[object], hours: int = HOURS
) -> tuple[float, float]:
    """Return how many requests there were in an hour without jitter, and with all of it."""
    found = []
    for draw in (0.0, 1.0):
        before = len(asked)
        machine = Lifecycle(RefreshPolicy(), mints=False, draw=lambda: draw)  # noqa: B023
        machine.join(1)
        started, actions = clock.now(), machine.handle(Start(), clock.now())
        while clock.now() < started + hours * 3600:
            if Fetch() in actions:
                actions = machine.handle(Granted(provider.fetch()), clock.now())
                continue
            clock.advance(machine.deadline - clock.now())
            actions = machine.handle(Tick(), clock.now())
        found.append((len(asked) - before) / hours)
    return found[0], found[1]


@pytest.fixture
def platform(clock: FakeClock, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Platform:
    made = stack.enter_context(machine(monkeypatch))
    made.now = clock.now
    return made


@pytest.mark.parametrize("kind", [CloudSQLIAMProvider, AlloyDBIAMProvider])
def test_google_cloud(
    platform: Platform, clock: FakeClock, kind: type[CloudSQLIAMProvider]
) -> None:
    platform.repeats_until = 300.0
    found = per_hour(kind("app", clock=clock), clock, platform.asked)
    assert found == pytest.approx((3.1, 3.2), abs=0.1)


def test_a_managed_identity_of_azure(platform: Platform, clock: FakeClock) -> None:
    platform.life, platform.repeats_until = 86400.0, 43200.0
    found = per_hour(EntraProvider("app", clock=clock), clock, platform.asked, 10 * HOURS)
    assert max(found) <= 0.2


def test_a_workload_identity_of_azure(
    authority: Authority,
    stack: ExitStack,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    canary: Canary,
) -> None:
    entra = stack.enter_context(Platform(authority.issue("localhost", server=True, ip="127.0.0.1")))
    path = tmp_path / "token"
    canary.allow_secret_file(path)
    for name, value in entra.workload_identity(path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.path))
    found = per_hour(EntraProvider("app", clock=clock), clock, entra.asked)
    assert found == pytest.approx((1.5, 1.67), abs=0.1)


def test_lakebase(
    authority: Authority, stack: ExitStack, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = authority.issue("localhost", server=True, ip="127.0.0.1")
    workspace = stack.enter_context(LakebaseWorkspace(issued))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.path))
    provider = LakebaseProvider(
        instance=INSTANCE,
        client_id=SERVICE_PRINCIPAL,
        client_secret=workspace.secret,
        address=workspace.address,
        clock=clock,
    )
    found = per_hour(provider, clock, workspace.requests)
    assert found == pytest.approx((3.0, 3.33), abs=0.2)


@pytest.mark.parametrize("kind", [RDSIAMProvider, AuroraDSQLProvider])
def test_aws_credentials(
    clock: FakeClock, kind: Callable[..., RDSIAMProvider | AuroraDSQLProvider]
) -> None:
    """A token is no request; these are the questions to botocore's session."""
    credentials = pytest.importorskip("botocore.credentials")
    found = credentials.Credentials("AKIAEXAMPLE", "-".join(["an", "aws", "secret", "key"]))
    asked: list[None] = []

    class Session:
        def get_credentials(self) -> object:
            asked.append(None)
            return found

    provider = kind("app", "abc123.example.com", region="us-east-1", session=Session(), clock=clock)
    assert per_hour(provider, clock, asked) == pytest.approx((6.0, 6.67), abs=0.2)


def test_a_function_whose_cache_keeps_tokens_to_their_end(clock: FakeClock) -> None:
    asked: list[None] = []

    def token() -> tuple[str, float]:
        asked.append(None)
        # Of the hour that it is, and by the time of this machine, which does not move.
        hour, gone = divmod(clock.now(), 3600.0)
        return f"the-token-of-hour-{hour:.0f}", time.time() + 3600.0 - gone

    found = per_hour(TokenProvider("app", token, clock=clock), clock, asked)
    assert found == pytest.approx((11.0, 12.0), abs=0.2)
