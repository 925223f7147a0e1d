"""What a check says of clocks, of encryption, and of the addresses of Vault."""

from __future__ import annotations

import math

import pytest

from ephemeral_creds import (
    AccessDenied,
    Lease,
    ProviderUnavailable,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.check.credentials import ends_with_token, was_put_off
from ephemeral_creds.check.database import Line
from ephemeral_creds.check.findings import Findings
from ephemeral_creds.check.inspector import Inspector, parse_health
from ephemeral_creds.check.revocation import revocation_statements
from ephemeral_creds.check.run import may_come
from ephemeral_creds.check.session import Validity, check_encryption, check_expiry
from ephemeral_creds.testing import FakeClock, ScriptedProvider

NOW = 1.8e9


def expiry(until: float, ahead: float = 0.0, lease: float = 3600.0) -> list[tuple[str, str]]:
    findings = Findings("x")
    check_expiry(Validity(until, NOW + ahead, NOW, lease, mints=True), findings)
    return [(finding.level, finding.text) for finding in findings.found]


def test_a_validity_as_vault_writes_it() -> None:
    ((level, text),) = expiry(NOW + 3605)
    assert level == "ok"
    assert text.endswith("PostgreSQL's clock is the same as this machine's")


def test_logins_that_end_before_the_lease() -> None:
    ((level, text),) = expiry(NOW + 3605, ahead=30.0)
    assert level == "warn"
    assert "less than the lease; PostgreSQL's clock is 30 s ahead of this machine's" in text


def test_time_that_has_passed_since_the_mint_is_no_clock_that_is_wrong() -> None:
    assert [level for level, _ in expiry(NOW + 3500, lease=3600.0)] == ["warn"]
    assert [level for level, _ in expiry(NOW + 3500, lease=3500.0)] == ["ok"]


def test_a_slow_clock_is_reported_as_well() -> None:
    assert expiry(NOW + 3605, ahead=-30.0)[0][0] == "ok"
    assert "30 s behind" in expiry(NOW + 3605, ahead=-30.0)[0][1]
    assert [level for level, _ in expiry(NOW + 3605, ahead=-300.0)] == ["warn", "ok"]
    assert [level for level, _ in expiry(math.inf, ahead=300.0, lease=math.inf)] == ["warn"] * 2


def test_a_validity_that_has_passed() -> None:
    ((level, text),) = expiry(NOW - 5)
    assert (level, "5 s ago" in text) == ("fail", True)


def encryption(**changed: object) -> tuple[str, str]:
    line = Line(host="db", address="192.0.2.7", tls=True, gss=False, sslmode="prefer")
    for name, value in changed.items():
        object.__setattr__(line, name, value)
    findings = Findings("x")
    check_encryption(line, findings)
    (found,) = findings.found
    return found.level, found.text


def test_a_connection_in_plain_text() -> None:
    assert encryption(tls=False)[0] == "warn"
    assert encryption(tls=False, gss=True)[0] == "ok"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", ""])
def test_within_the_machine_it_may_be(address: str) -> None:
    assert encryption(tls=False, address=address) == ("ok", "not encrypted, within this machine")


def test_tls_says_whether_the_certificate_counts() -> None:
    assert "without verification of the certificate" in encryption(sslmode="require")[1]
    assert encryption(sslmode="verify-full") == ("ok", "TLS, with sslmode=verify-full")


def test_each_address_has_weaknesses_of_its_own() -> None:
    config = VaultConfig("https://one.example:8200,http://two.example:8200")
    inspector = Inspector(VaultDynamicProvider("app", auth=TokenAuth("x"), config=config))
    assert inspector.weaknesses("https://one.example:8200") == ()
    (weakness,) = inspector.weaknesses("http://two.example:8200")
    assert "http://two.example:8200" in weakness


@pytest.mark.parametrize(
    ("version", "said", "program"),
    [
        ("2.7.2", {}, "OpenBao"),
        ("2.0.0-alpha20240329", {}, "OpenBao"),
        ("2.0.1", {"enterprise": False}, "Vault"),
        ("1.21.1+ent", {"enterprise": True}, "Vault"),
        ("1.14.10", {}, "Vault"),
        (None, {}, "Vault"),
    ],
)
def test_which_program_a_node_is(version: str | None, said: dict[str, bool], program: str) -> None:
    """OpenBao began before Vault 1.16 said whether it is Enterprise, and never says so."""
    body: dict[str, object] = {"initialized": True, "sealed": False, "version": version}
    assert parse_health(body | said).program == program


def test_an_owner_with_a_name_that_needs_quotes() -> None:
    assert 'REASSIGN OWNED BY "{{name}}" TO "My ""App";' in revocation_statements('My "App')


@pytest.mark.parametrize(
    ("duration", "again", "put_off", "with_token"),
    [
        (3600, 3600, True, False),
        (3600, 3598, False, False),  # max_ttl is as long
        (10, 8, False, False),
        (600, 598, False, True),
        (600, 600, True, True),
    ],
)
def test_the_cause_of_a_leases_end_is_found(
    duration: float, again: float, put_off: bool, with_token: bool
) -> None:
    minted, renewed = Lease(100.0, duration), Lease(101.2, again)
    assert was_put_off(minted, renewed) is put_off
    assert ends_with_token(minted, renewed, 10 if duration == 10 else 3600) is with_token


class Reading(ScriptedProvider):
    """A source that mints no role."""

    mints = False


@pytest.mark.parametrize(
    ("error", "waits"),
    [(None, False), (ProviderUnavailable("refused"), True), (AccessDenied("not for you"), False)],
)
def test_a_source_that_cannot_be_reached_may_come(error: Exception | None, waits: bool) -> None:
    provider = Reading(FakeClock())
    if error is not None:
        provider.failures["fetch"].append(error)
    assert may_come(provider) is waits


def test_a_source_that_mints_is_not_asked_whether_it_is_there() -> None:
    provider = ScriptedProvider(FakeClock())
    assert may_come(provider) is False
    assert provider.calls == []
