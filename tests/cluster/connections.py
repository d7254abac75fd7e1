"""Which addresses a pod can connect to, and pods that listen."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from cluster.client import CONTAINER_SECURITY, POD_SECURITY
from cluster.images import TOOLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.kubectl import Namespace

# Some network plugins refuse what a policy forbids, and others drop it.
_CONNECT: Final = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def connects(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return False
    return True
with ThreadPoolExecutor(32) as threads:
    print(json.dumps(list(threads.map(connects, sys.argv[1:]))))
"""
_LISTEN: Final = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""
_TIMEOUT: Final = 30.0  # seconds until a network plugin has learned of new pods and policies


def connects(namespace: Namespace, target: str, *addresses: str, container: str = "") -> dict[str, bool]:
    """Whether a pod can open a TCP connection to each HOST:PORT."""
    done = namespace.execute(target, "python3", "-c", _CONNECT, *addresses, container=container)
    return dict(zip(addresses, json.loads(done.stdout), strict=True))


def wait_connects(namespace: Namespace, target: str, expected: Mapping[str, bool], *, container: str = "") -> None:
    """Wait until a pod can connect to exactly those of these addresses that are true."""
    end = time.monotonic() + _TIMEOUT
    while (found := connects(namespace, target, *expected, container=container)) != expected:
        assert time.monotonic() < end, f"{target} in {namespace.name}: {found}, not {dict(expected)}"


def listen(namespace: Namespace, name: str, port: int) -> str:
    """A pod with the label `app`, and a Service of the same name and port, at the returned address."""
    labels = {"app": name}
    container = {
        "name": name,
        "image": TOOLS,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _LISTEN, str(port)],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
    }
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": POD_SECURITY,
        "containers": [container],
    }
    metadata = {"name": name, "labels": labels}
    namespace.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": port}]},
        },
    )
    namespace.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    return f"{name}.{namespace.name}:{port}"
