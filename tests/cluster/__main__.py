"""Tests the chart in a real Kubernetes: builds it, starts it, runs the tests in it, and ends it.

python -m cluster [--up | --kind] [--if-built] [ARGUMENTS FOR PYTEST]      (make cluster-test)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster import images, last_release, programs
from cluster.configuration import PLUGINS
from cluster.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TESTS: Final = Path(__file__).parent
_ROOT: Final = _TESTS.parent.parent
_PACKAGES: Final = {  # program: the package of Debian that has it
    "buildah": "buildah",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "debootstrap": "debootstrap",
    "ebtables": "ebtables",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "iptables": "iptables",
    "node": "nodejs",
    "npm": "npm",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "runc": "runc",
    "socat": "socat",
    "unshare": "util-linux",
}
_PROCESSES: Final = "4"  # test modules at the same time; they mostly wait for the cluster


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    parser.add_argument("--up", action="store_true", help="start the cluster, run no test, and end it with Ctrl-C")
    parser.add_argument(
        "--kind", action="store_true", help="use the cluster that `kind create cluster` started, and Docker"
    )
    parser.add_argument("--if-built", action="store_true", help="do nothing, and say so, unless the programs are built")
    arguments, others = parser.parse_known_args()
    cache = Path(os.environ.get("CLUSTER_CACHE") or Path.home() / ".cache" / "authz-service-cluster")
    if arguments.kind:
        return _in_kind(cache, others)
    missing = list(_missing())
    if arguments.if_built and not programs.built(cache):
        missing.append(f"Kubernetes {programs.version()} is not built yet: `make cluster-test` builds it")
    if missing:
        sys.stderr.write("\n".join(["NOT PROVED: nothing of the chart in a real Kubernetes, because", *missing, ""]))
        return 0 if arguments.if_built else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and so end the cluster
    with _timed("build"):
        built = programs.build(cache)
        release = last_release.checkout(cache, _ROOT)
        archives = images.build(cache, _ROOT, built / "pause", [(release, last_release.TAG)])
    with Node(cache, built) as node:
        with _timed("load images"):
            node.load_images(archives)
        if arguments.up:
            _write(f"The cluster is up. A shell in it: {shlex.join(node.command('bash'))}")
            signal.pause()
        with _timed("tests"):
            return _run(node.command("env", f"{last_release.VARIABLE}={release}", *_tests(others)))


def _in_kind(cache: Path, arguments: Sequence[str]) -> int:
    release = last_release.checkout(cache, _ROOT)
    with _timed("build"):
        names = images.build_with_docker(_ROOT, [(release, last_release.TAG)])
    with _timed("load images"):
        for name in names:
            subprocess.run(["kind", "load", "docker-image", name], check=True)
    _serve_metrics()
    _shorten_ttl()
    with _timed("tests"):
        return _run(["env", f"{last_release.VARIABLE}={release}", *_tests(arguments)])


def _serve_metrics() -> None:
    """Start metrics-server, which autoscaling requires. kind's kubelets have certificates that no authority signed."""
    insecure = [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--kubelet-insecure-tls"}]
    in_system = ("--namespace=kube-system", "deployment/metrics-server")
    for command in (
        ("apply", f"--kustomize={programs.manifests_of_metrics_server()}"),
        ("patch", *in_system, "--type=json", f"--patch={json.dumps(insecure)}"),
        ("rollout", "status", *in_system, "--timeout=180s"),
        ("wait", "apiservice/v1beta1.metrics.k8s.io", "--for=condition=Available", "--timeout=180s"),
    ):
        subprocess.run(["kubectl", *command], check=True)


def _shorten_ttl() -> None:
    """Answer DNS queries with CoreDNS's default TTL: within kubeadm's 30 s, Envoy would not learn of a new pod."""
    in_system = ("kubectl", "--namespace=kube-system")
    get = [*in_system, "get", "configmap/coredns", "--output=json"]
    found = json.loads(subprocess.run(get, check=True, stdout=subprocess.PIPE).stdout)
    corefile = re.sub(r"\b(ttl|cache) 30\b", r"\1 5", found["data"]["Corefile"])
    patch = json.dumps({"data": {"Corefile": corefile}})
    for command in (
        ("patch", "configmap/coredns", "--type=merge", f"--patch={patch}"),
        ("rollout", "restart", "deployment/coredns"),
        ("rollout", "status", "deployment/coredns", "--timeout=180s"),
    ):
        subprocess.run([*in_system, *command], check=True)


def _tests(arguments: Sequence[str]) -> list[str]:
    chosen = list(arguments) or [str(_TESTS)]
    # A short traceback has no arguments of functions, which may be tokens.
    options = ["--numprocesses", _PROCESSES, "--dist", "loadfile", "--no-loadscope-reorder", "-p", "no:randomly"]
    options += ["--tb=short", "--durations=20"]
    return ["env", "CLUSTER_TESTS=1", sys.executable, "-m", "pytest", *options, *chosen]


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False, cwd=_ROOT).returncode


def _missing() -> Iterator[str]:
    """What this machine lacks, each with a remedy."""
    if platform.system() != "Linux":
        yield "it needs Linux"
        return
    if os.geteuid() != 0:
        yield "it needs root, for namespaces, mounts and control groups: run it as root (sudo)"
    if packages := sorted({package for program, package in _PACKAGES.items() if shutil.which(program) is None}):
        yield f"programs are missing: apt-get install {' '.join(packages)}"
    if not any(Path(folder).is_dir() for folder in PLUGINS):
        yield "the network plugins are missing: apt-get install containernetworking-plugins"
    if shutil.which("go") is None:
        yield "Go is missing: https://go.dev/doc/install"


@contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    _write(f"{what}: {time.monotonic() - start:.0f} s")


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
