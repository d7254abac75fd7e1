"""The chart's NetworkPolicy, enforced: which peers it lets in, and what it lets out. Its ports are those of pods."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from cluster.client import CONTAINER_SECURITY, Client
from cluster.connections import listen, wait_connects
from cluster.gateway import quickstart
from cluster.helm import CHART, IMAGE, Release
from cluster.images import TOOLS
from cluster.issuer import Issuer
from cluster.kubectl import Namespace, kubectl, wait_until
from generate import APPLICATION, with_dependency
from support.chart import merged, shape
from support.documents import yaml_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cluster.provider import Provider

pytestmark = pytest.mark.usefixtures("client", "caller")

ROOT: Final = CHART.parent.parent
SMALL: Final = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
# What a cluster without registry needs, and less time and memory.
LOCAL: Final = {"image": IMAGE, "replicas": 1, "resources": SMALL}
# The application listens on all addresses, so that only the policy closes its port.
APPLICATION_CONTAINER: Final = {
    "image": TOOLS,
    "command": ["python3", "/tools/shop.py"],
    "env": [{"name": "LISTEN", "value": "0.0.0.0:8080"}],
}
UNCHECKED: Final = {"checkConfig": {"enabled": False}}  # where only the policy changes
WAIT_CLOSED: Final = """
import socket, sys, time
try:
    while True:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
        time.sleep(0.1)
except OSError:
    pass
"""
ENVOY, SHOP, METRICS, ENVOY_METRICS, GRPC = 8000, 8080, 9192, 9902, 9191
POSTGRES, DNS = 5432, 53


@dataclass(frozen=True)
class Gateway:
    """The release of docs/start/kubernetes.md."""

    release: Release
    values: dict[str, Any]
    token: str = field(repr=False)

    def upgrade(self, **policy: Any) -> None:
        """Change its policy only."""
        self.release.upgrade(merged(self.values, {"networkPolicy": policy, **UNCHECKED}))

    @property
    def deployment(self) -> str:
        return f"deployment/{self.release.name}-authz-service"

    @property
    def url(self) -> str:
        return f"http://{self.release.name}-authz-service.{self.release.namespace.name}"


@pytest.fixture(scope="module")
def callers() -> Iterator[Namespace]:
    """Another namespace, with a client."""
    with Namespace("network-policy-callers") as created:
        yield created


@pytest.fixture(scope="module")
def caller(callers: Namespace) -> Client:
    return Client(callers)


@pytest.fixture(scope="module")
def database(namespace: Namespace) -> str:
    """The address of a database in the application's namespace."""
    return listen(namespace, "postgres", POSTGRES)


@pytest.fixture(scope="module")
def gateway(namespace: Namespace) -> Gateway:
    """The gateway of docs/start/kubernetes.md, with nothing changed but the images and the issuer's keys."""
    issuer = Issuer(namespace)
    values = issuer.values(merged(quickstart(), LOCAL | {"gateway": {"application": APPLICATION_CONTAINER}}))
    release = Release(namespace, "shop")
    release.install(values)
    return Gateway(release, values, issuer.token(values, "orders"))


def address(namespace: Namespace, name: str) -> str:
    """The address of the only pod of a release."""
    (pod,) = namespace.pods(f"app.kubernetes.io/instance={name},app.kubernetes.io/name=authz-service")
    found: str = pod["status"]["podIP"]
    return found


