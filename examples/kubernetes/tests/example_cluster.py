"""What `examples/kubernetes` finds: images, PostgreSQL and Vault with TLS, and its requests."""

from __future__ import annotations

import itertools
import json
import os
import re
import tempfile
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from example_world import EXAMPLES, ExampleWorld
from kubernetes_cluster import POD_PATIENCE
from kubernetes_settings import DATABASE, SANDBOX, VAULT
from twins import wait_until

from certificates import Authority
from docker_engine import docker
from ephemeral_creds.testing import PostgresServer, VaultServer
from ephemeral_creds.testing._process import unprivileged_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubernetes_cluster import Cluster

__all__ = [
    "KUBERNETES",
    "PRODUCTION",
    "Service",
    "applied",
    "images",
    "make_images",
    "outside",
    "pods",
    "set_up",
]

KUBERNETES = EXAMPLES / "kubernetes"
PRODUCTION = ("-n", "production")
_PODS = "/api/v1/namespaces/production/pods?labelSelector=app%3Dmy-app"
_ENDPOINTS = (
    "/apis/discovery.k8s.io/v1/namespaces/production/endpointslices"
    "?labelSelector=kubernetes.io%2Fservice-name%3Dmy-app"
)
_DOCKERFILE = EXAMPLES / "docker-compose/Dockerfile"
_APP, _AGENT = "registry.example.com/my-app:1.0.0", "hashicorp/vault:1.21.1"
_SANDBOX_FILE = f'FROM {_AGENT}\nENTRYPOINT ["sleep", "infinity"]\n'

_SERVICE = """\
apiVersion: v1
kind: Service
metadata: { name: my-app, namespace: production }
spec:
  selector: { app: my-app }
  ports: [{ name: http, port: 80, targetPort: http }]
"""
_LISTENER = """\
listener "tcp" {{
  address       = "{address}:8200"
  tls_cert_file = "{issued.cert}"
  tls_key_file  = "{issued.key}"
}}
"""
# The administrator's psql comes with the wheel, and knows no TLS.
_HBA = """\
host    all postgres 127.0.0.1/32 scram-sha-256
hostssl all all      all          scram-sha-256
"""


# --- Images -----------------------------------------------------------------------------------


def images() -> list[str]:
    """Return the images that Docker has to have."""
    return [_AGENT, *re.findall(r"^FROM (\S+)", _DOCKERFILE.read_text(), re.MULTILINE)]


def make_images(archive: Path) -> None:
    """Build the service as the Compose example does, and save it with all else that pods need."""
    docker("build", "-f", str(_DOCKERFILE), "-t", _APP, str(EXAMPLES.parent))
    try:
        docker("build", "-t", SANDBOX, "-", said=_SANDBOX_FILE)
        docker("save", "-o", str(archive), _APP, SANDBOX, _AGENT)
    finally:
        docker("image", "rm", "--force", _APP, SANDBOX)


# --- Servers outside --------------------------------------------------------------------------


@contextmanager
def outside(
    cluster: Cluster, binary: Path, postgres_binaries: Path, *, default_ttl: str, max_ttl: str
) -> Iterator[tuple[ExampleWorld, Authority]]:
    """Run PostgreSQL and Vault with TLS, under the manifests' names, set up as the example says.

    The authority is the one that signed both certificates.
    """
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # PostgreSQL runs as another user
    authority = Authority(folder)
    cluster.trust(authority)
    issued = authority.issue("db.example.com", server=True)
    issued.key.chmod(0o600)
    os.chown(issued.key, unprivileged_user().get("user", -1), -1)
    (folder / "pg_hba.conf").write_text(_HBA)
    postgres = PostgresServer(
        binaries=postgres_binaries,
        options={
            "listen_addresses": f"127.0.0.1,{DATABASE}",
            "ssl": "on",
            "ssl_cert_file": str(issued.cert),
            "ssl_key_file": str(issued.key),
            "hba_file": str(folder / "pg_hba.conf"),
        },
    )
    postgres.port = 5432  # the manifests name none
    own = authority.issue("vault.example.com", server=True)
    (folder / "commands").mkdir()
    world = ExampleWorld(
        binary,
        folder / "commands",
        postgres=postgres,
        vault=VaultServer(binary, config=_LISTENER.format(address=VAULT, issued=own)),
        DB_HOST="db.example.com",
        DB_SSLMODE="verify-full",
        DEFAULT_TTL=default_ttl,
        MAX_TTL=max_ttl,
    )
    with world:
        world.set_up()
        yield world, authority


def set_up(cluster: Cluster, world: ExampleWorld, authority: Authority) -> None:
    """Do what `examples/kubernetes/README.md` says before the manifests with the service."""
    cluster.kubectl("apply", "-f", str(KUBERNETES / "namespace.yaml"))
    for kind in (["secret", "generic", "vault-ca"], ["configmap", "db-ca"]):
        cluster.kubectl("create", *kind, f"--from-file=ca.crt={authority.path}", *PRODUCTION)
    reviewer = ("vault-token-reviewer", "-n", "kube-system")
    cluster.kubectl("create", "serviceaccount", *reviewer)
    cluster.kubectl(
        *("create", "clusterrolebinding", "vault-token-reviewer"),
        *("--clusterrole=system:auth-delegator", f"--serviceaccount=kube-system:{reviewer[0]}"),
    )
    world.run(
        KUBERNETES / "vault-auth.sh",
        KUBERNETES_HOST=cluster.address,
        KUBERNETES_CA=f"@{cluster.authority.path}",
        TOKEN_REVIEWER_JWT=cluster.kubectl("create", "token", *reviewer).strip(),
    )


# --- Pods -------------------------------------------------------------------------------------


def pods(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the service's pods, those that are about to end included."""
    found: list[dict[str, Any]] = cluster.get(_PODS)["items"]
    return found


@contextmanager
def applied(cluster: Cluster, name: str) -> Iterator[str]:
    """Apply a manifest as it is, and take it away again; the yield is what kubectl says."""
    manifest = str(KUBERNETES / name)
    try:
        yield cluster.kubectl("apply", "-f", manifest)
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-f", manifest)
        wait_until(lambda: pods(cluster) == [], "the end of all pods", POD_PATIENCE)


class Service:
    """What a Service does: requests go, in turn, to the pods that the API says are ready."""

    def __init__(self, cluster: Cluster) -> None:
        self.ready: list[str] = []
        self._cluster = cluster
        self._turns = itertools.count()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._cluster.kubectl("apply", "-f", "-", given=_SERVICE)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(POD_PATIENCE)
        self._cluster.kubectl("delete", "-f", "-", given=_SERVICE)

    def ask(self, path: str, method: str) -> Any:
        """Send a request to the next pod that is ready."""
        ready = self.ready
        return self._ask(ready[next(self._turns) % len(ready)], path, method)

    def generations(self) -> list[int]:
        """Return how many credentials each pod has had."""
        return [self._ask(address, "/readyz", "GET")["generation"] for address in self.ready]

    def _ask(self, address: str, path: str, method: str) -> Any:
        request = urllib.request.Request(f"http://{address}:8000{path}", method=method)
        with urllib.request.urlopen(request, timeout=POD_PATIENCE) as answer:
            return json.load(answer)

    def _look(self) -> None:
        while not self._done.wait(0.2):
            self.ready = [
                endpoint["addresses"][0]
                for part in self._cluster.get(_ENDPOINTS)["items"]
                for endpoint in part["endpoints"] or []
                if endpoint["conditions"]["ready"]
            ]
