"""A container or a pod of a gateway that ends without notice lets no request pass undecided."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from cluster.gateway import ORDERS, Gateway, example, running, signed_wrong, summary
from cluster.kubectl import wait_until
from support.chart import merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.client import Answer, Client, LoadResult
    from cluster.kubectl import Namespace
    from cluster.provider import Provider

# Process 1 ignores SIGKILL from its own container, but the kernel kills it at its limit of CPU time, and with it all
# processes of the container, such as this one.
_KILL = """
import contextlib, resource, urllib.request
resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))
while True:
    with contextlib.suppress(OSError):
        urllib.request.urlopen("http://127.0.0.1:9192/metrics").read()
"""
# It can accept no connection any more, such as those of probes.
_REFUSE = "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))"
# Envoy's image has no other program, but its admin interface ends it at once.
_QUIT = """
import socket
admin = socket.socket(socket.AF_UNIX)
admin.connect("/run/authz/envoy-admin.sock")
admin.sendall(b"POST /quitquitquit HTTP/1.1\\r\\nhost: envoy\\r\\ncontent-length: 0\\r\\n\\r\\n")
assert admin.recv(100).startswith(b"HTTP/1.1 200 ")
"""


@pytest.fixture(scope="module")
def gateway(namespace: Namespace, client: Client, provider: Provider) -> Gateway:
    return Gateway(namespace, client, provider, merged(example(), {"probes": {"liveness": {"periodSeconds": 3}}}))


def test_while_a_killed_authz_service_starts_again_its_envoy_denies(
    namespace: Namespace, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    victim, other = gateway.pods()

    def denial() -> Answer | None:
        """If it is back before the request, it is killed again, and Kubernetes then waits before it restarts it."""
        if _container(gateway, victim, "authz-service")["ready"]:
            namespace.execute(victim, "python3", "-c", _KILL, container="authz-service", check=False)
        return next((each for each in gateway.send_to(victim, gateway.token, times=20) if each.status != 200), None)

    with (
        under_load(gateway, record_property, "authz-service killed") as results,
        restarts(gateway, victim, "authz-service"),
    ):
        denied = wait_until(denial, what="a denial")
        assert gateway.send_to(other, gateway.token)[0].status == 200
    assert denied is not None
    assert (denied.status, denied.reason) == (503, "authorization_unavailable")
    assert denied.headers["retry-after"] == "1"
    assert denied.headers["cache-control"] == "no-store"
    assert set(results["good token"].answers) <= {"200", "503"}
    assert all("authorization_unavailable" in each for each in results["good token"].failures)
    assert set(results["wrong token"].answers) <= {"401", "503"}


def test_a_killed_envoy_lets_no_request_pass(
    namespace: Namespace, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    victim, other = gateway.pods()
    with under_load(gateway, record_property, "Envoy killed") as results, restarts(gateway, victim, "envoy"):
        namespace.execute(victim, "python3", "-c", _QUIT, container="authz-service")
        assert gateway.send_to(other, gateway.token)[0].status == 200
    statuses = {each for result in results.values() for each in result.answers if each.isdigit()}
    assert statuses == {"200", "401"}


def test_envoy_keeps_connections_again_after_the_liveness_probe_has_restarted_authz_service(
    namespace: Namespace, gateway: Gateway
) -> None:
    victim, _ = gateway.pods()
    with restarts(gateway, victim, "authz-service"):
        namespace.execute(victim, "python3", "-c", _REFUSE, container="authz-service")
    (answer,) = gateway.send_to(victim, gateway.token)
    assert answer.status == 200
    assert answer.headers.get("connection") != "close"


def test_a_pod_that_ends_without_notice_lets_no_request_pass_and_is_replaced(
    namespace: Namespace, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    victim, other = gateway.pods()
    with under_load(gateway, record_property, "pod deleted without grace") as results:
        namespace.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        assert gateway.send_to(other, gateway.token)[0].status == 200
        gateway.wait_settled()
    assert victim not in gateway.pods()
    statuses = {each for result in results.values() for each in result.answers if each.isdigit()}
    assert statuses <= {"200", "401", "503"}


def test_no_log_has_a_part_of_a_token(gateway: Gateway) -> None:
    assert gateway.leaks(gateway.token, signed_wrong(gateway.token)) == []


@contextmanager
def under_load(gateway: Gateway, record: Callable[[str, object], None], what: str) -> Iterator[dict[str, LoadResult]]:
    """Requests with a good and with a wrong token. The wrong one is never allowed."""
    wrong = signed_wrong(gateway.token)
    loads = {
        "good token": gateway.load(ORDERS, gateway.token, rate=20, connections=8),
        "wrong token": gateway.load(ORDERS, wrong, rate=20, connections=8, expected=401),
    }
    start = time.monotonic()
    with running(loads) as results:
        yield results
        gateway.wait_ready()
        record(f"{what}, until all pods are ready", f"{time.monotonic() - start:.1f} s")
    for name, result in results.items():
        record(f"{what}, {name}", summary(result))
    assert "200" not in results["wrong token"].answers
    gateway.wait_served_by(gateway.pods())
    assert gateway.get(ORDERS, wrong).status == 401


def _container(gateway: Gateway, pod: str, name: str) -> dict[str, Any]:
    """The status of a container."""
    status = gateway.pod(pod)["status"]
    containers = [*status["initContainerStatuses"], *status["containerStatuses"]]
    (found,) = (each for each in containers if each["name"] == name)
    return dict(found)


@contextmanager
def restarts(gateway: Gateway, pod: str, name: str) -> Iterator[None]:
    """Wait at the end until the container has restarted and is ready."""
    before = _container(gateway, pod, name)["restartCount"]

    def ready() -> bool:
        found = _container(gateway, pod, name)
        return bool(found["restartCount"] > before and found["ready"])

    yield
    wait_until(ready, timeout=120, what=f"a restarted {name}")
