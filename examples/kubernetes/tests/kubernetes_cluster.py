"""A Kubernetes of one node, from its own programs, where `isolated.py` has made room for it.

There is no kube-proxy, and nothing enforces network policies: the pods' network is a bridge. The
machine's names and addresses are those of `HOSTS`, for pods as well.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, Self

import yaml
from kubernetes_settings import (
    CNI,
    CONTAINERD,
    CONTAINERD_SOCKET,
    DATABASE,
    DOMAINS,
    HOSTS,
    ISSUER,
    NETWORK,
    NODE,
    TUNABLES,
    VAULT,
    kubeconfig,
    kubelet_configuration,
)
from twins import wait_until

from certificates import Authority
from docker_engine import succeeds
from ephemeral_creds.testing._process import end_process, plain_environment

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["POD_PATIENCE", "Cluster", "KubectlFailed", "missing"]

POD_PATIENCE = 300.0
"""Seconds for what takes a pod's start or end, on a busy machine."""

ETCD = "server"  # the program is called like the last part of its module
_BUILT = (ETCD, "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")
_INSTALLED = ("containerd", "ctr", "runc", "dnsmasq", "ip", "iptables", "mount")


def missing(programs: Path) -> list[str]:
    """Return what a node needs, and is not here."""
    absent = [name for name in _INSTALLED if shutil.which(name) is None]
    absent += [str(programs / name) for name in _BUILT if not (programs / name).exists()]
    return absent + [f"{CNI}/{name}" for name in ("bridge", "host-local", "loopback")
                     if not Path(CNI, name).exists()]  # fmt: skip


class KubectlFailed(Exception):
    """What kubectl was asked for was not done; the message has its reason."""


