"""`examples/vm` as its README says: a machine with systemd, a PostgreSQL and a Vault, all with TLS.

The addresses are those of the example, so that its files are used as they are. Only the role id is
filled in.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Self

from example_world import EXAMPLES
from twins import wait_until

from certificates import Authority
from docker_engine import docker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["IMAGES", "UNITS", "MachineWorld"]

IMAGES = ("ephemeral-creds-machine", "hashicorp/vault:1.21.1", "postgres:17")

PROJECT = EXAMPLES.parent
SECRET = "for-this-test-only"
DATABASE, VAULT = "db.example.com", "vault.example.com"
SUBNET, MACHINE = "10.20.1.0/24", "10.20.1.7"
UNITS = ("my-app-secret-id.service", "my-app.service")
TOKEN = PurePosixPath("/etc/my-app/wrapped-secret-id")
INSTALL = f"""
    install -D -t /opt/my-app /project/examples/worker/worker.py /project/examples/vm/*.py
    install -D -m 0644 /tls/{VAULT}-CA.pem /etc/my-app/vault-ca.crt
    install -D -m 0644 /tls/{DATABASE}-CA.pem /etc/my-app/db-ca.crt
    install -m 0644 -t /etc/systemd/system /project/examples/vm/*.service
    sed -i "s/ROLE_ID=00000000-0000-0000-0000-000000000000/ROLE_ID=$1/" \\
        /etc/systemd/system/my-app.service
    /usr/bin/python3 -m venv /opt/my-app/venv
    /opt/my-app/venv/bin/pip install -q /project 'psycopg[binary]>=3.3'
    systemctl daemon-reload
    systemctl -q enable my-app-secret-id.service my-app.service
"""
ROLES = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-approle-%'"
USERS = "SELECT DISTINCT usename FROM pg_stat_activity WHERE usename LIKE 'v-approle-%'"
UNENCRYPTED = """
    SELECT usename FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
    WHERE client_addr IS NOT NULL AND NOT ssl
"""


class MachineWorld:
    """Three containers in a network of their own, which leave nothing behind.

    Args:
        folder: for certificates and for what is copied into the machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._name = f"ephemeral-creds-{os.getpid()}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            docker("network", "create", "--subnet", SUBNET, self._name)
            stack.callback(docker, "network", "rm", self._name)
            self._make_certificates()
            self._run_postgres()
            self._run_vault()
            self._run_machine()
            self._set_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    # --- What tests do ----------------------------------------------------------------------------

    def on_machine(self, *command: str, said: str = "") -> str:
        """Run a command on the machine, as root."""
        return docker("exec", "-i", f"{self._name}-machine", *command, said=said)

    def systemctl(self, *arguments: str) -> bool:
        """Say whether systemd does as it is told."""
        return not self._attempt("machine", "systemctl", *arguments).returncode

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.on_machine("systemctl", "show", "-P", name, unit).strip()

    def journal(self, unit: str = "my-app") -> str:
        """Return what a unit has said since it was started last, systemd's own lines included."""
        invocation = self.show(unit, "InvocationID")
        return self.on_machine(
            *("journalctl", "-o", "cat", "--no-pager"),
            *(f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"INVOCATION_ID={invocation}"),
        )

    def whole_journal(self) -> str:
        """Return all that all units have said."""
        return self.on_machine("journalctl", "--no-pager")

    def wrapping_token(self) -> str:
        """Have `deliver.sh` print one."""
        return self._as_admin("sh", "/project/examples/vm/deliver.sh").strip()

    def unwrap(self, token: str) -> None:
        """Use it up, elsewhere."""
        self._as_admin("vault", "unwrap", token)

    def log_in_elsewhere(self, secret_id: str) -> str:
        """Use a secret id at another address than the machine's, and return Vault's answer."""
        unit = self.on_machine("cat", "/etc/systemd/system/my-app.service")
        role_id = unit.partition("VAULT_ROLE_ID=")[2].split()[0]
        login = ("vault", "write", "auth/approle/login", f"role_id={role_id}", "secret_id=-")
        return self._attempt("vault", *login, said=secret_id).stderr

    def deliver(self, token: str) -> None:
        """Put a token on the machine, as the comment in `deliver.sh` says."""
        self.on_machine("sh", "-c", f"umask 077 && cat > {TOKEN}", said=token)

    def has_token(self) -> bool:
        """Say whether a token waits to be unwrapped."""
        return TOKEN.name in self.on_machine("ls", str(TOKEN.parent)).split()

    def query(self, statement: str) -> list[str]:
        """Ask the database as its superuser, and return the lines of the answer."""
        psql = ("psql", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-Atqc", statement, "mydb")
        return docker("exec", f"{self._name}-db", *psql).splitlines()

    def roles(self) -> set[str]:
        """Return the roles that Vault has made and not dropped yet."""
        return set(self.query(ROLES))

    def users(self) -> set[str]:
        """Return who the service's sessions logged in as."""
        return set(self.query(USERS))

    def unencrypted_sessions(self) -> list[str]:
        """Return who is connected over the network without TLS."""
        return self.query(UNENCRYPTED)

    def do_job(self) -> None:
        """Order a job, and wait until the service has done it."""
        [number] = self.query("INSERT INTO my_app.jobs (payload) VALUES ('x') RETURNING id")
        done = f"SELECT done_by FROM my_app.jobs WHERE id = {number}"
        wait_until(lambda: self.query(done) == ["my_app"], "a job")

    def reboot(self) -> None:
        """Stop the machine in order and start it again."""
        docker("restart", "--time", "60", f"{self._name}-machine")
        self._wait_for_systemd()

    @contextmanager
    def no_vault(self) -> Iterator[None]:
        """Let nothing answer where the machine looks for Vault."""
        self.on_machine("sh", "-c", f"cp /etc/hosts /root && echo 127.0.0.1 {VAULT} >> /etc/hosts")
        yield
        self.on_machine("cp", "/root/hosts", "/etc/hosts")

    # --- How it is made ---------------------------------------------------------------------------

    def _run(self, role: str, *arguments: str) -> None:
        name = f"{self._name}-{role}"
        # Registered first: a container that does not start is there all the same.
        self._stack.callback(docker, "rm", "--force", "--volumes", name)
        docker("run", "--detach", "--name", name, "--network", self._name, *arguments)

    def _make_certificates(self) -> None:
        tls = self._folder / "tls"
        tls.mkdir()
        for name in (DATABASE, VAULT):
            authority = Authority(tls, f"{name} CA")
            authority.issue(name, server=True)
        (tls / "vault.hcl").write_text(
            'listener "tcp" {\n  address = "0.0.0.0:8200"\n'
            f'  tls_cert_file = "/tls/{VAULT}.pem"\n  tls_key_file = "/tls/{VAULT}-key.pem"\n}}\n'
        )

    def _shared(self) -> Sequence[str]:
        return ("-v", f"{self._folder / 'tls'}:/tls:ro", "-v", f"{PROJECT}:/project:ro")

    def _run_postgres(self) -> None:
        # PostgreSQL wants its key to be its own.
        command = (
            f"install -o postgres -m 0600 /tls/{DATABASE}-key.pem /var/lib/postgresql/key.pem && "
            f"exec docker-entrypoint.sh postgres -c ssl=on -c ssl_cert_file=/tls/{DATABASE}.pem"
            " -c ssl_key_file=/var/lib/postgresql/key.pem"
        )
        self._run(
            *("db", "--network-alias", DATABASE, "--tmpfs", "/var/lib/postgresql/data"),
            *("-e", "POSTGRES_DB=mydb", "-e", f"POSTGRES_PASSWORD={SECRET}", *self._shared()),
            *("--entrypoint", "sh", "postgres:17", "-c", command),
        )
        # Over TCP: during its first setup it listens on its socket only.
        self._wait_for("db", "pg_isready", "-h", "127.0.0.1", "-U", "postgres", "-d", "mydb")

    def _run_vault(self) -> None:
        self._run(
            *("vault", "--network-alias", VAULT, "--cap-add", "IPC_LOCK", *self._shared()),
            *("-e", f"VAULT_ADDR=https://{VAULT}:8200", "-e", f"VAULT_CACERT=/tls/{VAULT}-CA.pem"),
            # Whom it trusts for PostgreSQL.
            *("-e", f"SSL_CERT_FILE=/tls/{DATABASE}-CA.pem"),
            *("--entrypoint", "vault", "hashicorp/vault:1.21.1", "server", "-dev"),
            *("-dev-listen-address=127.0.0.1:8210", f"-dev-root-token-id={SECRET}"),
            "-config=/tls/vault.hcl",
        )
        self._wait_for("vault", "vault", "status")

    def _run_machine(self) -> None:
        self._run(
            *("machine", "--privileged", "--cgroupns", "private", "--ip", MACHINE),
            *("--tmpfs", "/run", "--tmpfs", "/run/lock", *self._shared()),
            "ephemeral-creds-machine",
        )
        self._wait_for_systemd()

    def _wait_for_systemd(self) -> None:
        self._wait_for("machine", "systemctl", "is-system-running", "--wait")

    def _attempt(
        self, role: str, *command: str, said: str = ""
    ) -> subprocess.CompletedProcess[str]:
        whole = ("docker", "exec", "-i", f"{self._name}-{role}", *command)
        return subprocess.run(whole, input=said, capture_output=True, text=True, check=False)

    def _wait_for(self, role: str, *command: str) -> None:
        what = f"{role}: {' '.join(command)}"
        try:
            wait_until(lambda: not self._attempt(role, *command).returncode, what)
        except AssertionError as error:
            error.add_note(docker("logs", f"{self._name}-{role}"))
            raise

    def _as_admin(self, *command: str, **variables: str) -> str:
        named = {"VAULT_TOKEN": SECRET, **variables}
        environment = [word for name in named for word in ("-e", f"{name}={named[name]}")]
        return docker("exec", *environment, f"{self._name}-vault", *command)

    def _set_up(self) -> None:
        # ../vault, then approle.sh.
        docker(
            *("exec", f"{self._name}-db", "psql", "-v", "ON_ERROR_STOP=1", "-U", "postgres"),
            *(
                "-v",
                f"admin_password={SECRET}",
                "-qf",
                "/project/examples/vault/schema.sql",
                "mydb",
            ),
        )
        self._as_admin(
            *("sh", "/project/examples/vault/database.sh"),
            DB_HOST=DATABASE, DB_PASSWORD=SECRET, DEFAULT_TTL="5s", MAX_TTL="10s",
        )  # fmt: skip
        role_id = self._as_admin("sh", "/project/examples/vm/approle.sh").splitlines()[-1]
        self.on_machine("sh", "-euc", INSTALL, "install", role_id)
