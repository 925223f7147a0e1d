"""What the programs of a Kubernetes of one node are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CNI",
    "CONTAINERD",
    "CONTAINERD_SOCKET",
    "DATABASE",
    "DOMAINS",
    "HOSTS",
    "ISSUER",
    "NETWORK",
    "NODE",
    "SANDBOX",
    "TUNABLES",
    "VAULT",
    "kubeconfig",
    "kubelet_configuration",
]

NODE, VAULT, DATABASE = "10.30.0.1", "10.20.1.10", "10.20.0.10"
HOSTS = {"localhost": "127.0.0.1", "vault.example.com": VAULT, "db.example.com": DATABASE}
# No other server is asked about these.
DOMAINS = ("example.com", "cluster.local")

ISSUER = "https://kubernetes.default.svc.cluster.local"
"""The audience of tokens that ask for none: kubeadm's default, and with it most clusters'."""

SANDBOX = "registry.example.com/pause:1"

# What the kubelet wants of the kernel, and would set for the whole machine.
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}

CNI = "/usr/lib/cni"
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.244.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}

CONTAINERD_SOCKET = "/run/containerd.sock"
CONTAINERD = f"""\
version = 2
root = "{{folder}}/containerd"
state = "/run/containerd-state"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX}"
  # Root may lack the capability to protect its processes from the kernel's memory killer.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{{folder}}/cni"
"""


def kubeconfig(server: str, ca: Path, token: str) -> dict[str, Any]:
    """Return a client's configuration."""
    cluster = {"server": server, "certificate-authority": str(ca)}
    return {
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": "me", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "here",
    }


def kubelet_configuration(folder: Path, cgroup: str) -> dict[str, Any]:
    """Return the kubelet's configuration: it answers all requests, since only ours reach it."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [NODE],
        "clusterDomain": "cluster.local",
        "resolvConf": str(folder / "resolv.conf"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        # However full the machine's disk is.
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
    }
