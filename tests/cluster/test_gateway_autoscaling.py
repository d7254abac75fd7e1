"""The HorizontalPodAutoscaler of a gateway."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from cluster.gateway import DEPLOYMENT, ORDERS, Gateway, example, running
from cluster.kubectl import wait_until
from support.chart import merged

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.client import Client
    from cluster.kubectl import Namespace
    from cluster.provider import Provider

_VALUES = {"replicas": 4, "gateway": {"envoy": {"routeTimeout": "2s"}}}
_TARGET = 20  # percent, which little load exceeds
_AUTOSCALING = {"enabled": True, "minReplicas": 2, "maxReplicas": 4, "targetCPUUtilizationPercentage": _TARGET}


@pytest.fixture(scope="module")
def gateway(namespace: Namespace, client: Client, provider: Provider) -> Gateway:
    return Gateway(namespace, client, provider, merged(example(), _VALUES))


def test_enabling_it_keeps_the_live_number_of_pods(
    namespace: Namespace, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    before = gateway.pods()
    assert len(before) == 4
    columns = "--output=jsonpath={.spec.replicas} {.status.readyReplicas}{'\\n'}"
    watch = namespace.start("get", "deployment", DEPLOYMENT, "--watch", columns)
    try:
        assert watch.stdout is not None
        seen = [watch.stdout.readline().strip()]  # it watches from now on
        gateway.upgrade({"autoscaling": _AUTOSCALING})
    finally:
        watch.terminate()
        rest, _ = watch.communicate()
    seen += rest.splitlines()
    record_property("replicas and ready pods while autoscaling is enabled", ", ".join(seen))
    assert set(seen) == {"4 4"}
    assert gateway.pods() == before


def test_it_computes_the_utilization_of_authz_service_and_adds_a_pod(
    namespace: Namespace, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    load = gateway.load(ORDERS, gateway.token, rate=30, connections=8, keep=False)
    with running({"load": load}) as results:
        gateway.upgrade({"autoscaling": {"maxReplicas": 5}})
        start = time.monotonic()
        wait_until(lambda: _replicas(namespace) == 5, timeout=180, what="another pod")
        record_property("until the autoscaler adds a pod", f"{time.monotonic() - start:.0f} s")
        wait_until(lambda: _utilization(namespace) > _TARGET, what="the utilization that it has computed")
        record_property("utilization of authz-service", f"{_utilization(namespace)} %")
        gateway.wait_served_by(gateway.pods())
    assert not results["load"].failures
    assert len(gateway.pods()) == 5


def test_an_upgrade_keeps_the_number_that_the_autoscaler_has_set(namespace: Namespace, gateway: Gateway) -> None:
    before = gateway.pods()
    gateway.upgrade({"service": {"labels": {"changed": "once"}}})
    assert _replicas(namespace) == 5
    assert gateway.pods() == before


def _replicas(namespace: Namespace) -> int:
    replicas: int = namespace.get("deployment", DEPLOYMENT)["spec"]["replicas"]
    return replicas


def _utilization(namespace: Namespace) -> int:
    """The utilization of the container authz-service that the autoscaler has computed last; 0 if there is none."""
    status = namespace.get("horizontalpodautoscaler", DEPLOYMENT)["status"]
    for metric in status.get("currentMetrics") or ():
        measured = metric.get("containerResource", {})
        if measured.get("container") == "authz-service":
            return int(measured["current"].get("averageUtilization", 0))
    return 0
