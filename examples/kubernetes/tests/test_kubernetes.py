"""`examples/kubernetes` on a real Kubernetes of one node: applied, started, and put under load.

Only `nox -s kubernetes` runs this, as root on Linux, with a Docker engine that has the images
already. The manifests are applied as they are. Vault's injector and Vault Secrets Operator are not
there: what they would add to a pod is not seen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from example_cluster import (
    KUBERNETES,
    PRODUCTION,
    Service,
    applied,
    images,
    make_images,
    outside,
    pods,
    set_up,
)
from example_world import ROLE
from kubernetes_cluster import POD_PATIENCE, Cluster, KubectlFailed, missing
from kubernetes_settings import ISSUER
from load import Load, add_and_read
from restricted_postgres import find_postgres_with_tls
from twins import wait_until

from docker_engine import require_images
from ephemeral_creds import KubernetesAuth, VaultConfig, VaultDynamicProvider
from ephemeral_creds.exceptions import AccessDenied
from ephemeral_creds.testing import find_vault
from service_accounts import make_service_account_jwt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from example_world import ExampleWorld

    from canary import Canary

PROGRAMS = os.environ.get("EPHEMERAL_CREDS_KUBERNETES")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAMS is None, reason="only `nox -s kubernetes` runs it"),
]

AUDIENCE = "--audience=https://kubernetes.default.svc"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    programs = Path(PROGRAMS or "")
    if absent := missing(programs):
        pytest.skip(f"a node needs what is not here: {', '.join(absent)}")
    require_images(images())
    with Cluster(programs, make_images) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[ExampleWorld]:
    binary, postgres = find_vault(), find_postgres_with_tls()
    if postgres is None:
        pytest.skip("no PostgreSQL of the system here, which has TLS")
    lives = {"default_ttl": "20s", "max_ttl": "40s"}
    with outside(cluster, binary, postgres, **lives) as (world, authority):
        set_up(cluster, world, authority)
        yield world


# --- What the API takes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["injector.yaml", "native-sidecar.yaml", "network-policy.yaml"])
def test_the_manifest_is_taken(cluster: Cluster, world: ExampleWorld, name: str) -> None:
    with applied(cluster, name) as said:
        assert "created" in said
        assert "Warning" not in said, "pods keep to the strictest of the pod security standards"
        if "deployment.apps/my-app" in said:
            wait_until(lambda: len(pods(cluster)) == 2, "pods that are let in", POD_PATIENCE)


def test_without_the_operator_its_kinds_are_unknown(cluster: Cluster, world: ExampleWorld) -> None:
    with pytest.raises(KubectlFailed) as refused:
        cluster.kubectl("apply", "-f", str(KUBERNETES / "vault-secrets-operator.yaml"))
    unknown = set(re.findall(r'no matches for kind "(\w+)"', str(refused.value)))
    assert unknown == {"VaultConnection", "VaultAuth", "VaultDynamicSecret"}
    wait_until(lambda: len(pods(cluster)) == 2, "pods that are let in", POD_PATIENCE)
    cluster.kubectl("delete", "deployment", "my-app", *PRODUCTION)
    wait_until(lambda: pods(cluster) == [], "the end of all pods", POD_PATIENCE)


# --- Who may log in ---------------------------------------------------------------------------


@pytest.fixture
def log_in(world: ExampleWorld, tmp_path: Path, canary: Canary) -> Callable[[str], str]:
    """Log in to Vault with a token, and return as whom PostgreSQL lets in."""
    canary.allow_secret_file(tmp_path)
    path = tmp_path / "token"
    config = VaultConfig(
        "https://vault.example.com:8200", verify="/etc/ssl/certs/ca-certificates.crt"
    )

    def log_in(token: str) -> str:
        path.write_text(token)
        auth = KubernetesAuth("my-app", jwt_path=path)
        with closing(VaultDynamicProvider(ROLE, auth=auth, config=config)) as provider:
            grant = provider.fetch()
            minted = grant.credentials
            with world.postgres.login(minted.username, minted.password, "mydb") as session:
                session.execute("SET ROLE my_app")
            provider.revoke(grant)
        return minted.username

    return log_in


def new_token(cluster: Cluster, name: str, *options: str) -> str:
    return cluster.kubectl("create", "token", name, *options).strip()


def test_the_service_accounts_token_logs_in(cluster: Cluster, log_in: Callable[[str], str]) -> None:
    token = new_token(cluster, "my-app", *PRODUCTION, AUDIENCE)
    assert log_in(token).startswith("v-kubernet-my-app-r-")


def test_a_token_that_the_cluster_did_not_sign_is_refused(log_in: Callable[[str], str]) -> None:
    forged = make_service_account_jwt("my-app", "production")
    with pytest.raises(AccessDenied, match="permission denied"):
        log_in(forged.reveal())


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("my-app", [*PRODUCTION, "--audience=another"], "invalid audience"),
        ("default", [*PRODUCTION, AUDIENCE], "service account name not authorized"),
        ("my-app", ["-n", "default", AUDIENCE], "namespace not authorized"),
    ],
    ids=["audience", "account", "namespace"],
)
def test_another_token_is_refused(
    cluster: Cluster, log_in: Callable[[str], str], name: str, options: Sequence[str], reason: str
) -> None:
    if "default" in options:
        cluster.kubectl("create", "serviceaccount", name, "-n", "default")
    with pytest.raises(AccessDenied, match=reason):
        log_in(new_token(cluster, name, *options))


def test_a_token_for_the_cluster_needs_the_clusters_audience(
    cluster: Cluster, world: ExampleWorld, log_in: Callable[[str], str]
) -> None:
    with pytest.raises(AccessDenied, match="invalid audience"):
        log_in(new_token(cluster, "my-app", *PRODUCTION))
    role = "auth/kubernetes/role/my-app"
    before = world.admin.call("GET", role).data
    # kubeadm's default, and with it most clusters'.
    world.admin.call("POST", role, before | {"audience": ISSUER})
    try:
        assert log_in(new_token(cluster, "my-app", *PRODUCTION))
    finally:
        world.admin.call("POST", role, before)


# --- Without the injector ---------------------------------------------------------------------


def test_a_pod_that_nothing_was_injected_into_says_so(
    cluster: Cluster, world: ExampleWorld
) -> None:
    complaint = "/vault/secrets/db-creds.txt does not exist (yet): check that the sidecar runs"
    with applied(cluster, "injector.yaml"):
        wait_until(lambda: complaint in said_by_all(cluster), "a complaint", POD_PATIENCE)
        assert not any(is_ready(pod) for pod in pods(cluster))


def said_by_all(cluster: Cluster) -> str:
    try:
        return cluster.kubectl("logs", *PRODUCTION, "-l", "app=my-app", "--tail=-1")
    except KubectlFailed:  # one has not been started yet
        return ""


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)


# --- With a native sidecar --------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(cluster: Cluster, world: ExampleWorld) -> Iterator[Service]:
    with applied(cluster, "native-sidecar.yaml"), Service(cluster) as service:
        wait_until(lambda: len(service.ready) == 2, "two pods that are ready", POD_PATIENCE)
        yield service


def users(world: ExampleWorld) -> dict[str, str]:
    """Return as whom each pod, by its address, is logged in; each session has TLS."""
    rows = world.query(
        "SELECT host(client_addr), usename, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)"
        " WHERE usename LIKE 'v-kubernet-%' ORDER BY backend_start"
    )
    assert all(encrypted for _, _, encrypted in rows)
    return {address: user for address, user, _ in rows}


def test_no_request_fails_while_the_role_changes(world: ExampleWorld, service: Service) -> None:
    seen = set(users(world).values())
    with Load(add_and_read(service.ask)) as load:
        for generation in (2, 3):
            wait_until(partial(have_reached, service, generation), "a rotation", POD_PATIENCE)
            load.goes_on()
            seen |= set(users(world).values())
    print(f"{load.succeeded} requests through two rotations of each pod: {load.failures}")
    assert load.failures == []
    assert len(seen) >= 6, "each pod is a user of its own in each generation"


def have_reached(service: Service, generation: int) -> bool:
    return min(service.generations()) >= generation


def test_no_request_fails_while_all_pods_are_replaced(cluster: Cluster, service: Service) -> None:
    former = set(service.ready)
    with Load(add_and_read(service.ask)) as load:
        cluster.kubectl("rollout", "restart", *PRODUCTION, "deployment/my-app")
        wait_until(
            lambda: len(service.ready) == 2 and not former & set(service.ready),
            "two other pods",
            POD_PATIENCE,
        )
        wait_until(lambda: len(pods(cluster)) == 2, "the end of the former", POD_PATIENCE)
        load.goes_on()
    print(f"{load.succeeded} requests through a restart: {load.failures}")
    assert load.failures == []


def test_a_pod_stops_in_order(cluster: Cluster, world: ExampleWorld, service: Service) -> None:
    pod = pods(cluster)[0]
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    user = users(world)[address]
    # The object stays until we have seen what became of its containers.
    patch(cluster, name, ["example.com/seen"])
    with follow(cluster, name, "my-app") as app, follow(cluster, name, "vault-agent") as agent:
        with Load(add_and_read(service.ask)) as load:
            cluster.kubectl("delete", "pod", *PRODUCTION, name, "--wait=false")
            wait_until(lambda: address not in service.ready, "that it gets no more", POD_PATIENCE)
            load.goes_on()
            wait_until(lambda: len(ended(cluster, name)) == 2, "its end", POD_PATIENCE)
            wait_until(lambda: len(service.ready) == 2, "another pod", POD_PATIENCE)
            load.goes_on()
        drained = said_at(app, "Application shutdown complete")
        told = said_at(agent, "Vault Agent shutdown triggered")
    exits = ended(cluster, name)
    patch(cluster, name, [])
    print(f"{load.succeeded} requests through the end of a pod: {load.failures}")
    assert load.failures == []
    assert exits == {"my-app": 0, "vault-agent": 0}, "no container was killed"
    assert drained < told, "the sidecar is stopped after the service"
    wait_until(lambda: user not in world.postgres.roles(), "the lease's end", POD_PATIENCE)


def patch(cluster: Cluster, name: str, finalizers: list[str]) -> None:
    change = json.dumps({"metadata": {"finalizers": finalizers or None}})
    cluster.kubectl("patch", "pod", *PRODUCTION, name, "-p", change)


def follow(cluster: Cluster, pod: str, container: str) -> subprocess.Popen[str]:
    options = ("logs", "-f", "--timestamps", *PRODUCTION, pod, "-c", container)
    return subprocess.Popen(cluster.command(*options), stdout=subprocess.PIPE, text=True)


def said_at(log: subprocess.Popen[str], text: str) -> str:
    """Return when a line was said, once there are no more of them."""
    said, _ = log.communicate(timeout=POD_PATIENCE)
    [line] = [line for line in said.splitlines() if text in line]
    return line.split()[0]


def ended(cluster: Cluster, name: str) -> dict[str, int]:
    """Return with which status each container of a pod has ended."""
    status = cluster.get(f"/api/v1/namespaces/production/pods/{name}")["status"]
    every = [*status["initContainerStatuses"], *status["containerStatuses"]]
    ended = [c for c in every if "terminated" in c["state"]]
    return {c["name"]: c["state"]["terminated"]["exitCode"] for c in ended}
