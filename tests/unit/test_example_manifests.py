"""The examples' manifests, units and Compose file fit their schemas, and do what the docs say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from docker_engine import find_compose

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.37"
WITH_A_FILE = ["injector.yaml", "native-sidecar.yaml", "vault-secrets-operator.yaml"]
# What the operator's own definitions require, and by what ours find each other; see
# https://developer.hashicorp.com/vault/docs/deploy/kubernetes/vso/api-reference.
OPERATOR = {
    "VaultConnection": {"address"},
    "VaultAuth": {"method", "mount", "kubernetes", "vaultConnectionRef"},
    "VaultDynamicSecret": {"mount", "path", "destination", "vaultAuthRef"},
}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def one(name: str, kind: str) -> dict[str, Any]:
    [found] = [d for d in documents(EXAMPLES / "kubernetes" / name) if d["kind"] == kind]
    return found


ALL = [(path.name, document) for path in MANIFESTS for document in documents(path)]
CORE = [(n, d) for n, d in ALL if not d["apiVersion"].startswith("secrets.hashicorp.com/")]
CUSTOM = [(n, d) for n, d in ALL if d["apiVersion"].startswith("secrets.hashicorp.com/")]


@pytest.mark.parametrize(("name", "document"), CORE, ids=[f"{n}-{d['kind']}" for n, d in CORE])
def test_manifest_fits_its_schema(name: str, document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_wrong_manifest_would_be_found() -> None:
    deployment = one("injector.yaml", "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "document"), CUSTOM, ids=[d["kind"] for _, d in CUSTOM])
def test_custom_resource_has_what_it_needs(name: str, document: dict[str, Any]) -> None:
    assert document["apiVersion"] == "secrets.hashicorp.com/v1beta1"
    assert OPERATOR[document["kind"]] <= document["spec"].keys()
    assert document["metadata"]["namespace"] == "production"


def test_custom_resources_refer_to_each_other() -> None:
    name = "vault-secrets-operator.yaml"
    connection, auth = one(name, "VaultConnection"), one(name, "VaultAuth")
    secret, deployment = one(name, "VaultDynamicSecret"), one(name, "Deployment")
    assert auth["spec"]["vaultConnectionRef"] == connection["metadata"]["name"]
    assert secret["spec"]["vaultAuthRef"] == auth["metadata"]["name"]
    destination = secret["spec"]["destination"]
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert destination["name"] in [v["secret"]["secretName"] for v in volumes if "secret" in v]
    assert "db-creds.txt" in destination["transformation"]["templates"]
    assert "rolloutRestartTargets" not in secret["spec"]


@pytest.mark.parametrize("name", WITH_A_FILE)
def test_the_namespace_has_what_every_deployment_needs(name: str) -> None:
    deployment = one(name, "Deployment")
    account = one("namespace.yaml", "ServiceAccount")["metadata"]
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]
    namespace = one("namespace.yaml", "Namespace")["metadata"]["name"]
    assert deployment["metadata"]["namespace"] == account["namespace"] == namespace


@pytest.mark.parametrize("name", WITH_A_FILE)
def test_every_deployment_follows_the_rules(name: str) -> None:
    pod = one(name, "Deployment")["spec"]["template"]["spec"]
    [service] = pod["containers"]
    settings = {entry["name"]: entry["value"] for entry in service["env"]}
    assert "sslmode=verify-full" in settings["DB_CONNINFO"]
    assert settings["DB_CREDS"] == "/vault/secrets/db-creds.txt"
    assert not {"DB_PASSWORD", "DB_USERNAME", "DATABASE_URL"} & settings.keys()
    drained = service["lifecycle"]["preStop"]["sleep"]["seconds"] + 30
    assert pod["terminationGracePeriodSeconds"] > drained
    assert service["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert service["livenessProbe"]["httpGet"]["path"] == "/healthz"
    mounts = service["volumeMounts"]
    assert not any("subPath" in mount for mount in mounts), "a file mounted alone never changes"
    declared = {volume["name"] for volume in pod["volumes"]}
    everywhere = [m for c in [service, *pod.get("initContainers", [])] for m in c["volumeMounts"]]
    assert {mount["name"] for mount in everywhere} <= declared


def test_injector() -> None:
    template = one("injector.yaml", "Deployment")["spec"]["template"]
    said = template["metadata"]["annotations"]
    prefix = "vault.hashicorp.com/"
    assert all(isinstance(value, str) for value in said.values())
    assert said[f"{prefix}agent-init-first"] == "true"
    assert said[f"{prefix}agent-inject-perms-db-creds.txt"] == "0400"
    # The agent must be there for longer than the service needs, and Kubernetes wait for both.
    grace = int(said[f"{prefix}agent-revoke-grace"])
    assert 30 < grace < template["spec"]["terminationGracePeriodSeconds"]
    user = template["spec"]["securityContext"]["runAsUser"]
    assert said[f"{prefix}agent-run-as-user"] == str(user)
    [service] = template["spec"]["containers"]
    assert "/vault/secrets" not in [mount["mountPath"] for mount in service["volumeMounts"]]


def test_native_sidecar() -> None:
    pod = one("native-sidecar.yaml", "Deployment")["spec"]["template"]["spec"]
    [agent], [service] = pod["initContainers"], pod["containers"]
    assert agent["restartPolicy"] == "Always"
    file = "/vault/secrets/db-creds.txt"
    assert file in agent["startupProbe"]["exec"]["command"]
    assert f'"{file}"' in one("native-sidecar.yaml", "ConfigMap")["data"]["agent.hcl"]
    [shared] = [m for m in service["volumeMounts"] if m["mountPath"] == "/vault/secrets"]
    assert shared["readOnly"]
    [volume] = [v for v in pod["volumes"] if v["name"] == shared["name"]]
    assert volume["emptyDir"]["medium"] == "Memory"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("name", ["my-app.service", "my-app-secret-id.service"])
def test_systemd_accepts(name: str, tmp_path: Path) -> None:
    # It looks whether programs are there; this one is not, before it is installed.
    text = (EXAMPLES / "vm" / name).read_text(encoding="utf-8")
    unit = tmp_path / name
    unit.write_text(text.replace("/opt/my-app/venv/bin/python", sys.executable), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_compose_file_is_consistent() -> None:
    folder = EXAMPLES / "docker-compose"
    compose = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    services, volumes = compose["services"], compose["volumes"]
    conditions = {"service_started", "service_healthy", "service_completed_successfully"}
    for service in services.values():
        assert ("image" in service) != ("build" in service)
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in conditions
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other]
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in volumes or (folder / source).exists(), mount
    assert "-dev" in services["vault"]["command"]
    data = "/var/lib/postgresql/data"
    assert data in services["postgres"]["tmpfs"], "a Vault that forgot could not log in to it"
    build = services["app"]["build"]
    assert (folder / build["context"] / build["dockerfile"]).exists()


COMPOSE = find_compose()


@pytest.mark.slow
@pytest.mark.skipif(COMPOSE is None, reason="no Docker Compose here")
def test_compose_accepts_its_file() -> None:
    assert COMPOSE is not None
    file = EXAMPLES / "docker-compose/compose.yaml"
    done = subprocess.run(
        [*COMPOSE, "-f", str(file), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
