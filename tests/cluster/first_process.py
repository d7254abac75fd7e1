"""The first process in a cluster's namespaces: it prepares the network and starts every program.

When it ends, the kernel ends all processes and releases all mounts and interfaces of the cluster.

    python -m cluster.first_process RUN CONTAINERS PROGRAMS      (node.py)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster import configuration
from cluster.configuration import ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_TIMEOUT: Final = 60.0  # seconds in which the kubelet may end and is started again, as systemd does elsewhere
_RESTART_DELAY: Final = 0.2  # seconds
_ISSUER: Final = "https://kubernetes.default.svc.cluster.local"


def main(run: Path, containers: Path, programs: Path) -> None:
    """Start everything, then reap processes until one of the programs ends."""
    for name in ("log", "cni", "kubelet", "pod-logs", "volume-plugins"):
        (run / name).mkdir()
    _network()
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    for name, content in configuration.files(run, containers).items():
        (run / name).write_text(content)
    started = {_start(run, command): command for command in _commands(run)}
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        ended, status = os.wait()
        if (command := started.pop(ended, None)) is None:
            continue
        if command[0] != "kubelet" or time.monotonic() > deadline:
            sys.exit(f"{command[0]} ended with status {os.waitstatus_to_exitcode(status)}: see {run}/log")
        time.sleep(_RESTART_DELAY)  # it ends if containerd is not initialized yet
        started[_start(run, command)] = command


def _network() -> None:
    """The node's address is on a bridge without members. The gateway does not exist: it makes addresses routable."""
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


def _start(run: Path, command: Sequence[str]) -> int:
    with (run / "log" / f"{Path(command[0]).name}.log").open("wb") as log:
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
        [sys.executable, "-m", "cluster.network_policies", str(made)],
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


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
