"""A release of shape gateway, from values that the documents show, in front of the application in pods/shop.py."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import yaml

from cluster.client import Request
from cluster.helm import IMAGE, Release
from cluster.images import TOOLS
from cluster.kubectl import wait_until
from support.chart import merged, shape
from support.documents import blocks, page
from support.secrecy import parts_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.client import Answer, Client, Load, LoadResult
    from cluster.kubectl import Namespace
    from cluster.provider import Provider

API: Final = "https://shop.example.com/"  # the audience in the documents
ORDERS: Final = "/v1/orders"
SLOW: Final = "/slow?seconds=3"
_LOGGED: Final = "/v1/orders/logged"
DEPLOYMENT: Final = "shop-authz-service"

_NAME: Final = "shop"
_SELECTOR: Final = f"app.kubernetes.io/instance={_NAME},app.kubernetes.io/name=authz-service"
_SMALL: Final = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}


def quickstart() -> dict[str, Any]:
    """The values in docs/start/kubernetes.md."""
    (block,) = blocks(page("start/kubernetes"), "yaml", "shop.yaml")
    values: dict[str, Any] = yaml.safe_load(block.text)
    return values


def example() -> dict[str, Any]:
    """values/gateway.yaml for a cluster without the Prometheus operator, with a rule for slow requests."""
    values = shape("gateway")
    values["config"]["rules"].append({"name": "slow", "match": {"paths": ["/slow"]}, "require": {"scopes": ["orders"]}})
    changes = {
        "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "client"}}}]},
        "monitoring": {"podMonitor": {"enabled": False}},
        "gateway": {"envoy": {"checkTimeout": "10s"}},  # a busy machine may need more than a second
    }
    return merged(values, changes)


class Gateway:
    """The release `shop` of a namespace, with a client and a token for it."""

    def __init__(self, namespace: Namespace, client: Client, provider: Provider, values: Mapping[str, Any]) -> None:
        """``values`` are changed only where this cluster requires it."""
        self._namespace = namespace
        self._client = client
        namespace.config_map("provider-ca", {"ca.crt": provider.ca})
        self._values = _for_the_cluster(values, provider)
        self.release = Release(namespace, _NAME)
        self.release.install(self._values)
        self.host = f"{DEPLOYMENT}.{namespace.name}.svc"
        self.token = provider.access_token(resource=API, scope="orders")

    def upgrade(self, changes: Mapping[str, Any]) -> None:
        """Change values, and wait until the pods that this ends are gone."""
        self._values = merged(self._values, dict(changes))
        self.release.upgrade(self._values)
        self.wait_settled()

    def scale(self, replicas: int) -> None:
        """Change the number of pods, if it differs."""
        if len(self.pods()) != replicas:
            self.upgrade({"replicas": replicas})

    def wait_ready(self) -> None:
        """Wait until all pods are ready, while others may still terminate."""
        self._namespace.wait_rollout(DEPLOYMENT)

    def wait_settled(self) -> None:
        """Wait until all pods are ready and none terminates."""
        self.wait_ready()
        wait_until(lambda: self._pods() == self.pods(), timeout=120, what="the end of the old pods")

    def pods(self) -> list[str]:
        """The names of the pods that do not terminate."""
        return sorted(each["metadata"]["name"] for each in self._namespace.pods(_SELECTOR))

    def pod(self, name: str) -> dict[str, Any]:
        return self._namespace.get("pod", name)

    def get(self, path: str, token: str = "", **headers: str) -> Answer:
        """The answer to a request through the Service. In the names of headers, an underscore is a hyphen."""
        return self._client.get(f"http://{self.host}{path}", token, **headers)

    def send_to(self, pod: str, token: str, *, path: str = ORDERS, times: int = 1) -> list[Answer]:
        """The answers of one pod, without the Service."""
        address = self.pod(pod)["status"]["podIP"]
        request = Request(f"http://{address}:8000{path}", headers={"authorization": f"Bearer {token}"})
        return self._client.send(*[request] * times)

    def wait_served_by(self, pods: list[str]) -> None:
        """Wait until the Service has routed requests to each of these pods, and to no other."""
        requests = [Request(f"http://{self.host}{ORDERS}", headers={"authorization": f"Bearer {self.token}"})] * 10
        seen: set[str] = set()

        def all_seen() -> bool:
            answers = self._client.send(*requests)
            assert {each.status for each in answers} == {200}, [(each.status, each.error) for each in answers]
            seen.update(each.json()["pod"] for each in answers)
            return seen >= set(pods)

        wait_until(all_seen, what=f"requests at each of {pods}")
        assert seen == set(pods)

    def load(
        self, path: str, token: str, *, rate: float, connections: int, keep: bool = True, expected: int = 200
    ) -> Load:
        """Load through the Service until it is stopped. It has had an answer when this returns."""
        return self._client.load(
            f"http://{self.host}{path}",
            token=token,
            seconds=300,
            connections=connections,
            rate=rate,
            keep=keep,
            expected=expected,
        )

    def leaks(self, *tokens: str) -> list[str]:
        """The containers whose logs have a part of a token, including the logs before their last restart.

        Each pod first gets a request with each token, and one that also has it in the query string.
        """
        for pod in self.pods():
            for token in tokens:
                self.send_to(pod, token)
                self.send_to(pod, token, path=f"{_LOGGED}?access_token={token}")
        return [
            f"{container} of {pod}"
            for pod in self.pods()
            for container, log in self._logs(pod).items()
            if parts_in(log, tokens)
        ]

    def _logs(self, pod: str) -> dict[str, str]:
        """The logs of a pod's containers."""
        # Envoy writes its log every ten seconds.
        wait_until(lambda: _LOGGED in self._namespace.logs(pod, "envoy"), what=f"the last request in the log of {pod}")
        status = self.pod(pod)["status"]
        logs = {}
        for container in [*status["initContainerStatuses"], *status["containerStatuses"]]:
            name = container["name"]
            logs[name] = self._namespace.logs(pod, name)
            assert logs[name], f"{name} of {pod} has no log"
            if container["restartCount"]:
                logs[name] += self._namespace.logs(pod, name, previous=True)
        return logs

    def _pods(self) -> list[str]:
        return sorted(each["metadata"]["name"] for each in self._namespace.get("pods", selector=_SELECTOR)["items"])


