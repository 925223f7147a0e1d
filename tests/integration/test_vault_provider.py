"""The Vault provider against a Vault and a PostgreSQL: what the unit tests' stub takes on trust."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    LeaseLost,
    ProviderUnavailable,
)
from ephemeral_creds.providers.vault import (
    AppRoleAuth,
    KubernetesAuth,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.testing import DatabaseEngine
from service_accounts import TokenReviewServer, create_kubernetes_role, make_service_account_jwt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds._values import Grant
    from ephemeral_creds.providers.vault import AuthMethod
    from ephemeral_creds.testing import PostgresServer, VaultServer


@pytest.fixture
def make(engine: DatabaseEngine) -> Iterator[Callable[..., VaultDynamicProvider]]:
    """Make providers that are closed at the end."""
    made: list[VaultDynamicProvider] = []

    def make(role: str, auth: AuthMethod, **settings: str) -> VaultDynamicProvider:
        mount = settings.pop("mount", "database")
        config = VaultConfig(engine.vault.address, read_timeout=20)
        made.append(VaultDynamicProvider(role, auth=auth, mount=mount, config=config))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


@pytest.fixture
def role(engine: DatabaseEngine, unique: Callable[[str], str]) -> str:
    name = unique("role")
    engine.create_role(name)
    return name


def approle(
    engine: DatabaseEngine, role: str, *, may_revoke: bool = True, **settings: Any
) -> AppRoleAuth:
    policy = engine.policy(role, may_revoke=may_revoke)
    how = engine.admin.create_approle(role, [policy], **settings)
    return AppRoleAuth(how.role_id, how.secret_id)


def login(postgres: PostgresServer, grant: Grant) -> None:
    """Log in and ask who we are; raises what PostgreSQL says."""
    credentials = grant.credentials
    with postgres.login(credentials.username, credentials.password) as conn:
        row = conn.execute("SELECT current_user").fetchone()
        assert row == (credentials.username,)
    conn.close()


def wait_until_refused(postgres: PostgresServer, grant: Grant) -> None:
    """Vault drops the roles of a revoked token in the background: give it a while."""
    give_up_at = time.monotonic() + 20
    while time.monotonic() < give_up_at:
        try:
            login(postgres, grant)
        except psycopg.OperationalError:
            return
        except psycopg.errors.UndefinedObject:
            continue  # dropped between the login and its first query
        time.sleep(0.05)
    pytest.fail("the role is still there")


def test_a_lease_from_beginning_to_end(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    provider = make(role, approle(engine, role, token_ttl="2h"))
    grant = provider.fetch()
    assert grant.lease.duration == 3600
    assert grant.lease.renewable
    login(engine.postgres, grant)

    sent = provider.requests_sent
    lease = provider.renew(grant)
    assert provider.requests_sent == sent + 1
    assert lease.duration == 3600
    assert lease.requested_at >= grant.lease.requested_at
    login(engine.postgres, grant)

    provider.revoke(grant)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        login(engine.postgres, grant)
    with pytest.raises(LeaseLost):
        provider.renew(grant)
    provider.revoke(grant)  # gone already
    assert engine.mints(role) == 1


def test_r2_an_answer_shorter_than_asked_near_max_ttl(
    engine: DatabaseEngine,
    make: Callable[..., VaultDynamicProvider],
    unique: Callable[[str], str],
) -> None:
    role = unique("role")
    engine.create_role(role, default_ttl="1h", max_ttl="1h")
    provider = make(role, approle(engine, role))
    grant = provider.fetch()
    time.sleep(1.1)  # Vault counts in whole seconds
    assert provider.renew(grant).duration < grant.lease.duration


def test_r3_a_token_shorter_than_the_lease_is_the_deadline_until_it_is_extended(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    provider = make(role, approle(engine, role, token_ttl="20m", token_max_ttl="24h"))
    grant = provider.fetch()
    assert 1100 < grant.lease.duration <= 1200
    assert grant.lease.renewable
    assert provider.renew(grant).duration == pytest.approx(3600, abs=100)


def test_r3_a_token_at_its_maximum_is_replaced_and_then_revoked(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    auth = approle(engine, role, may_revoke=False, token_ttl="20m", token_max_ttl="30m")
    provider = make(role, auth)
    old = provider.fetch()
    short = provider.renew(old)
    assert 1700 < short.duration <= 1800
    new = provider.fetch()  # renewing cannot help any more: a new token
    assert 1100 < new.lease.duration <= 1200
    login(engine.postgres, old)
    # The policy does not allow to revoke leases; the old token is ours and takes it along.
    provider.revoke(old)
    wait_until_refused(engine.postgres, old)
    login(engine.postgres, new)
    with pytest.raises(AccessDenied, match="sys/leases/revoke"):
        provider.revoke(new)
    provider.close()
    wait_until_refused(engine.postgres, new)


def test_r17_a_token_that_was_revoked_is_replaced(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    provider = make(role, approle(engine, role))
    grant = provider.fetch()
    session = grant.origin.session  # type: ignore[attr-defined]
    engine.admin.revoke_token(session.token.value)
    with pytest.raises(LeaseLost):
        provider.renew(grant)
    login(engine.postgres, provider.fetch())


def test_a_batch_token(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    provider = make(role, approle(engine, role, token_ttl="20m", token_type="batch"))
    grant = provider.fetch()
    assert 1100 < grant.lease.duration <= 1200
    assert not grant.lease.renewable
    login(engine.postgres, grant)


def test_a_token_that_was_given_survives_close(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    token = engine.admin.create_token([engine.policy(role)], ttl="20m", explicit_max_ttl="20m")
    provider = make(role, TokenAuth(token))
    grant = provider.fetch()
    assert 1100 < grant.lease.duration <= 1200
    provider.close()
    login(engine.postgres, grant)
    assert engine.admin.request("GET", "auth/token/lookup-self", token=token).status == 200


def test_r3_a_periodic_token_is_extended_for_ever(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    token = engine.admin.create_token([engine.policy(role)], period="20m")
    provider = make(role, TokenAuth(token))
    time.sleep(1.1)
    grant = provider.fetch()
    for lease in (grant.lease, provider.renew(grant), provider.renew(grant)):
        assert lease.duration == pytest.approx(1200, abs=100)
        assert lease.renewable


def test_root_never_expires(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    provider = make(role, TokenAuth(engine.vault.root_token))
    grant = provider.fetch()
    assert (grant.lease.duration, provider.renew(grant).duration) == (3600, 3600)
    provider.revoke(grant)


def test_a_token_for_a_few_requests_is_refused(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    provider = make(role, approle(engine, role, token_num_uses=5))
    with pytest.raises(ConfigurationError, match="token_num_uses"):
        provider.fetch()
    assert engine.mints(role) == 0


def test_a_secret_id_is_read_from_a_file(
    engine: DatabaseEngine,
    make: Callable[..., VaultDynamicProvider],
    role: str,
    tmp_path: Path,
    canary: Canary,
) -> None:
    canary.allow_secret_file(tmp_path)
    how = engine.admin.create_approle(role, [engine.policy(role)])
    path = tmp_path / "secret-id"
    path.write_text(how.secret_id.reveal() + "\n")
    login(engine.postgres, make(role, AppRoleAuth(how.role_id, secret_id_file=path)).fetch())
    path.write_text("wrong")
    with pytest.raises(AccessDenied, match="AppRole login at auth/approle"):
        make(role, AppRoleAuth(how.role_id, secret_id_file=path)).fetch()


def test_a_kubernetes_service_account(
    engine: DatabaseEngine,
    make: Callable[..., VaultDynamicProvider],
    role: str,
    tmp_path: Path,
    canary: Canary,
) -> None:
    canary.allow_secret_file(tmp_path)
    path = tmp_path / "token"
    path.write_text(make_service_account_jwt("my-app").reveal())
    with TokenReviewServer() as reviewer:
        policies = [engine.policy(role)]
        create_kubernetes_role(engine.admin, role, reviewer, policies)
        provider = make(role, KubernetesAuth(role, jwt_path=path))
        login(engine.postgres, provider.fetch())
        provider.close()

        path.write_text(make_service_account_jwt("other-app").reveal())
        with pytest.raises(AccessDenied, match="bound to this pod"):
            make(role, KubernetesAuth(role, jwt_path=path)).fetch()
        with pytest.raises(ConfigurationError, match="nobody"):
            make(role, KubernetesAuth("nobody", jwt_path=path)).fetch()


def test_a_missing_policy_names_the_line(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    how = engine.admin.create_approle(role, ["default"])
    with pytest.raises(AccessDenied) as caught:
        make(role, AppRoleAuth(how.role_id, how.secret_id)).fetch()
    assert f'path "database/creds/{role}" {{ capabilities = ["read"] }}' in str(caught.value)
    assert caught.value.status == 403


def test_r17_a_policy_that_an_auth_role_gets_later_is_picked_up(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    how = engine.admin.create_approle(role, ["default"])
    provider = make(role, AppRoleAuth(how.role_id, how.secret_id))
    with pytest.raises(AccessDenied):
        provider.fetch()
    engine.admin.create_approle(role, [engine.policy(role)])
    login(engine.postgres, provider.fetch())


def test_a_role_or_mount_that_does_not_exist_is_a_configuration_error(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    root = TokenAuth(engine.vault.root_token)
    with pytest.raises(ConfigurationError, match="unknown role"):
        make("nobody", root).fetch()
    with pytest.raises(ConfigurationError, match="nowhere"):
        make(role, root, mount="nowhere").fetch()
    # Vault does not tell a stranger which auth methods there are.
    with pytest.raises(AccessDenied, match=r"auth/nowhere.*check the mount"):
        make(role, AppRoleAuth("x", "y", mount="nowhere")).fetch()
    with pytest.raises(AccessDenied, match="expired or revoked"):
        make(role, TokenAuth("hvs.nonsense")).fetch()


def test_an_outage_passes(
    own_vault: VaultServer, postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    engine = DatabaseEngine(own_vault, postgres)
    role = unique("role")
    engine.create_role(role)
    config = VaultConfig(own_vault.address, read_timeout=5)
    provider = VaultDynamicProvider(role, auth=approle(engine, role), config=config)
    grant = provider.fetch()

    own_vault.seal()
    with pytest.raises(ProviderUnavailable, match="sealed") as caught:
        provider.renew(grant)
    assert caught.value.status == 503
    login(postgres, grant)
    own_vault.unseal()
    provider.renew(grant)

    own_vault.pause()
    with pytest.raises(ProviderUnavailable, match="did not answer in time"):
        provider.renew(grant)
    own_vault.resume()
    provider.renew(grant)
    provider.revoke(grant)

    own_vault.stop()
    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        provider.fetch()
    provider.close()
