"""Replies that are not valid: endless, slow, cut off, of another protocol, or of another time.

Together with the table in test_vault_transport, this is docs/reference/answers.md.
"""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from raw_server import RawServer, head
from stub_vault import CREDS, SECRET_ID, Fault, Reply, StubVault, errors
from test_vault_transport import ANSWERS

from ephemeral_creds import CredentialKeeper, RefreshPolicy
from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.vault import AppRoleAuth, VaultConfig, VaultDynamicProvider

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ephemeral_creds import Event
    from ephemeral_creds.testing import FakeClock

ROOT = Path(__file__).parents[4]
MEGABYTE = b" " * 1024 * 1024


def asked_of(address: str, **changed: object) -> tuple[EphemeralCredsError, ProviderRequest]:
    """Return the error of a login, and the event."""
    config = VaultConfig(address, connect_timeout=5, read_timeout=5, revoke_timeout=5)
    provider = VaultDynamicProvider(
        "app",
        auth=AppRoleAuth("role-id", SECRET_ID),
        config=replace(config, **changed),  # type: ignore[arg-type]
    )
    seen: list[Event] = []
    provider.observe(seen.append)
    with pytest.raises(EphemeralCredsError) as caught:
        provider.fetch()
    provider.close()
    (event,) = seen
    assert isinstance(event, ProviderRequest)
    return caught.value, event


CUT = b'{"auth": {"client_token": "x'

RAW: dict[str, tuple[Iterable[bytes], type[EphemeralCredsError], str]] = {
    "cut by length": ([head(500), CUT], MalformedResponse, "broke off in the middle"),
    "cut without length": ([head(), CUT], MalformedResponse, "application/json"),
    "not http": ([b"E\x00\x00\x00\x5fSFATAL\x00"], MalformedResponse, "does not speak HTTP"),
    "ssh": ([b"SSH-2.0-OpenSSH_9.2p1\r\n"], MalformedResponse, "does not speak HTTP"),
    "nothing": ([], ProviderUnavailable, "cannot be reached"),
    "head too long": (
        [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"],
        MalformedResponse,
        "does not speak HTTP",
    ),
    "deep json": ([head(200_000), b"[" * 200_000], MalformedResponse, "application/json"),
    "not utf-8": ([head(10), b"\xff\xfe\xfd{}abcde"], MalformedResponse, "application/json"),
}


@pytest.mark.parametrize("case", RAW.values(), ids=RAW)
def test_r16_a_reply_that_is_not_vaults(
    case: tuple[Iterable[bytes], type[EphemeralCredsError], str],
) -> None:
    pieces, kind, text = case
    with RawServer(pieces) as server:
        error, event = asked_of(server.address)
        assert server.asked == 1, "asked again"
    assert type(error) is kind
    assert text in str(error)
    assert event.outcome == "unknown"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [
            (
                b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n"
                b"Client sent an HTTP request to an HTTPS server.\n"
            )
        ],
    ],
    ids=["closes", "says so"],
)
def test_plain_http_to_a_tls_port_is_reported(pieces: list[bytes]) -> None:
    with RawServer(pieces) as server:
        error, _ = asked_of(server.address)
    assert "the address begins with https://" in str(error)


@pytest.mark.parametrize("length", [100 * 1024 * 1024, None], ids=["announced", "endless"])
def test_r16_a_body_of_100_mb_is_not_read(length: int | None) -> None:
    pieces = itertools.chain([head(length)], itertools.repeat(MEGABYTE, 100))
    with RawServer(pieces) as server:
        error, event = asked_of(server.address)
        # What the kernels buffer is sent as well.
        assert server.sent < 30 * len(MEGABYTE)
    assert isinstance(error, MalformedResponse)
    assert "more than 1048576 bytes" in str(error)
    assert event.outcome == "unknown"


