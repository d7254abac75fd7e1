"""Releases of shape `service`, each with an Envoy that calls it, and what their pods report."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.parser import text_string_to_metric_families

from cluster.helm import IMAGE, Release
from cluster.kubectl import wait_until
from cluster.proxy import Proxy
from support.chart import merged, shape
from support.oidc_provider import API, OPAQUE_API

if TYPE_CHECKING:
    import trustme

    from cluster.client import Answer, Client
    from cluster.kubectl import Namespace
    from cluster.provider import Provider

# The provider knows the API as this client, which introspects tokens.
API_SECRET: Final = "secret-of-the-api"
API_CLIENT: Final = {
    "client_id": "api",
    "client_secret": API_SECRET,
    "token_endpoint_auth_method": "client_secret_basic",
}
_CHART: Final = "authz-service"
_ADMIN_PORT: Final = 9192


def values(namespace: Namespace, provider: Provider, proxy: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The chart's values/service.yaml for this provider, and for this proxy in the same namespace.

    They require no cert-manager and no Prometheus operator. The number of pods is fixed.
    """
    chosen = shape("service")
    host = f"{proxy}.{namespace.name}.svc"
    for rule in chosen["config"]["rules"]:
        if "hosts" in rule.get("match", {}):
            rule["match"]["hosts"] = [host]
    (issuer,) = chosen["config"]["issuers"]
    issuer["issuer"] = provider.issuer
    issuer["audiences"] = [API, OPAQUE_API]
    issuer["keys"]["ca_file"] = "/etc/authz-secrets/provider/ca.crt"
    issuer["introspection"] = {"client_id": "api", "client_secret_file": "/etc/authz-secrets/introspection/secret"}
    cluster = {
        "image": IMAGE,
        "tls": {"certificate": None},
        "replicas": 2,
        "autoscaling": {"enabled": False},
        "secrets": [
            {"name": "provider", "secretName": "provider-ca"},
            {"name": "introspection", "secretName": "introspection"},
        ],
        "networkPolicy": {
            "clients": [{"podSelector": {"matchLabels": {"app": proxy}}}],
            "metrics": [{"podSelector": {"matchLabels": {"app": "client"}}}],
            "egressPorts": [8443],
        },
        "monitoring": None,
        "resources": {"requests": {"cpu": "50m"}},
        "test": {"host": host},
    }
    return merged(merged(chosen, cluster), changes)


class ServiceRelease:
    """A release of shape `service`, and the Envoy that calls it."""

    def __init__(
        self, namespace: Namespace, client: Client, name: str, values: dict[str, Any], authority: trustme.CA
    ) -> None:
        """``authority`` issues the certificates of the Envoy, which exists at once."""
        tls = "tls" in values["config"]["server"]
        self.namespace = namespace
        self.client = client
        self.proxy = Proxy(namespace, client, proxy_name(name), deployment_name(name), authority, tls=tls)
        self.release = Release(namespace, name)
        self.values = values

    def install(self) -> None:
        """Install it, and wait until it and its Envoy are ready."""
        self.release.install(self.values)
        self.proxy.wait_ready()

    @property
    def deployment(self) -> str:
        """The name of the Deployment, and of the Service."""
        return deployment_name(self.release.name)

    def upgrade(self, *changes: dict[str, Any]) -> None:
        """Upgrade the release with changed values."""
        values = self.values
        for each in changes:
            values = merged(values, each)
        self.release.upgrade(values)

    def wait_allowed(self, path: str, token: str = "") -> None:
        """Wait until a request reaches the application."""
        wait_until(lambda: self.proxy.get(path, token).status == 200, what=f"{self.release.name}: 200 for {path}")

    def wait_reason(self, path: str, token: str, reason: str) -> None:
        """Wait until a request is denied for this reason."""
        what = f"{self.release.name}: {reason} for {path}"
        wait_until(lambda: self.proxy.get(path, token).reason == reason, what=what)

    def pods(self) -> list[dict[str, Any]]:
        """Its pods, without those that terminate."""
        return self.namespace.pods(_selector(self.release.name))

    def names(self) -> set[str]:
        """The names of its pods."""
        return {each["metadata"]["name"] for each in self.pods()}

    def restarts(self) -> list[int]:
        """How often the container of each pod has been restarted."""
        return [each["status"]["containerStatuses"][0]["restartCount"] for each in self.pods()]

    def wait_terminated(self) -> None:
        """Wait until there are no more pods than its Deployment has."""
        number = self.values["replicas"]
        selector = _selector(self.release.name)
        wait_until(
            lambda: len(self.namespace.get("pods", selector=selector)["items"]) == number, what="the end of old pods"
        )

    def update_volumes(self) -> float:
        """Make the kubelet update mounted ConfigMaps and Secrets (docs/how-to/chart.md); returns the time."""
        selector = _selector(self.release.name)
        self.namespace.kubectl("annotate", "pods", "--selector", selector, "--overwrite", f"changed={time.time_ns()}")
        return time.monotonic()

    def admin(self, pod: dict[str, Any], path: str) -> Answer:
        """The answer of the admin port of a pod."""
        return self.client.get(f"http://{pod['status']['podIP']}:{_ADMIN_PORT}{path}")

    def metrics(self, pod: dict[str, Any]) -> dict[str, float]:
        """The series of a pod by their names, each followed by the values of its labels."""
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(self.admin(pod, "/metrics").body)
            for sample in family.samples
        }

    def wait_metric(self, series: str, value: float) -> None:
        """Wait until a series has this value in each pod. Without the annotation, a volume may take two minutes."""
        wait_until(lambda: all(self.metrics(pod).get(series) == value for pod in self.pods()), 180, f"{series} {value}")


def ready(pod: dict[str, Any]) -> bool:
    """Whether a pod is ready."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def wait_not_serving(namespace: Namespace, pod: str) -> None:
    """Wait until the kubelet has called a readiness probe, over HTTP or gRPC, that said the pod is not ready."""
    selector = f"--field-selector=involvedObject.name={pod},reason=Unhealthy"
    answers = ("HTTP probe failed with statuscode: 503", "NOT_SERVING")

    def probed() -> bool:
        events = json.loads(namespace.kubectl("get", "events", selector, "--output=json").stdout)["items"]
        return any(answer in each["message"] for each in events for answer in answers)

    wait_until(probed, what=f"a readiness probe of {pod} with the answer that it is not ready")


def proxy_name(release: str) -> str:
    """The name of the Envoy that calls this release."""
    return f"{release}-edge"


def deployment_name(release: str) -> str:
    """The name that the chart gives to the objects of a release."""
    return release if _CHART in release else f"{release}-{_CHART}"


def _selector(release: str) -> str:
    return f"app.kubernetes.io/name={_CHART},app.kubernetes.io/instance={release}"