class Cluster:
    """Control plane and node, until the block ends.

    Args:
        programs: the folder with Kubernetes' own programs, and etcd.
        images: makes an archive of images at the path that it is given.

    Attributes:
        address: where the API is.
        authority: who signed the API's certificate.
    """

    authority: Authority

    def __init__(self, programs: Path, images: Callable[[Path], None]) -> None:
        self.address = f"https://{NODE}:6443"
        self._programs = programs
        self._images = images
        self._stack = ExitStack()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._token = secrets.token_urlsafe(24)

    def __enter__(self) -> Self:
        assert [name for _, name in socket.if_nameindex()] == ["lo"], "only in isolated.py"
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run it as the administrator, and return what it says, warnings included.

        Raises:
            KubectlFailed: it did not do what it was asked for.
        """
        done = subprocess.run(
            self.command(*arguments), input=given, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise KubectlFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout + done.stderr

    def command(self, *arguments: str) -> list[str]:
        """Return what runs kubectl as the administrator."""
        options = f"--kubeconfig={self._folder / 'admin.kubeconfig'}"
        return [str(self._programs / "kubectl"), options, *arguments]

    def get(self, path: str) -> Any:
        """Ask the API as the administrator."""
        header = {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(f"{self.address}{path}", headers=header)
        with urllib.request.urlopen(request, timeout=POD_PATIENCE, context=self._tls) as answer:
            return json.load(answer)

    def trust(self, authority: Authority) -> None:
        """Let everything on this machine trust an authority, as its administrator would."""
        folder = self._folder / "trusted"
        folder.mkdir()
        (folder / "ca-certificates.crt").write_text(authority.pem)
        self._mount("--bind", str(folder), "/etc/ssl/certs")

    # --- Start --------------------------------------------------------------------------------

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kubernetes-"))
        self._mount("-t", "tmpfs", "tmpfs", str(self._folder))
        self.authority = Authority(self._folder, "kubernetes CA")
        self._tls = ssl.create_default_context(cafile=str(self.authority.path))
        self._images(self._folder / "images.tar")  # asks Docker, whose socket is hidden next
        self._hide_the_machine()
        self._connect_the_machine()
        self._start_control_plane()
        self._start_node()

    def _hide_the_machine(self) -> None:
        """Put what is written here over what belongs to the machine; no other process sees it."""
        for path in ("/run", "/var/lib", "/var/log"):
            self._mount("-t", "tmpfs", "tmpfs", path)
        for name, value in TUNABLES.items():
            pretended = self._write(Path(name).name, f"{value}\n")
            self._mount("--bind", str(pretended), f"/proc/sys/{name}")
        hosts = self._write("hosts", "".join(f"{ip} {name}\n" for name, ip in HOSTS.items()))
        self._mount("--bind", str(hosts), "/etc/hosts")

    def _connect_the_machine(self) -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in (NODE, VAULT, DATABASE):
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self._run(
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file"),
            *("--user=root", "--log-facility=-", "--no-resolv", "--bind-interfaces"),
            *(f"--listen-address={NODE}", *(f"--local=/{domain}/" for domain in DOMAINS)),
        )

    def _start_control_plane(self) -> None:
        serving = self.authority.issue("kubernetes", server=True, ip=NODE)
        signing = self.authority.issue("service-accounts")
        node_token = secrets.token_urlsafe(24)
        admin = self._kubeconfig("admin", self._token)
        self._kubeconfig("node", node_token)
        users = self._write(
            "users.csv",
            f"{self._token},admin,admin,system:masters\n"
            f"{node_token},system:node:node,node,system:nodes\n",
        )
        self._run(ETCD, f"--data-dir={self._folder / 'etcd'}")
        self._run(
            *("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443"),
            *(f"--bind-address={NODE}", f"--advertise-address={NODE}"),
            *(f"--tls-cert-file={serving.cert}", f"--tls-private-key-file={serving.key}"),
            *(f"--token-auth-file={users}", "--authorization-mode=Node,RBAC"),
            *(f"--service-account-issuer={ISSUER}", f"--service-account-key-file={signing.cert}"),
            *(f"--service-account-signing-key-file={signing.key}",),
            *("--service-cluster-ip-range=10.96.0.0/16",),
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self._wait_until(self._answers, "the API server")
        self._run(
            *("kube-controller-manager", admin, "--leader-elect=false"),
            *("--bind-address=127.0.0.1", f"--root-ca-file={self.authority.path}"),
            f"--service-account-private-key-file={signing.key}",
        )
        self._run("kube-scheduler", admin, "--leader-elect=false", "--bind-address=127.0.0.1")

    def _start_node(self) -> None:
        self._write("cni/pods.conflist", json.dumps(NETWORK))
        settings = self._write("containerd.toml", CONTAINERD.format(folder=self._folder))
        self._run("containerd", f"--config={settings}")
        ctr = ["ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io"]
        self._wait_until(lambda: succeeds(*ctr, "version"), "containerd")
        archive = self._folder / "images.tar"
        subprocess.run([*ctr, "images", "import", archive], check=True, capture_output=True)
        archive.unlink()
        self._write("resolv.conf", f"nameserver {NODE}\n")
        configuration = kubelet_configuration(self._folder, os.environ["ISOLATED_CGROUP"])
        config = self._write("kubelet.yaml", yaml.safe_dump(configuration))
        self._run(
            *("kubelet", f"--config={config}", f"--node-ip={NODE}", "--hostname-override=node"),
            f"--kubeconfig={self._folder / 'node.kubeconfig'}",
            f"--root-dir={self._folder / 'kubelet'}",
        )
        self._wait_until(self._is_ready, "the node")

    def _answers(self) -> bool:
        try:
            self.get("/api/v1/namespaces/default")
        except OSError:
            return False
        return True

    def _is_ready(self) -> bool:
        nodes = self.get("/api/v1/nodes")["items"]
        conditions = [c for node in nodes for c in node["status"].get("conditions", [])]
        return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)

    # --- Parts --------------------------------------------------------------------------------

    def _run(self, name: str, *arguments: str) -> None:
        built = self._programs / name
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [built if built.exists() else name, *arguments],
                env=plain_environment(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._stack.callback(end_process, process, (SIGTERM, 20.0))
        self._running[name] = process

    def _wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait, unless a program has ended; what they say is part of a failure."""

        def holds() -> object:
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            assert not ended, f"ended while waiting for {what}: {ended}"
            return condition()

        try:
            wait_until(holds, what, POD_PATIENCE)
        except AssertionError as error:
            for name in self._running:
                said = (self._folder / f"{name}.log").read_text(errors="replace")
                error.add_note(f"--- {name}\n{said[-2000:]}")
            raise

    def _kubeconfig(self, user: str, token: str) -> str:
        settings = kubeconfig(self.address, self.authority.path, token)
        return f"--kubeconfig={self._write(f'{user}.kubeconfig', json.dumps(settings))}"

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path
