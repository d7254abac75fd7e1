"""Shape sidecar: the example chart of an application, whose pods get an Envoy that plays the proxy of a mesh."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from cluster.client import CONTAINER_SECURITY, Client, LoadResult, Request
from cluster.connections import wait_connects
from cluster.helm import IMAGE, Release
from cluster.images import ENVOY, TOOLS
from cluster.kubectl import wait_until
from cluster.provider import Provider
from generate import APPLICATION, with_dependency
from support.chart import merged
from support.documents import blocks, page
from support.oidc_provider import OTHER_API

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.kubectl import Namespace

SHOP: Final = "https://shop.example.com/"  # the audience in the example
ORDERS: Final = "http://shop/v1/orders"
PODS: Final = "app.kubernetes.io/name=shop"
DRAIN: Final = 5  # seconds for which the proxy and the application serve after the pod begins to stop
PROXY_PORT: Final = 8000

# What the agent of a mesh does when its pod stops: Envoy's responses end the connections of clients.
DRAIN_ENVOY: Final = f"""\
import time
from urllib.request import Request, urlopen
urlopen(Request("http://127.0.0.1:9901/healthcheck/fail", method="POST")).close()
time.sleep({DRAIN})"""

PROXY: Final = {
    "name": "proxy",
    "image": ENVOY,
    "imagePullPolicy": "IfNotPresent",
    "command": ["envoy"],
    "args": ["--config-path", "/etc/envoy/envoy.yaml", "--concurrency", "1", "--disable-hot-restart"],
    "ports": [{"name": "http", "containerPort": PROXY_PORT}],
    "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
    "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN}}},
    "securityContext": CONTAINER_SECURITY,
    "volumeMounts": [{"name": "proxy", "mountPath": "/etc/envoy", "readOnly": True}],
}


@pytest.fixture(scope="module")
def provider(namespace: Namespace, client: Client) -> Provider:
    """The provider of this module, because a test stops it."""
    return Provider(namespace, client)


@dataclass(frozen=True)
class Shop:
    """The application as it is installed."""

    native: bool  # whether authz-service is a native sidecar
    release: Release
    namespace: Namespace

    @property
    def pods(self) -> list[dict[str, Any]]:
        return self.namespace.pods(PODS)

    def ready(self) -> list[dict[str, Any]]:
        return [pod for pod in self.pods if condition(pod, "Ready")]

    def new_pod(self, known: set[str]) -> str:
        """The name of the pod that is not known; the node has begun to start it."""
        new = wait_until(
            lambda: [name for pod in self.pods if (name := pod["metadata"]["name"]) not in known and statuses(pod)],
            what="a new pod",
        )
        return str(new[0])


@pytest.fixture(scope="module", params=["native", "plain"])
def shop(
    request: pytest.FixtureRequest,
    namespace: Namespace,
    client: Client,
    provider: Provider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """The example chart, installed with a native sidecar or with a plain container."""
    native = request.param == "native"
    namespace.secret("provider-ca", {"ca.crt": provider.ca})
    release = Release(namespace, "shop", chart(tmp_path_factory.mktemp(request.param)))
    release.install(values(provider, native=native))
    # The node learns a moment later that the Service has pods.
    wait_until(lambda: {each.status for each in client.send(*[Request(ORDERS)] * 8)} == {401}, what=ORDERS)
    yield Shop(native, release, namespace)
    release.uninstall()


def chart(folder: Path) -> Path:
    """The example after `helm dependency update`, with a container of the proxy, which gets the port of the Service."""
    copy = with_dependency(APPLICATION, folder)
    hook = {"preStop": {"exec": {"command": ["python3", "-c", DRAIN_ENVOY]}}}
    edit(
        copy / "templates" / "deployment.yaml",
        ("{name: http, containerPort: 8080}", "{name: application, containerPort: 8080}"),
        ("lifecycle: {preStop: {sleep: {seconds: 5}}}", f"lifecycle: {json.dumps(hook)}"),
        (
            '        {{- include "authz-service.sidecar.containers"',
            f'        - {json.dumps(PROXY)}\n        {{{{- include "authz-service.sidecar.containers"',
        ),
        ("      volumes:\n", "      volumes:\n        - {name: proxy, configMap: {name: proxy}}\n"),
    )
    (copy / "templates" / "proxy.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "proxy"},
                "data": {"envoy.yaml": bootstrap()},
            }
        )
    )
    return copy


def edit(file: Path, *changes: tuple[str, str]) -> None:
    """Replace parts of a file, each of which is in it once."""
    text = file.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file.write_text(text)


def bootstrap() -> str:
    """The tutorial's bootstrap, which others may connect to."""
    (minimal,) = blocks(page("start/envoy"), title="envoy.yaml")
    ours = "{address: 127.0.0.1, port_value: 8000}"
    assert minimal.text.count(ours) == 1
    return minimal.text.replace(ours, ours.replace("127.0.0.1", "0.0.0.0"))  # noqa: S104 - in its pod