def test_r16_a_body_that_unfolds_is_not_asked_for(stub: StubVault, config: VaultConfig) -> None:
    provider = VaultDynamicProvider("app", auth=AppRoleAuth("r", SECRET_ID), config=config)
    provider.fetch()
    provider.close()
    assert {r.headers["Accept-Encoding"] for r in stub.requests} == {"identity"}


@pytest.mark.parametrize("where", ["body", "headers", "status line"])
def test_r16_a_drip_has_to_end_in_time_as_a_whole(where: str) -> None:
    begin = {"body": head(10_000), "headers": b"HTTP/1.1 200 OK\r\nX: ", "status line": b"HTTP/1.1"}
    drip = itertools.chain([begin[where]], itertools.repeat(b" "))
    begun = time.monotonic()
    with RawServer(drip, pause=0.02) as server:  # every 20 ms a byte: no single wait is long
        error, event = asked_of(server.address, read_timeout=0.15, revoke_timeout=0.15)
    assert time.monotonic() - begun < 60.0  # every byte of the body would take 200 s
    assert type(error) is ProviderUnavailable
    assert "did not answer in time; Vault may have carried out the request" in str(error)
    assert event.outcome == "unknown"


def test_r18_https_where_http_is_spoken(stub: StubVault) -> None:
    error, event = asked_of(stub.address.replace("http:", "https:"))
    assert isinstance(error, ConfigurationError)
    assert "the address begins with http://" in str(error)
    assert event.outcome == "failed"


@pytest.mark.parametrize("days", [-400, 400])
def test_a_server_whose_clock_is_wrong_changes_nothing(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock, days: int
) -> None:
    from email.utils import formatdate

    date = formatdate(time.time() + days * 86400, usegmt=True)
    stub.script(
        CREDS, Reply(body=stub.creds(lease_id="database/creds/app/1"), headers={"Date": date})
    )
    lease = provider.fetch().lease
    assert (lease.requested_at, lease.duration) == (clock.now(), 3600)


def test_r16_every_mint_whose_answer_was_lost_counts(
    stub: StubVault, config: VaultConfig, clock: FakeClock
) -> None:
    """Vault makes a role each time, and each answer is lost."""
    provider = VaultDynamicProvider(
        "app", auth=AppRoleAuth("role-id", SECRET_ID), config=config, clock=clock
    )
    policy = RefreshPolicy()
    stub.script(CREDS, *[Fault("reset")] * 1000)
    begun, give_up_at = clock.now(), time.monotonic() + 60
    with CredentialKeeper(provider, refresh=policy, clock=clock, observers=[]):
        while (mints := stub.asked.count("app")) < 8 and time.monotonic() < give_up_at:
            clock.advance(0.25)
            time.sleep(0.0005)  # lets the keeper's thread run; the clock is ours
    assert mints >= 8
    assert mints <= policy.mint_burst + (clock.now() - begun) / policy.mint_interval


def test_the_page_has_every_answer_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "answers.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert sorted(told) == sorted([*ANSWERS, *RAW])


def test_r18_a_rate_limit_is_kept_to(stub: StubVault, provider: VaultDynamicProvider) -> None:
    limits = {"X-Ratelimit-Limit": "1", "X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": "10"}
    reply = errors(429, 'request path "database/creds/app": rate limit quota exceeded')
    stub.script(CREDS, replace(reply, headers={"Retry-After": "10", **limits}))
    with pytest.raises(ProviderUnavailable, match="raise its quota") as caught:
        provider.fetch()
    assert caught.value.retry_after == 10.0


def test_r20_a_namespace_that_is_missing_is_named(stub: StubVault) -> None:
    stub.script("POST /v1/auth/approle/login", errors(404, "namespace not found"))
    error, event = asked_of(stub.address, namespace="team/db")
    assert isinstance(error, ConfigurationError)
    assert "(namespace 'team/db')" in str(error)
    assert event.address == f"{stub.address} (namespace 'team/db')"
    assert event.mount == "auth/approle"
