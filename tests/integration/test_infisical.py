"""Infisical's dynamic secrets: leases of a stand-in over TLS, users in a real PostgreSQL."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from infisical_stub import CLIENT_ID, InfisicalStub
from minting import Events
from source_load import LOAD_SECONDS, PoolLoad
from twins import wait_until

from ephemeral_creds import (
    AccessDenied,
    ConfigurationError,
    CredentialKeeper,
    InfisicalProvider,
    LeaseLost,
    MalformedResponse,
    ProviderUnavailable,
    RefreshPolicy,
    RotatingConnectionPool,
    provider_from_url,
)
from ephemeral_creds.cli import main
from ephemeral_creds.events import CredentialsPublished, LeaseRenewed, ProviderRequest
from ephemeral_creds.lifecycle.actions import Fetch, Renew
from ephemeral_creds.lifecycle.machine import Lifecycle
from ephemeral_creds.lifecycle.signals import Failed, Granted, Renewed, Start, Tick
from ephemeral_creds.testing import FakeClock, ProviderContract, TickingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from certificates import Authority
    from ephemeral_creds import CredentialProvider
    from ephemeral_creds.lifecycle.signals import Signal
    from ephemeral_creds.testing import PostgresServer

    Make = Callable[..., InfisicalProvider]


@pytest.fixture
def stub(
    postgres: PostgresServer, authority: Authority, tls_certificate: tuple[Path, Path]
) -> Iterator[InfisicalStub]:
    from certificates import Issued

    with InfisicalStub(postgres, Issued(*tls_certificate)) as stub:
        yield stub


@pytest.fixture
def make(stub: InfisicalStub, authority: Authority) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(name: str = "app-db", **changed: object) -> InfisicalProvider:
            arguments: dict[str, object] = {
                "project": "my-project",
                "environment": "prod",
                "client_id": CLIENT_ID,
                "client_secret": stub.client_secret,
                "address": stub.address,
                "verify": str(authority.path),
            }
            provider = InfisicalProvider(name, **(arguments | changed))  # type: ignore[arg-type]
            stack.callback(provider.close)
            return provider

        yield make


class TestContract(ProviderContract):
    @pytest.fixture
    def provider(self, make: Make) -> CredentialProvider:
        return make()

    @pytest.fixture
    def known_secrets(self, stub: InfisicalStub) -> Sequence[str]:
        return [stub.client_secret.reveal()]

    @pytest.fixture
    def exists(self, stub: InfisicalStub) -> Callable[[str], bool]:
        return lambda username: username in stub.users()

    @pytest.fixture
    def unavailable(self, make: Make) -> CredentialProvider:
        return make(address="https://127.0.0.1:1")

    @pytest.fixture
    def misconfigured(self, make: Make) -> CredentialProvider:
        return make("nothing")

    @pytest.fixture
    def denied(self, make: Make, stub: InfisicalStub) -> CredentialProvider:
        stub.allowed = False
        return make()


# --- leases -------------------------------------------------------------------------------------


def test_a_lease_counts_from_its_ttl(stub: InfisicalStub, make: Make) -> None:
    lease = make().fetch().lease
    assert 3599 < lease.duration <= 3600
    assert lease.renewable
    assert make(ttl="2h").fetch().lease.duration == pytest.approx(7200, abs=1)
    assert [len(stub.users()), stub.asked] == [2, ["login", "create"] * 2]


def test_a_renewal_adds_what_has_passed(stub: InfisicalStub, make: Make) -> None:
    """Infisical adds to the end of a lease, where Vault counts from now."""
    clock = FakeClock()
    provider = make(clock=clock)
    grant = provider.fetch()
    [before] = [each.expires_at for each in stub.leases.values()]
    clock.advance(2400)
    lease = provider.renew(grant)
    assert lease.duration == pytest.approx(3600, abs=2)
    [after] = [each.expires_at for each in stub.leases.values()]
    assert after - before == pytest.approx(2400, abs=2)


def test_a_renewal_that_was_lost_is_accounted_for(stub: InfisicalStub, make: Make) -> None:
    clock = FakeClock()
    provider = make(clock=clock)
    grant = provider.fetch()
    clock.advance(1200)
    stub.script("renew", "lost")
    with pytest.raises(ProviderUnavailable, match="may have carried out the request"):
        provider.renew(grant)
    assert provider.renew(grant).duration == pytest.approx(2400 + 2 * 1200, abs=2)


def test_a_lease_near_its_maximum_is_shorter_and_then_not_renewable(
    stub: InfisicalStub, make: Make
) -> None:
    stub.max_ttl = 5400.0
    clock = FakeClock()
    provider = make(clock=clock)
    grant = provider.fetch()
    assert grant.lease.renewable
    clock.advance(2400)
    lease = provider.renew(grant)
    assert lease.duration == pytest.approx(3000, abs=3)
    assert not lease.renewable


def test_a_maximum_that_was_lowered(stub: InfisicalStub, make: Make) -> None:
    clock = FakeClock()
    provider = make(clock=clock)
    grant = provider.fetch()
    stub.max_ttl = 3600.0
    clock.advance(2400)
    lease = provider.renew(grant)
    assert lease.duration == pytest.approx(1200, abs=2)
    assert not lease.renewable
    # The lease is not lost, and its user is there.
    assert len(stub.users()) == 1


def test_a_lease_without_room_for_a_renewal_is_not_renewable(
    stub: InfisicalStub, make: Make
) -> None:
    stub.max_ttl = stub.default_ttl
    assert not make().fetch().lease.renewable


def test_a_lease_that_is_gone_is_lost(stub: InfisicalStub, make: Make) -> None:
    provider = make()
    grant = provider.fetch()
    stub.leases.clear()
    with pytest.raises(LeaseLost, match=r"lease with ID .* not found"):
        provider.renew(grant)
    provider.revoke(grant)


def test_a_user_that_cannot_be_dropped(
    stub: InfisicalStub, make: Make, postgres: PostgresServer
) -> None:
    """Infisical answers that with a success."""
    provider = make()
    grant = provider.fetch()
    user = grant.credentials.username
    with postgres.admin() as conn:
        conn.execute(f'CREATE SCHEMA "{user}" AUTHORIZATION "{user}"'.encode())
    with pytest.raises(ProviderUnavailable, match=r"could not be dropped: role .* some objects"):
        provider.revoke(grant)
    with postgres.admin() as conn:
        conn.execute(f'DROP SCHEMA "{user}"'.encode())
    provider.revoke(grant)
    assert stub.users() == []


def live(provider: InfisicalProvider, clock: FakeClock, seconds: float) -> None:
    """Do for that long what the machine of a keeper says."""
    machine, begun = Lifecycle(RefreshPolicy(), mints=True), clock.now()
    answers: list[Signal] = [Start()]
    while clock.now() < begun + seconds:
        actions = [each for a in answers for each in machine.handle(a, clock.now())]
        answers = [Tick()]
        for action in actions:
            match action:
                case Fetch():
                    try:
                        answers.append(Granted(provider.fetch()))
                    except ProviderUnavailable as error:
                        answers.append(Failed(action, error))
                case Renew(grant):
                    answers.append(Renewed(grant.generation, provider.renew(grant)))
        if len(answers) == 1:
            clock.advance(machine.deadline - clock.now())


def test_an_hour_has_one_and_a_half_renewals(stub: InfisicalStub, make: Make) -> None:
    stub.token_ttl, stub.max_ttl = 0, None  # neither ends
    live(make(clock=(clock := FakeClock())), clock, 36001)
    assert stub.asked == ["login", "create"] + ["renew"] * 15


def test_creates_without_a_reply_are_limited(stub: InfisicalStub, make: Make) -> None:
    """Each has made a user: two at once, and then ever more slowly."""
    stub.script("create", *["lost"] * 100)
    live(make(clock=(clock := FakeClock())), clock, 600)
    assert len(stub.users()) == stub.asked.count("create")
    assert 10 < stub.asked.count("create") < 20


# --- tokens -------------------------------------------------------------------------------------


def test_an_expired_token_is_replaced_and_the_lease_lives_on(
    stub: InfisicalStub, make: Make
) -> None:
    provider = make()
    grant = provider.fetch()
    stub.expire_tokens()
    assert provider.renew(grant).duration > 3600
    assert stub.asked == ["login", "create", "renew", "login", "renew"]


def test_a_token_near_its_end_is_replaced_first(stub: InfisicalStub, make: Make) -> None:
    clock = TickingClock()
    provider = make(clock=clock)
    provider.fetch()
    clock.advance(7000)
    provider.fetch()
    assert stub.asked == ["login", "create", "login", "create"]
    # If that fails, the one at hand still works.
    clock.advance(7000)
    stub.script("login", (503, {"message": "starting"}))
    provider.fetch()


def test_close_revokes_the_token(stub: InfisicalStub, make: Make) -> None:
    provider = make()
    provider.fetch()
    assert stub.live_tokens == 1
    provider.close()
    provider.close()
    assert stub.live_tokens == 0
    with pytest.raises(ConfigurationError, match="the provider is closed"):
        provider.fetch()


def test_a_mint_in_flight_is_revoked_if_the_provider_is_closed(
    stub: InfisicalStub, make: Make
) -> None:
    provider = make()
    stub.script("create", "late")
    with ThreadPoolExecutor() as threads:
        fetched = threads.submit(provider.fetch)
        wait_until(stub.users)
        closed = threads.submit(provider.close)
        wait_until(lambda: provider._session.closed)
        stub.gate.set()
        closed.result(30)
        with pytest.raises(ConfigurationError, match="the provider is closed"):
            fetched.result(30)
    assert stub.users() == []
    assert stub.live_tokens == 0


def test_the_client_secret_is_read_at_each_login(
    stub: InfisicalStub, make: Make, tmp_path: Path
) -> None:
    path = tmp_path / "client-secret"
    path.write_text("stale")
    provider = make(client_secret=None, client_secret_file=path)
    with pytest.raises(AccessDenied, match="Invalid credentials; check the client id, and"):
        provider.fetch()
    path.write_text(f"{stub.client_secret.reveal()}\n")
    provider.fetch()
    path.unlink()


# --- errors -------------------------------------------------------------------------------------


def answer(status: int, message: object, **more: object) -> tuple[int, dict[str, object]]:
    return status, {"statusCode": status, "message": message, **more}


ISSUES = [{"path": ["ttl"], "message": "TTL must be a greater than 1min"}]


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (answer(400, "TTL cannot be larger than max TTL"), ConfigurationError, "TTL; correct ttl="),
        (answer(400, "plan restriction"), ConfigurationError, "plan restriction; correct"),
        (answer(422, ISSUES), ConfigurationError, "ttl: TTL must be a greater than 1min"),
        (answer(400, "Max lease limit reached. Limit: 1"), ProviderUnavailable, "MAX_LEASE_LIMIT"),
        (answer(429, "Too many"), ProviderUnavailable, "Too many; raise its rate limit"),
        (answer(500, "Something went wrong"), ProviderUnavailable, "its log says why: check that"),
        (answer(502, "x"), ProviderUnavailable, "HTTP 502"),
        (answer(418, "x"), MalformedResponse, "does not use this status"),
        (answer(200, "x"), MalformedResponse, "HTTP 200 with no 'lease'"),
        ("lost", ProviderUnavailable, "Infisical may have carried out the request"),
    ],
)
def test_a_create_that_fails(
    stub: InfisicalStub,
    make: Make,
    reply: tuple[int, dict[str, object]] | str,
    kind: type[Exception],
    message: str,
) -> None:
    stub.script("create", reply)
    with pytest.raises(kind, match=message):
        make().fetch()
    # What may have been done is never sent again.
    assert stub.asked.count("create") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"project": "other"}, "Project with slug 'other' not found; check the names"),
        ({"environment": "dev"}, "environment with slug 'dev' not found"),
        ({"path": "/db"}, "Folder with path '/db'"),
    ],
)
def test_a_place_that_does_not_exist(make: Make, changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(**changed).fetch()


def test_a_secret_without_user_and_password_is_revoked(stub: InfisicalStub, make: Make) -> None:
    provider = make(fields={"username": "USER", "password": "PASS"})
    with pytest.raises(ConfigurationError, match="neither a user name nor a password"):
        provider.fetch()
    assert stub.users() == []


def test_a_certificate_of_an_unknown_ca(
    make: Make, stub: InfisicalStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with pytest.raises(ConfigurationError, match=r"set verify \(cacert in a URL\), or REQUESTS"):
        make(verify=None).fetch()
    assert stub.users() == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"client_id": ""}, "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID"),
        ({"client_secret": None}, "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET"),
        ({"client_secret": " "}, "client_secret is empty"),
        ({"client_secret_file": "x"}, "contradict each other"),
        ({"project": ""}, "project is empty"),
        ({"ttl": "30s"}, "must be 1m or longer"),
        ({"ttl": "soon"}, "must be 1m or longer"),
        ({"address": "infisical:8080"}, "must look like https://app.infisical.com"),
        ({"address": "https://me:you@infisical"}, "has a user name or password in it"),
    ],
)
def test_arguments_that_cannot_be_right(
    make: Make, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], message: str
) -> None:
    for name in ("ID", "SECRET"):
        monkeypatch.delenv(f"INFISICAL_UNIVERSAL_AUTH_CLIENT_{name}", raising=False)
    with pytest.raises(ConfigurationError, match=message):
        make(**changed)


# --- from one string, and the check -------------------------------------------------------------


def url_of(stub: InfisicalStub, authority: Authority) -> str:
    return (
        f"infisical://app-db?project=my-project&environment=prod&address={stub.address}"
        f"&client_id={CLIENT_ID}&client_secret_env=S&cacert={authority.path}"
    )


def test_the_same_by_url(stub: InfisicalStub, authority: Authority) -> None:
    environ = {"S": stub.client_secret.reveal()}
    with contextlib.closing(provider_from_url(url_of(stub, authority), environ=environ)) as made:
        assert made.description == (
            f"Infisical dynamic secret 'app-db' (my-project/prod/ at {stub.address})"
        )
        made.revoke(made.fetch())


def test_the_variables_of_the_command(stub: InfisicalStub, authority: Authority) -> None:
    environ = {
        "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": CLIENT_ID,
        "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": stub.client_secret.reveal(),
        "INFISICAL_DOMAIN": f"{stub.address}/api",
    }
    url = f"infisical://app-db?project=my-project&environment=prod&cacert={authority.path}"
    with contextlib.closing(provider_from_url(url, environ=environ)) as made:
        made.revoke(made.fetch())


@pytest.mark.slow
def test_the_check_takes_each_step(
    stub: InfisicalStub,
    authority: Authority,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("S", stub.client_secret.reveal())
    url = url_of(stub, authority)
    status = main(["check", url, "--conninfo", postgres.conninfo(), "--allow-warnings"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "and VALID UNTIL moved along" in said
    assert "Vault" not in said
    assert stub.users() == []


# --- changes ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rotations_under_load_fail_no_query(
    stub: InfisicalStub, make: Make, postgres: PostgresServer
) -> None:
    """Of leases that last an hour, by a clock that the test moves: none ends on a busy machine."""
    stub.max_ttl = stub.default_ttl
    clock, events = TickingClock(), Events()
    refresh = RefreshPolicy(mint_interval=0.0, retry_initial=0.05)
    keeper = CredentialKeeper(make(clock=clock), refresh=refresh, observers=[events], clock=clock)
    conninfo = f"host={postgres.host} port={postgres.port} dbname=postgres"
    rotations = max(6, int(LOAD_SECONDS))
    with keeper, RotatingConnectionPool(keeper, conninfo, min_size=4, max_size=6) as pool:
        pool.wait()
        with PoolLoad(pool) as load:
            for number in range(rotations):
                clock.advance(2400)
                events.wait_for(CredentialsPublished, number + 2)
                load.goes_on()
                # The user before is dropped as soon as its last connection is closed.
                wait_until(lambda: len(stub.users()) == 1)
        status = pool.status().keeper
    assert load.failures == []
    assert status.rotations == rotations
    assert stub.asked.count("create") == rotations + 1
    assert stub.users() == []
    print(f"{load.succeeded} operations, {status.rotations} rotations")


@pytest.mark.slow
def test_an_outage_costs_nothing_while_a_lease_lives(
    stub: InfisicalStub, make: Make, postgres: PostgresServer
) -> None:
    """And afterwards the lease is renewed, not replaced."""
    clock = TickingClock()
    events = Events()
    refresh = RefreshPolicy(retry_initial=0.05)
    keeper = CredentialKeeper(make(clock=clock), refresh=refresh, observers=[events], clock=clock)
    conninfo = f"host={postgres.host} port={postgres.port} dbname=postgres"
    with keeper, RotatingConnectionPool(keeper, conninfo, min_size=1, max_size=4) as pool:
        pool.wait()
        stub.script("renew", *[answer(503, "away")] * 3)
        clock.advance(2700)
        events.wait_for(LeaseRenewed)
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        wait_until(lambda: len(stub.users()) == 1)
    outcomes = [e.outcome for e in events.of(ProviderRequest) if e.operation == "renew"]  # type: ignore[attr-defined]
    assert outcomes == ["failed"] * 3 + ["done"]
    assert stub.users() == []