def values(provider: Provider, *, native: bool) -> dict[str, Any]:
    """The example's values with the images and the provider of this cluster."""
    documented: dict[str, Any] = yaml.safe_load((APPLICATION / "values.yaml").read_text())
    (issuer,) = documented["authz-service"]["config"]["issuers"]
    reached = {"issuer": provider.issuer, "keys": {"ca_file": "/etc/authz-secrets/provider/ca.crt"}}
    own = {
        "image": IMAGE,
        "config": {"issuers": [issuer | reached]},
        "secrets": [{"name": "provider", "secretName": "provider-ca"}],
        "sidecar": {"native": native},
        "monitoring": {"podMonitor": {"enabled": False}},  # whose kind the cluster lacks
        "resources": {"requests": {"cpu": "20m"}},
    }
    return merged(documented, {"image": TOOLS, "authz-service": own})


def condition(pod: dict[str, Any], kind: str) -> bool:
    return any(each["type"] == kind and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def statuses(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The status of each container by its name."""
    status = pod["status"]
    return {
        each["name"]: each for each in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    }


def test_its_pods_are_admitted_under_the_restricted_standard(shop: Shop) -> None:
    pods = shop.ready()
    assert len(pods) == 2
    for pod in pods:
        init, main = ([each["name"] for each in pod["spec"].get(kind, ())] for kind in ("initContainers", "containers"))
        assert (init, main) == (
            (["authz-service"], ["shop", "proxy"]) if shop.native else ([], ["shop", "proxy", "authz-service"])
        )
        assert all(status["ready"] and not status["restartCount"] for status in statuses(pod).values())


def test_the_application_gets_requests_with_a_good_token_only(shop: Shop, client: Client, provider: Provider) -> None:
    token = provider.access_token(resource=SHOP, scope="orders")
    allowed = client.get(f"{ORDERS}/7", token, x_auth_subject="admin")
    assert allowed.status == 200, allowed
    assert allowed.json()["request"] == "GET /v1/orders/7"
    assert allowed.json()["headers"]["x-auth-client"] == "service"
    assert "admin" not in allowed.body
    tampered = token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]
    denied = {
        "missing_token": (client.get(ORDERS), 401),
        "bad_signature": (client.get(ORDERS, tampered), 401),
        "wrong_audience": (client.get(ORDERS, provider.access_token(resource=OTHER_API)), 401),
        "insufficient_scope": (client.get(ORDERS, provider.access_token(resource=SHOP, scope="billing")), 403),
        "no_rule": (client.get("http://shop/v1/customers", token), 403),
    }
    for reason, (answer, status) in denied.items():
        assert (answer.status, answer.reason) == (status, reason), answer


def test_other_pods_can_connect_to_the_proxy_only(shop: Shop, client: Client) -> None:
    """The application and the gRPC port listen on loopback, and the example's policy closes the port of the metrics."""
    for pod in shop.ready():
        address = pod["status"]["podIP"]
        expected = {f"{address}:{port}": port == PROXY_PORT for port in (PROXY_PORT, 8080, 9191, 9192)}
        wait_connects(shop.namespace, "client", expected)


def test_helm_test_sends_a_request_through_the_proxy(shop: Shop) -> None:
    assert "GET authz-service.test/v1/orders: status 401, reason missing_token" in shop.release.test()


def test_a_pod_gets_no_requests_before_its_sidecar_has_keys(shop: Shop, client: Client, provider: Provider) -> None:
    """A native sidecar also delays the application."""
    token = provider.access_token(resource=SHOP, scope="orders")
    names = [pod["metadata"]["name"] for pod in shop.ready()]
    provider.stop()
    try:
        shop.namespace.kubectl("delete", "pod", names[0], "--wait=false")
        new = shop.new_pod(set(names))

        def waiting() -> dict[str, Any] | None:
            pod = shop.namespace.get("pod", new)
            running = {name for name, status in statuses(pod).items() if "running" in status["state"]}
            expected = {"authz-service"} if shop.native else {"authz-service", "shop", "proxy"}
            return pod if running == expected else None

        wait_until(waiting, what="authz-service without keys")
        log = wait_until(
            lambda: found if "fetch" in (found := shop.namespace.logs(new, "authz-service")) else "",
            what="a failed fetch of the keys",
        )
        assert provider.issuer in log
        pod = waiting()
        assert pod is not None
        assert not statuses(pod)["authz-service"]["ready"]
        assert not condition(pod, "Ready")
        # The other pod has its keys.
        answers = client.send(*[Request(ORDERS, headers={"authorization": f"Bearer {token}"})] * 8)
        assert {(answer.status, answer.json()["pod"]) for answer in answers} == {(200, names[1])}
    finally:
        provider.start()
    wait_until(lambda: len(shop.ready()) == 2, what="both pods")
    found = statuses(shop.namespace.get("pod", new))
    assert not any(status["restartCount"] for status in found.values())
    if shop.native:
        began = {name: status["state"]["running"]["startedAt"] for name, status in found.items()}
        assert began["authz-service"] < min(began["shop"], began["proxy"])


def test_a_rolling_restart_under_load_loses_no_request(shop: Shop, client: Client, provider: Provider) -> None:
    token = provider.access_token(resource=SHOP, scope="orders")
    before = {pod["metadata"]["name"] for pod in shop.ready()}
    loads = [client.load(ORDERS, token=token, seconds=600, connections=4, rate=40, keep=keep) for keep in (True, False)]
    shop.namespace.kubectl("rollout", "restart", "deployment/shop")
    shop.namespace.wait_rollout("shop")
    wait_until(lambda: not before & all_pods(shop), what="the end of the old pods")
    for load in loads:
        assert_nothing_lost(load.stop())


def all_pods(shop: Shop) -> set[str]:
    return {pod["metadata"]["name"] for pod in shop.namespace.get("pods", selector=PODS)["items"]}


def assert_nothing_lost(result: LoadResult) -> None:
    assert result.lost == 0, (result.answers, result.failures)
    assert result.unannounced == 0, result


def test_authz_service_stops_after_the_proxy(shop: Shop, client: Client, provider: Provider) -> None:
    """While Envoy accepts requests, it gets decisions; a request in flight gets its answer."""
    token = provider.access_token(resource=SHOP, scope="orders")
    pod = shop.ready()[0]
    name = pod["metadata"]["name"]
    url = f"http://{pod['status']['podIP']}:{PROXY_PORT}/v1/orders"
    load = client.load(url, token=token, seconds=600, connections=4, rate=80, keep=False)
    watch = shop.namespace.start("get", "pod", name, "--watch", r"--output=jsonpath={.status}{'\n'}")
    shop.namespace.kubectl("delete", "pod", name)
    result = load.stop()
    watch.terminate()
    seen, _ = watch.communicate()
    assert set(result.answers) - {"200"}, "the load has not outlived the pod"
    assert all(kind == "200" or not kind.isdigit() for kind in result.answers), (result.answers, result.failures)
    ended = last_ends(seen)
    assert ended["authz-service"] >= ended["proxy"], ended
    if shop.native:
        assert ended["authz-service"] >= ended["shop"], ended
    wait_until(lambda: len(shop.ready()) == 2, what="both pods")


def last_ends(stream: str) -> dict[str, str]:
    """When each container ended, by the status of a pod in each line."""
    found = dict[str, str]()
    for line in stream.rpartition("\n")[0].splitlines():  # the last one may be cut
        for name, status in statuses({"status": json.loads(line)}).items():
            if "terminated" in status["state"]:
                found[name] = status["state"]["terminated"]["finishedAt"]
    return found