@contextmanager
def running(loads: Mapping[str, Load]) -> Iterator[dict[str, LoadResult]]:
    """The results of loads, once the context has been left, which stops them."""
    results: dict[str, LoadResult] = {}
    try:
        yield results
    finally:
        results |= {name: load.stop() for name, load in loads.items()}


def summary(result: LoadResult) -> str:
    """What became of the requests, in a line."""
    answers = ", ".join(f"{kind}: {count}" for kind, count in sorted(result.answers.items()))
    closed = f"{result.announced} connections closed as announced, {result.unannounced} without"
    return f"{answers}; {closed}; p50 {result.p50_ms:.0f} ms, p99 {result.p99_ms:.0f} ms"


def signed_wrong(token: str) -> str:
    """The token with another signature."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def _for_the_cluster(values: Mapping[str, Any], provider: Provider) -> dict[str, Any]:
    """The values with images that the cluster has, the provider in it, and small resources."""
    (issuer,) = values["config"]["issuers"]
    keys = {**issuer.get("keys", {}), "ca_file": "/etc/provider-ca/ca.crt"}
    application = {"image": TOOLS, "resources": _SMALL, "env": [{"name": "LISTEN", "value": "127.0.0.1:8080"}]}
    changes = {
        "image": IMAGE,
        "config": {"issuers": [{**issuer, "issuer": provider.issuer, "keys": keys}]},
        "gateway": {"application": application, "envoy": {"resources": _SMALL}},
        "resources": _SMALL,
        "extraVolumes": [{"name": "provider-ca", "configMap": {"name": "provider-ca"}}],
        "extraVolumeMounts": [{"name": "provider-ca", "mountPath": "/etc/provider-ca", "readOnly": True}],
    }
    return merged(dict(values), changes)