def of_namespace(namespace: Namespace) -> dict[str, Any]:
    """The peers that are all pods of a namespace."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}}


def wait_open(namespace: Namespace, pod: str, ports: Mapping[int, bool]) -> None:
    """Wait until the client of a namespace reaches exactly those of these ports of a pod that are true."""
    wait_connects(namespace, "client", {f"{pod}:{port}": open_ for port, open_ in ports.items()})


def test_the_quickstart_admits_callers_of_every_namespace_and_lets_the_application_reach_its_database(
    gateway: Gateway, namespace: Namespace, callers: Namespace, client: Client, caller: Client, database: str
) -> None:
    gateway.upgrade()
    for each in (callers, namespace):
        wait_open(each, address(namespace, "shop"), {ENVOY: True})
    for sender in (caller, client):
        refused, allowed = sender.get(f"{gateway.url}/v1/orders"), sender.get(f"{gateway.url}/v1/orders", gateway.token)
        assert (refused.status, refused.reason) == (401, "missing_token")
        assert (allowed.status, allowed.json()["request"]) == (200, "GET /v1/orders")
    wait_connects(namespace, gateway.deployment, {database: True}, container="application")
    assert "missing_token" in gateway.release.test()


def test_nobody_bypasses_envoy_or_reads_metrics(gateway: Gateway, namespace: Namespace, callers: Namespace) -> None:
    pod = address(namespace, "shop")
    gateway.upgrade(enabled=False)
    for each in (callers, namespace):
        wait_open(each, pod, {ENVOY: True, SHOP: True, METRICS: True, ENVOY_METRICS: True})  # so they listen
    gateway.upgrade()
    for each in (callers, namespace):
        wait_open(each, pod, {ENVOY: True, SHOP: False, METRICS: False, ENVOY_METRICS: False})


def test_only_the_listed_clients_reach_envoy(
    gateway: Gateway, namespace: Namespace, callers: Namespace, caller: Client
) -> None:
    pod = address(namespace, "shop")
    gateway.upgrade(clients=[of_namespace(callers)])
    wait_open(namespace, pod, {ENVOY: False, SHOP: False})
    wait_open(callers, pod, {ENVOY: True, SHOP: False, METRICS: False, ENVOY_METRICS: False})
    assert caller.get(f"{gateway.url}/v1/orders", gateway.token).status == 200  # through the Service's port 80
    assert "missing_token" in gateway.release.test()
    gateway.upgrade(clients=[of_namespace(callers), {"podSelector": {}}])  # as docs/how-to/network-policies.md has it
    wait_open(namespace, pod, {ENVOY: True, SHOP: False})
    wait_open(callers, pod, {ENVOY: True, SHOP: False})
    gateway.upgrade(clients=[])
    for each in (callers, namespace):
        wait_open(each, pod, {ENVOY: False, SHOP: False})
    assert "missing_token" in gateway.release.test()


def test_only_the_listed_peers_read_metrics(gateway: Gateway, namespace: Namespace, callers: Namespace) -> None:
    pod = address(namespace, "shop")
    gateway.upgrade(metrics=[of_namespace(callers)], clients=[])
    wait_open(callers, pod, {ENVOY: False, SHOP: False, METRICS: True, ENVOY_METRICS: True})
    wait_open(namespace, pod, {ENVOY: False, SHOP: False, METRICS: False, ENVOY_METRICS: False})


def test_egress_ports_bind_the_application_too_until_extra_egress_allows_its_database(
    gateway: Gateway, namespace: Namespace, callers: Namespace, database: str
) -> None:
    wait_connects(namespace, gateway.deployment, {database: True}, container="application")
    gateway.upgrade(egressPorts=[443])
    wait_connects(namespace, gateway.deployment, {database: False}, container="application")
    resolve = ("python3", "-c", "import socket; socket.getaddrinfo('postgres', None)")
    namespace.execute(gateway.deployment, *resolve, container="application")  # DNS remains allowed
    assert "missing_token" in gateway.release.test()
    gateway.upgrade(egressPorts=[443, POSTGRES])
    wait_connects(namespace, gateway.deployment, {database: True}, container="application")
    documented = _documented_policy()
    namespace.kubectl("label", "pod/postgres", "--overwrite", "app=another")
    gateway.upgrade(**documented | {"clients": [of_namespace(callers)]})
    wait_connects(
        namespace, gateway.deployment, {f"{_ip(namespace, 'postgres')}:{POSTGRES}": False}, container="application"
    )
    namespace.kubectl("label", "pod/postgres", "--overwrite", "app=postgres")
    wait_connects(namespace, gateway.deployment, {database: True}, container="application")
    assert "missing_token" in gateway.release.test()


def _documented_policy() -> dict[str, Any]:
    """The `networkPolicy` that docs/how-to/network-policies.md shows."""
    (block,) = yaml_blocks("how-to/network-policies")
    policy: dict[str, Any] = yaml.safe_load(block)["networkPolicy"]
    return policy


def _ip(namespace: Namespace, pod: str) -> str:
    found: str = namespace.get("pod", pod)["status"]["podIP"]
    return found


def test_a_client_with_limited_egress_needs_the_port_of_the_pods_not_that_of_the_service(
    gateway: Gateway, namespace: Namespace, callers: Namespace, caller: Client
) -> None:
    gateway.upgrade()
    service = f"{gateway.url.removeprefix('http://')}:80"
    wait_connects(callers, "client", {service: True})
    try:
        for port, reached in ((80, False), (ENVOY, True)):
            callers.apply(_egress(port))
            wait_connects(callers, "client", {service: reached})
        assert caller.get(f"{gateway.url}/v1/orders", gateway.token).status == 200
    finally:
        callers.kubectl("delete", "networkpolicy", "egress")


def _egress(port: int) -> dict[str, Any]:
    """A policy that limits the egress of a namespace's pods to DNS and a port."""
    ports = [{"protocol": "UDP", "port": DNS}, {"protocol": "TCP", "port": DNS}, {"protocol": "TCP", "port": port}]
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": ports}]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "egress"}, "spec": spec}


# Providers in the cluster: the port of their pods counts.

SERVICE: Final = {
    "monitoring": {"serviceMonitor": {"enabled": False}, "prometheusRule": {"enabled": False}},
    "tls": {"certificate": None},  # there is no cert-manager
    "autoscaling": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
}


