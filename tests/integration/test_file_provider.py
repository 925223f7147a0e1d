"""`FileProvider` behind a real Vault Agent: a sidecar, its template, and logins that work."""

from __future__ import annotations

import signal
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from ephemeral_creds.providers.file import FileProvider
from ephemeral_creds.testing import (
    DatabaseEngine,
    TokenReviewServer,
    VaultServer,
    make_service_account_jwt,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds._values import Credentials
    from ephemeral_creds.testing import PostgresServer

GENEROUS = 30.0  # seconds

AGENT = """\
vault {{ address = "{vault}" }}

auto_auth {{
  method "kubernetes" {{
    config = {{ role = "{role}", token_path = "{folder}/jwt" }}
  }}
}}

template {{
  destination = "{target}"
  contents    = <<EOT
{{{{- with secret "database/creds/{role}" -}}}}
DB_USERNAME={{{{ .Data.username }}}}
DB_PASSWORD={{{{ .Data.password }}}}
{{{{- end -}}}}
EOT
}}
"""


@contextmanager
def vault_agent(vault: VaultServer, folder: Path, role: str, target: Path) -> Iterator[None]:
    """Run the agent with Kubernetes auto-auth and the template, as the injector sets it up."""
    (folder / "jwt").write_text(make_service_account_jwt().reveal())
    (folder / "agent.hcl").write_text(
        AGENT.format(vault=vault.address, role=role, folder=folder, target=target)
    )
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [vault.binary, "agent", f"-config={folder / 'agent.hcl'}"],
            stdout=log,
            stderr=log,
            env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "NO_PROXY": "*"},
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(GENEROUS)


def who_am_i(postgres: PostgresServer, credentials: Credentials) -> str:
    with psycopg.connect(
        host=postgres.host,
        port=postgres.port,
        dbname="postgres",
        user=credentials.username,
        password=credentials.password.reveal(),
    ) as connection:
        row = connection.execute("SELECT current_user").fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.slow
def test_follows_a_vault_agent_through_two_rotations(
    real_vault: VaultServer,
    postgres: PostgresServer,
    unique: Callable[[str], str],
    tmp_path: Path,
    canary: Canary,
) -> None:
    canary.allow_secret_file(tmp_path)  # the sidecar's work
    role = unique("sidecar")
    engine = DatabaseEngine(real_vault, postgres)
    path = engine.create_role(role, default_ttl="2s", max_ttl="3s")
    policy = engine.admin.write_policy(role, {path: ["read"]})
    target = tmp_path / "secrets" / "db-creds.txt"
    changed = threading.Semaphore(0)
    provider = FileProvider(target, poll_interval=0.1)
    with TokenReviewServer() as reviewer:
        engine.admin.create_kubernetes_role(role, reviewer, [policy], token_ttl="1h")
        provider.watch(changed.release)
        try:
            names = []
            with vault_agent(real_vault, tmp_path, role, target):
                for _ in range(3):
                    assert changed.acquire(timeout=GENEROUS), (tmp_path / "agent.log").read_text()
                    credentials = provider.fetch().credentials
                    assert who_am_i(postgres, credentials) == credentials.username
                    names.append(credentials.username)
        finally:
            provider.close()
    assert len(set(names)) == 3, "each call was about new credentials"
    assert target.stat().st_mode & 0o777 == 0o644, "the agent's default"
