"""The first process in a cluster's namespaces: it prepares the network and starts every program.

When it ends, the kernel ends all processes and releases all mounts and interfaces of the cluster.

    python -m cluster.first_process RUN CONTAINERS PROGRAMS      (node.py)
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ADDRESS: Final = "10.89.0.1"  # of the node
CONTAINERD: Final = "/run/containerd/containerd.sock"
_ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
_CONTROL_GROUP: Final = "authz-service-cluster"
PLUGINS: Final = ("/usr/lib/cni", "/opt/cni/bin")


def main(run: Path, containers: Path, programs: Path) -> None:
    """Start everything, then reap processes until one of the programs ends."""
    for name in ("log", "cni", "kubelet", "pod-logs", "volume-plugins"):
        (run / name).mkdir()
    _network()
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    files = _files(run, containers)
    for name, content in files.items():
        (run / name).write_text(content)
    started = {_start(run, name, *arguments): name for name, *arguments in _commands(run)}
    while True:
        ended, status = os.wait()
        if ended in started:
            sys.exit(f"{started[ended]} ended with status {os.waitstatus_to_exitcode(status)}: see {run}/log")


def _network() -> None:
    """The node's address is on a bridge without members. Nobody is at the gateway: it only makes addresses routable."""
    for command in (
        "mount --make-rshared /",
        "mount -t tmpfs tmpfs /run",
        "mkdir -p /run/netns /run/lock /run/containerd",
        "ip link set lo up",
        "ip link add node0 type bridge",
        f"ip address add {ADDRESS}/24 dev node0",
        "ip link set node0 up",
        "ip route add default via 10.89.0.2 dev node0",
        "sysctl -qw net.ipv4.ip_forward=1",
    ):
        subprocess.run(command.split(), check=True)


def _start(run: Path, name: str, *arguments: str) -> int:
    with (run / "log" / f"{name}.log").open("wb") as log:
        command = [name, *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).pid


def _commands(run: Path) -> list[list[str]]:
    made = run / "certificates"
    return [
        ["etcd", f"--data-dir={run}/etcd", "--unsafe-no-fsync", "--logger=zap", "--log-level=warn"],
        ["containerd", f"--config={run}/containerd.toml"],
        [
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={ADDRESS}",
            "--secure-port=6443",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--tls-cert-file={made}/apiserver.crt",
            f"--tls-private-key-file={made}/apiserver.key",
            f"--client-ca-file={made}/ca.crt",
            f"--kubelet-client-certificate={made}/apiserver-kubelet.crt",
            f"--kubelet-client-key={made}/apiserver-kubelet.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={made}/service-accounts.pub",
            f"--service-account-signing-key-file={made}/service-accounts.key",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--requestheader-client-ca-file={made}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={made}/front-proxy.crt",
            f"--proxy-client-key-file={made}/front-proxy.key",
            "--enable-aggregator-routing=true",
        ],
        [
            "kube-controller-manager",
            f"--kubeconfig={made}/controller-manager.kubeconfig",
            "--leader-elect=false",
            f"--service-account-private-key-file={made}/service-accounts.key",
            f"--root-ca-file={made}/ca.crt",
            "--use-service-account-credentials=true",
            "--horizontal-pod-autoscaler-sync-period=5s",
            "--horizontal-pod-autoscaler-initial-readiness-delay=10s",
            "--horizontal-pod-autoscaler-cpu-initialization-period=20s",
        ],
        ["kube-scheduler", f"--kubeconfig={made}/scheduler.kubeconfig", "--leader-elect=false"],
        [
            "kubelet",
            f"--kubeconfig={made}/kubelet.kubeconfig",
            f"--config={run}/kubelet.json",
            f"--root-dir={run}/kubelet",
            "--hostname-override=node1",
            f"--node-ip={ADDRESS}",
            f"--cert-dir={run}/kubelet-certificates",
        ],
        [
            "kube-proxy",
            f"--kubeconfig={made}/kube-proxy.kubeconfig",
            "--hostname-override=node1",
            "--cluster-cidr=10.244.0.0/16",
            "--proxy-mode=iptables",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ],
        ["coredns", "-conf", f"{run}/Corefile"],
        [
            "metrics-server",
            *(
                f"--{kind}kubeconfig={made}/metrics-server.kubeconfig"
                for kind in ("", "authentication-", "authorization-")
            ),
            "--secure-port=4443",
            f"--cert-dir={run}/metrics-server-certificates",
            "--metric-resolution=15s",
            "--kubelet-insecure-tls",
            "--kubelet-preferred-address-types=InternalIP",
        ],
    ]


def _files(run: Path, containers: Path) -> dict[str, str]:
    return {
        "containerd.toml": _containerd(run, containers),
        "cni/10-pods.conflist": json.dumps(_POD_NETWORK),
        "kubelet.json": json.dumps(_kubelet(run)),
        "Corefile": _COREFILE.replace("KUBECONFIG", f"{run}/certificates/admin.kubeconfig"),
    }


_POD_NETWORK: Final = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "ptp",
            "mtu": 1500,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-ipam",
                "ranges": [[{"subnet": "10.244.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}
_COREFILE: Final = """\
.:53 {
    errors
    health 127.0.0.1:8180
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {
        kubeconfig KUBECONFIG
        ttl 5
    }
    cache 5
}
"""


def _containerd(run: Path, containers: Path) -> str:
    plugins = next(folder for folder in PLUGINS if Path(folder).is_dir())
    return f"""\
version = 2
root = "{containers}"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true  # where the process lacks CAP_SYS_RESOURCE
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{run}/cni"
"""


def _kubelet(run: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{_CONTROL_GROUP}",
        "failSwapOn": False,
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{run}/certificates/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "podLogsDir": f"{run}/pod-logs",
        "volumePluginDir": f"{run}/volume-plugins",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        # So that a changed ConfigMap or Secret reaches the pods within seconds.
        "syncFrequency": "5s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
    }


def _hierarchies() -> list[Path]:
    """The control group hierarchies: one with cgroup v2, one for each controller with v1."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [each for each in root.iterdir() if (each / "cgroup.procs").exists()]


def make_control_groups() -> None:
    """Create the control group below which the kubelet creates those of pods."""
    remove_control_groups()
    for hierarchy in _hierarchies():
        folder = hierarchy / _CONTROL_GROUP
        folder.mkdir()
        if (folder / "cpuset.cpus").exists():  # v1 does not inherit them
            for name in ("cpuset.cpus", "cpuset.mems"):
                (folder / name).write_text((hierarchy / name).read_text())


def remove_control_groups() -> None:
    """Remove it with all groups below it, whose processes have ended."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / _CONTROL_GROUP, topdown=False):
            with contextlib.suppress(FileNotFoundError):
                Path(folder).rmdir()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