def service_values(namespace: Namespace, keys: Mapping[str, Any], **policy: Any) -> dict[str, Any]:
    """The values of shape service that the chart shows, without TLS, with this source of keys and this policy."""
    values = merged(shape("service"), LOCAL | SERVICE)
    del values["config"]["server"]["tls"], values["config"]["issuers"][0]["keys"]
    (issuer,) = values["config"]["issuers"]
    issuers = [issuer | {"keys": keys}]
    return merged(
        values, {"config": {"issuers": issuers}, "networkPolicy": {"clients": [of_namespace(namespace)], **policy}}
    )


def wait_for_the_policy(forbidden: str) -> list[dict[str, Any]]:
    """Init containers that end once HOST:PORT cannot be reached, because the network may learn of a new pod later."""
    host, _, port = forbidden.rpartition(":")
    return [
        {
            "name": "wait-for-the-policy",
            "image": TOOLS,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", WAIT_CLOSED, host, port],
            "securityContext": CONTAINER_SECURITY,
        }
    ]


def wait_unready(namespace: Namespace, name: str) -> str:
    """Wait until a pod has failed to fetch keys; it is not ready. Returns the cause that its log has."""
    selector = f"app.kubernetes.io/instance={name},app.kubernetes.io/name=authz-service"

    def cause() -> str:
        for line in namespace.kubectl("logs", f"--selector={selector}", "--tail=-1", check=False).stdout.splitlines():
            record = json.loads(line)
            if record["event"] == "fetching keys failed":
                return str(record["cause"])
        return ""

    found = wait_until(cause, what="a failed fetch in the log")
    (pod,) = namespace.pods(selector)
    assert not any(each["ready"] for each in pod["status"]["containerStatuses"])
    return found


def test_a_provider_in_the_cluster_needs_the_port_of_its_pods(
    namespace: Namespace, callers: Namespace, provider: Provider
) -> None:
    namespace.secret("provider", {"ca.crt": provider.ca})
    keys = {"ca_file": "/etc/authz-secrets/provider/ca.crt", "jwks_uri": f"{provider.issuer}/jwks"}
    secrets = {"secrets": [{"name": "provider", "secretName": "provider"}]}
    release = Release(namespace, "authz")
    values = service_values(callers, keys, egressPorts=[8443]) | secrets
    host = provider.issuer.removeprefix("https://")
    blocked = {"extraInitContainers": wait_for_the_policy(f"{host}:443"), "networkPolicy": {"egressPorts": [443]}}
    release.install(merged(values, blocked), wait=False)
    assert keys["jwks_uri"] in wait_unready(namespace, "authz")
    release.upgrade(values)
    assert "missing_token" in release.test()
    pod = address(namespace, "authz")
    wait_open(callers, pod, {GRPC: True, METRICS: False})
    wait_open(namespace, pod, {GRPC: False, METRICS: False})


def test_the_api_server_as_issuer_needs_the_port_of_its_endpoint(namespace: Namespace, callers: Namespace) -> None:
    example = yaml.safe_load((ROOT / "examples" / "kubernetes" / "values.yaml").read_text())
    (issuer,) = example["config"]["issuers"]
    chosen = ("--namespace=default", "--selector=kubernetes.io/service-name=kubernetes", "--output=json")
    (endpoints,) = json.loads(kubectl("get", "endpointslices", *chosen).stdout)["items"]
    (port,) = endpoints["ports"]
    release = Release(namespace, "workloads")
    values = service_values(callers, issuer["keys"], egressPorts=[port["port"]])
    blocked = {
        "extraInitContainers": wait_for_the_policy("kubernetes.default.svc:443"),
        "networkPolicy": {"egressPorts": [443]},
    }
    release.install(merged(values, blocked), wait=False)
    assert issuer["keys"]["jwks_uri"] in wait_unready(namespace, "workloads")
    release.upgrade(values)
    assert "missing_token" in release.test()


def test_the_policy_of_an_application_chart_opens_the_metrics_to_its_peers_only(
    namespace: Namespace, callers: Namespace, tmp_path: Path
) -> None:
    chart = with_dependency(APPLICATION, tmp_path)
    deployment = chart / "templates" / "deployment.yaml"
    line = "          image: {{ .Values.image }}\n"
    assert line in deployment.read_text()
    listen_on_all = f"{line}          env: [{{name: LISTEN, value: '0.0.0.0:8080'}}]\n"
    deployment.write_text(deployment.read_text().replace(line, listen_on_all))
    own = yaml.safe_load((chart / "values.yaml").read_text())
    issuer = Issuer(namespace)
    release = Release(namespace, "application", chart)
    peers = {"networkPolicy": {"metrics": [of_namespace(callers)]}, "monitoring": {"podMonitor": {"enabled": False}}}
    authz = merged(issuer.values(own["authz-service"]), LOCAL | peers)
    release.install({**own, "image": TOOLS, "replicas": 1, "authz-service": authz})
    (pod,) = namespace.pods("app.kubernetes.io/name=shop")
    ip = pod["status"]["podIP"]
    wait_open(callers, ip, {SHOP: True, METRICS: True, GRPC: False})
    wait_open(namespace, ip, {SHOP: True, METRICS: False, GRPC: False})
