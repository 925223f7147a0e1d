"""What `examples/` says is done: each script, policy, statement and agent, on real servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml
from example_world import EXAMPLES, ROLE, ExampleWorld
from minting import PATIENCE
from twins import wait_until

from ephemeral_creds import FileProvider
from ephemeral_creds.testing import VaultAgent, find_vault
from ephemeral_creds.testing._process import free_port
from service_accounts import TokenReviewServer, agent_method, make_service_account_jwt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from canary import Canary

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.vault]

KUBERNETES = EXAMPLES / "kubernetes"
VM = EXAMPLES / "vm"


@pytest.fixture(scope="module")
def binary() -> Path:
    return find_vault()


@pytest.fixture(scope="module")
def world(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleWorld]:
    with ExampleWorld(binary, tmp_path_factory.mktemp("world")) as world:
        world.set_up()
        yield world


@pytest.fixture(scope="module")
def reviewer(world: ExampleWorld) -> Iterator[TokenReviewServer]:
    """Kubernetes, as far as Vault asks it, with `vault-auth.sh` done."""
    with TokenReviewServer() as reviewer:
        world.run(
            KUBERNETES / "vault-auth.sh",
            KUBERNETES_HOST=reviewer.address,
            KUBERNETES_CA=reviewer.ca_certificate,
            TOKEN_REVIEWER_JWT="stub.stub.stub",
        )
        yield reviewer


@pytest.fixture(scope="module")
def role_id(world: ExampleWorld) -> str:
    return world.run(VM / "approle.sh", MACHINE_CIDR="127.0.0.1/32").splitlines()[-1]


@pytest.fixture
def folder(tmp_path: Path, canary: Canary) -> Path:
    canary.allow_secret_file(tmp_path)  # what agents, operators and systemd write
    return tmp_path


# --- PostgreSQL and Vault ------------------------------------------------------------------------


def test_a_user_acts_as_the_owner_and_leaves_nothing(world: ExampleWorld) -> None:
    minted = world.read()
    user = minted.data["username"]
    with world.login(minted) as connection:
        connection.execute("SET ROLE my_app")
        connection.execute("INSERT INTO jobs (payload) VALUES ('x')")
        # And everything that a service should not do, but may: own things, and hand on rights.
        connection.execute("RESET ROLE")
        # Many: the session that is thrown out is busy dropping them while Vault continues.
        for number in range(300):
            connection.execute(f"CREATE TEMPORARY TABLE passing_{number} (n int)")
        connection.execute("SET ROLE my_app")
        connection.execute(f'GRANT CREATE ON SCHEMA my_app TO "{user}"')
        connection.execute("RESET ROLE")
        connection.execute("CREATE TABLE my_app.owned (n int)")
        world.admin.revoke_lease(minted.body["lease_id"])
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")
    assert world.postgres.roles(user) == []
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'owned'"
    assert world.query(owner) == [("my_app",)]


def test_vault_changed_the_password_of_its_own_login(world: ExampleWorld) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        world.postgres.login("vault_admin", world.postgres.password)


def test_vaults_login_is_no_superuser(world: ExampleWorld) -> None:
    query = "SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = 'vault_admin'"
    assert world.query(query) == [(False, True)]


def test_the_policy_allows_what_the_library_does_and_no_more(world: ExampleWorld) -> None:
    token = world.admin.create_token(["my-app"])
    answer = world.admin.call("GET", f"database/creds/{ROLE}", token=token)
    lease = {"lease_id": answer.body["lease_id"]}
    world.admin.call("PUT", "sys/leases/renew", lease, token=token)
    world.admin.call("PUT", "sys/leases/revoke", lease, token=token)
    for path in ("database/creds/another", "database/config/my-db", "sys/policies/acl/my-app"):
        assert world.admin.request("GET", path, token=token).status == 403


# --- Kubernetes ----------------------------------------------------------------------------------


def injector_annotations() -> dict[str, str]:
    deployment = yaml.safe_load((KUBERNETES / "injector.yaml").read_text())
    found: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
    return {key.removeprefix("vault.hashicorp.com/"): value for key, value in found.items()}


def logs_in(world: ExampleWorld, file: Path) -> str:
    """Log in with what a file has, and return as whom."""
    credentials = FileProvider(file).fetch().credentials
    with world.postgres.login(credentials.username, credentials.password, "mydb") as connection:
        connection.execute("SET ROLE my_app")
        connection.execute("SELECT count(*) FROM jobs")
    return credentials.username


def test_the_injectors_template_and_role(
    world: ExampleWorld, reviewer: TokenReviewServer, folder: Path
) -> None:
    said = injector_annotations()
    file = folder / "db-creds.txt"
    agent = VaultAgent(
        world.vault.address,
        agent_method(folder, said["role"], "my-app", "production"),
        templates={file: said["agent-inject-template-db-creds.txt"]},
        perms=said["agent-inject-perms-db-creds.txt"],
    )
    with agent:
        assert logs_in(world, file).startswith("v-kubernet-my-app-r-")
        assert file.stat().st_mode & 0o777 == 0o400
        assert said["agent-inject-secret-db-creds.txt"] == f"database/creds/{ROLE}"


def test_another_service_account_is_refused(
    world: ExampleWorld, reviewer: TokenReviewServer
) -> None:
    jwt = make_service_account_jwt("my-app", "staging")
    body = {"role": "my-app", "jwt": jwt.reveal()}
    answer = world.admin.request("POST", "auth/kubernetes/login", body)
    assert (answer.status, answer.errors) == (403, ["namespace not authorized"])


@contextmanager
def agent_with(binary: Path, config: str, folder: Path, **variables: str) -> Iterator[Path]:
    """Run an agent with a configuration file of an example; the yield is where it writes."""
    target = folder / "secrets" / "db-creds.txt"
    config = config.replace("/vault/secrets/db-creds.txt", str(target))
    (folder / "agent.hcl").write_text(config)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, "agent", f"-config={folder / 'agent.hcl'}"],
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **variables},
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(target.exists, "the file")
            yield target
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def test_the_native_sidecars_agent(
    world: ExampleWorld, reviewer: TokenReviewServer, binary: Path, folder: Path
) -> None:
    documents = yaml.safe_load_all((KUBERNETES / "native-sidecar.yaml").read_text())
    config = next(d for d in documents if d["kind"] == "ConfigMap")["data"]["agent.hcl"]
    token = folder / "token"
    token.write_text(make_service_account_jwt("my-app", "production").reveal())
    for ours, here in (
        ("https://vault.example.com:8200", world.vault.address),
        ("/var/run/secrets/vault/token", str(token)),
        ('ca_cert = "/vault/tls/ca.crt"', ""),
    ):
        assert ours in config
        config = config.replace(ours, here)
    with agent_with(binary, config, folder) as file:
        assert logs_in(world, file).startswith("v-kubernet-my-app-r-")
        assert file.stat().st_mode & 0o777 == 0o400
        assert file.read_text().count("\n") == 1, "no newline at the end"


# --- A machine of its own ------------------------------------------------------------------------


def unwrap(world: ExampleWorld, folder: Path, token: str) -> subprocess.CompletedProcess[str]:
    (folder / "wrapped-secret-id").write_text(f"{token}\n")
    return subprocess.run(
        [sys.executable, VM / "unwrap_secret_id.py"],
        env={"VAULT_ADDR": world.vault.address, "CREDENTIALS_DIRECTORY": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_worker_with_a_wrapped_secret_id(world: ExampleWorld, role_id: str, folder: Path) -> None:
    token = world.run(VM / "deliver.sh").strip()
    first, second = unwrap(world, folder, token), unwrap(world, folder, token)
    assert first.returncode == 0, first.stderr
    assert second.returncode != 0
    assert "another party has used it" in second.stderr
    (folder / "secret-id").write_text(first.stdout)
    [(number,)] = world.query("INSERT INTO my_app.jobs (payload) VALUES ('work') RETURNING id")
    worker = subprocess.Popen(
        [sys.executable, EXAMPLES / "worker/worker.py"],
        env={
            "VAULT_ADDR": world.vault.address,
            "VAULT_ROLE": ROLE,
            "VAULT_ROLE_ID": role_id,
            "CREDENTIALS_DIRECTORY": str(folder),
            "DB_CONNINFO": world.conninfo,
            "DB_SESSION_ROLE": "my_app",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        done_by = f"SELECT done_by FROM my_app.jobs WHERE id = {number}"
        wait_until(lambda: world.query(done_by) == [("my_app",)], "the job")
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=PATIENCE)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 0, said
    assert said.splitlines()[-1] == "INFO worker: stopped"
    assert world.postgres.roles("v-approle-") == [], "the worker gave its lease back"


def test_a_token_that_wraps_something_else_is_refused(world: ExampleWorld, folder: Path) -> None:
    wrapped = subprocess.run(
        ["vault", "write", "-wrap-ttl=1m", "-field=wrapping_token", "sys/wrapping/wrap", "a=b"],
        env=world.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    refused = unwrap(world, folder, wrapped)
    assert refused.returncode != 0
    assert "wraps an answer of sys/wrapping/wrap" in refused.stderr


# --- Compose -------------------------------------------------------------------------------------


def test_the_compose_files_parts(binary: Path, folder: Path) -> None:
    compose = EXAMPLES / "docker-compose"
    (folder / "approle").mkdir()
    with ExampleWorld(binary, folder) as fresh:
        setup = (compose / "postgres-setup.sh").read_text()
        setup = setup.replace("/setup/schema.sql", str(EXAMPLES / "vault/schema.sql"))
        (folder / "setup.sh").write_text(setup)
        (folder / "setup.sh").chmod(0o755)
        password = fresh.postgres.password.reveal()
        fresh.run(folder / "setup.sh", POSTGRES_DB="mydb", POSTGRES_PASSWORD=password)
        for _ in range(2):  # a second `up` finds Vault as it was
            fresh.run(compose / "vault-setup.sh", APPROLE_FOLDER=str(folder / "approle"))
        config = (compose / "agent.hcl").read_text()
        assert "/approle/" in config
        config = config.replace('"/approle/', f'"{folder}/approle/')
        with agent_with(binary, config, folder, VAULT_ADDR=fresh.vault.address) as file:
            assert logs_in(fresh, file).startswith("v-approle-my-app-r-")


# --- FastAPI -------------------------------------------------------------------------------------


def test_fastapi(world: ExampleWorld, folder: Path) -> None:
    file = folder / "db-creds.txt"

    def write() -> str:
        data = world.read().data
        new = file.with_suffix(".new")
        new.touch(0o600)
        new.write_text(f"DB_USERNAME={data['username']}\nDB_PASSWORD={data['password']}")
        new.replace(file)
        return str(data["username"])

    def ask(path: str, method: str = "GET") -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def listens() -> bool:
        assert server.poll() is None
        try:
            return ask("/healthz") == (200, {"alive": True})
        except OSError:
            return False

    write()
    port = free_port()
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES / "fastapi")),
            *("--port", str(port), "--log-level", "warning", "main:app"),
        ],
        env={"PATH": os.environ["PATH"], "DB_CREDS": str(file), "DB_CONNINFO": world.conninfo,
             "DB_SESSION_ROLE": "my_app"},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        wait_until(listens, "the server")
        wait_until(lambda: ask("/readyz")[0] == 200, "readiness")
        status, job = ask("/jobs?payload=hello", "POST")
        assert status == 201
        assert ask(f"/jobs/{job['id']}") == (200, {"payload": "hello", "done_by": None})
        assert ask("/jobs/0")[0] == 404
        write()
        wait_until(lambda: ask("/readyz")[1] == {"ready": True, "generation": 2}, "a rotation")
        assert ask(f"/jobs/{job['id']}")[0] == 200
        server.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        _, said = server.communicate(timeout=PATIENCE)
    finally:
        server.kill()
        server.wait()
    assert time.monotonic() - begun < PATIENCE
    assert "Traceback" not in said
    world.admin.revoke_prefix(f"database/creds/{ROLE}")
