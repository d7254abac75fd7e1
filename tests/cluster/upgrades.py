"""Releases that are upgraded, from values that the chart shows, and load while they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from cluster import last_release
from cluster.helm import CHART, IMAGE, Release
from cluster.images import TOOLS
from cluster.kubectl import wait_until
from support.chart import merged

if TYPE_CHECKING:
    from cluster.client import Client, LoadResult
    from cluster.issuer import Issuer

LAST_CHART: Final = Path(os.environ[last_release.VARIABLE], "helm", "authz-service")
LAST_IMAGE: Final = {**IMAGE, "tag": last_release.TAG}
SMALL: Final = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
# What a cluster without registry and operators needs, and less time and memory.
LOCAL: Final = {"image": IMAGE, "replicas": 1, "resources": SMALL, "podDisruptionBudget": {"enabled": False}}
# As the chart shows it: a pod gets no request before its application listens. The last release may not have it.
_STARTED: Final = {
    "httpGet": {"path": "/healthz", "port": 8000},
    "periodSeconds": 1,
    "timeoutSeconds": 5,
    "failureThreshold": 60,
}
GATEWAY: Final = {
    "gateway": {
        "application": {"image": TOOLS, "command": ["python3", "/tools/shop.py"], "startupProbe": _STARTED},
        "envoy": {"routeTimeout": "5s"},  # a pod that stops serves for longer
    },
    "monitoring": {"podMonitor": {"enabled": False}},
    "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "client"}}}]},
}
SERVICE: Final = {
    "monitoring": {"serviceMonitor": {"enabled": False}, "prometheusRule": {"enabled": False}},
    "autoscaling": {"enabled": False},
    "tls": {"certificate": None},
    "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "client"}}}]},
}
SLOW: Final = {"name": "slow", "match": {"paths": ["/slow"]}, "require": {"scopes": ["orders"]}}
CONNECTIONS: Final = 4  # of each load


def gateway_values(issuer: Issuer, chart: Path = CHART) -> dict[str, Any]:
    """The values of shape gateway that a chart shows, with a rule for slow requests."""
    values = yaml.safe_load((chart / "values" / "gateway.yaml").read_text())
    values["config"]["rules"].append(SLOW)
    return issuer.values(merged(values, LOCAL | GATEWAY))


def service_values(issuer: Issuer, chart: Path = CHART) -> dict[str, Any]:
    """The values of shape service that a chart shows, without TLS."""
    values = yaml.safe_load((chart / "values" / "service.yaml").read_text())
    del values["config"]["server"]["tls"]
    return issuer.values(merged(values, LOCAL | SERVICE))


def identity(release: Release) -> dict[str, Any]:
    """What must outlive every upgrade: the objects by which others know the release, and what cannot be changed."""
    namespace, name = release.namespace, f"{release.name}-authz-service"
    deployment, service = namespace.get("deployment", name), namespace.get("service", name)
    return {
        "uids": [each["metadata"]["uid"] for each in (deployment, service)],
        "selectors": [each["spec"]["selector"] for each in (deployment, service)],
        "address": service["spec"]["clusterIP"],
    }


def pods(release: Release) -> list[dict[str, Any]]:
    return release.namespace.pods(_selector(release))


def _selector(release: Release) -> str:
    return f"app.kubernetes.io/instance={release.name},app.kubernetes.io/name=authz-service"


def wait_settled(release: Release) -> None:
    """Wait until the Deployment has the newest pods only, and none of the others is left."""
    namespace, name = release.namespace, f"{release.name}-authz-service"
    namespace.wait_rollout(name)
    wait_until(
        lambda: len(namespace.get("pods", selector=_selector(release))["items"]) == len(pods(release)),
        timeout=120,
        what="the end of the old pods",
    )


class Traffic:
    """Slow requests on connections of their own, and fast ones on few connections, until they are stopped."""

    def __init__(self, client: Client, release: Release, token: str) -> None:
        url = f"http://{release.name}-authz-service.{release.namespace.name}.svc"
        wait_until(lambda: client.get(f"{url}/v1/orders", token).status == 200, what=url)
        self._slow = client.load(
            f"{url}/slow?seconds=3", token=token, seconds=600, connections=CONNECTIONS, rate=1, keep=False
        )
        self._fast = client.load(
            f"{url}/v1/orders", token=token, seconds=600, connections=CONNECTIONS, rate=30, keep=True
        )

    def stop(self) -> tuple[LoadResult, LoadResult]:
        """What became of the slow requests, and of the fast ones."""
        slow, fast = self._slow.stop(), self._fast.stop()
        assert slow.requests
        assert fast.requests
        return slow, fast


def assert_nothing_lost(slow: LoadResult, fast: LoadResult) -> None:
    assert (slow.lost, slow.answers) == (0, {"200": slow.requests}), slow.failures
    assert (fast.lost, fast.answers) == (0, {"200": fast.requests}), fast.failures
    assert fast.unannounced == 0
