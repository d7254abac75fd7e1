"""Upgrades and installations that fail, by a wrong configuration or image, and what remains in the end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from cluster.helm import CHART, HelmError, Release
from cluster.issuer import Issuer
from cluster.kubectl import Namespace, kubectl, wait_until
from cluster.upgrades import Traffic, assert_nothing_lost, gateway_values, pods, service_values, wait_settled
from generate import render
from support.chart import in_order, merged, one

if TYPE_CHECKING:
    from cluster.client import Client


@pytest.fixture(scope="module")
def shop(namespace: Namespace, issuer: Issuer) -> Release:
    """A gateway of this version."""
    release = Release(namespace, "orders")
    release.install(gateway_values(issuer))
    return release


MISTAKE: Final = r"config\.yaml:(\d+): rules\[1\]\.require\.issuers\[0\]: no issuer is named mian: did you mean main\?"


def with_mistake(values: dict[str, Any]) -> dict[str, Any]:
    """A rule names an issuer that does not exist."""
    rules = [dict(rule) for rule in values["config"]["rules"]]
    rules[1] = merged(rules[1], {"require": {"issuers": ["mian"]}})
    return merged(values, {"config": {"rules": rules}})


def state(release: Release) -> dict[str, Any]:
    """What a failed upgrade must not change."""
    namespace, name = release.namespace, f"{release.name}-authz-service"
    return {
        "pods": sorted(
            (each["metadata"]["name"], sum(status["restartCount"] for status in statuses(each)))
            for each in pods(release)
        ),
        "configuration": namespace.get("configmap", name)["data"],
        "generation": namespace.get("deployment", name)["metadata"]["generation"],
    }


def statuses(pod: dict[str, Any]) -> list[dict[str, Any]]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def test_a_rejected_configuration_changes_nothing_and_its_line_is_in_the_log_of_the_job(
    shop: Release, namespace: Namespace, issuer: Issuer
) -> None:
    before = state(shop)
    values = gateway_values(issuer)
    for rollback in (False, True):
        with pytest.raises(HelmError, match="orders-authz-service-check"):
            shop.upgrade(with_mistake(values), rollback_on_failure=rollback)
        assert state(shop) == before
        log = namespace.logs("job/orders-authz-service-check")
        found = re.search(MISTAKE, log)
        assert found, log
        rejected = one(in_order(render(CHART, with_mistake(values))), "ConfigMap")["data"]["config.yaml"]
        assert "mian" in rejected.splitlines()[int(found[1]) - 1]
    shop.upgrade(merged(values, {"podAnnotations": {"corrected": "yes"}}))
    assert pods(shop)[0]["metadata"]["annotations"]["corrected"] == "yes"
    for kind in ("job", "configmap"):
        assert namespace.kubectl("get", kind, "orders-authz-service-check", check=False).status


def test_an_upgrade_to_an_image_that_does_not_exist_changes_nothing(
    shop: Release, namespace: Namespace, issuer: Issuer
) -> None:
    before = state(shop)
    values = gateway_values(issuer)
    missing = merged(values, {"image": {"tag": "missing"}})
    with pytest.raises(HelmError, match="orders-authz-service-check"):  # the Job's pod never runs
        shop.upgrade(missing, timeout=5)
    assert state(shop) == before
    described = namespace.kubectl("describe", "pods", "--selector=job-name=orders-authz-service-check").stdout
    assert "localhost/authz-service:missing" in described
    with pytest.raises(HelmError):
        shop.upgrade(merged(missing, {"checkConfig": {"enabled": False}}), timeout=5, rollback_on_failure=True)
    wait_settled(shop)
    assert state(shop)["pods"] == before["pods"]
    shop.upgrade(values)


def test_without_the_check_new_pods_fail_with_the_line_and_the_old_ones_serve(
    shop: Release, namespace: Namespace, client: Client, issuer: Issuer
) -> None:
    values = merged(gateway_values(issuer), {"checkConfig": {"enabled": False}})
    shop.upgrade(values)
    wait_settled(shop)
    before = state(shop)
    ((old, _),) = before["pods"]
    traffic = Traffic(client, shop, issuer.token(values, "orders"))
    shop.upgrade(with_mistake(values), wait=False)
    (new,) = wait_until(
        lambda: [each["metadata"]["name"] for each in pods(shop) if statuses(each) and each["metadata"]["name"] != old]
    )
    wait_until(lambda: statuses(namespace.get("pod", new))[0]["restartCount"], what="a restart")
    wait_until(
        lambda: re.search(MISTAKE, namespace.logs(new, "authz-service", previous=True)), what="the line in its log"
    )
    shop.rollback()
    wait_settled(shop)
    assert_nothing_lost(*traffic.stop())
    assert state(shop) == before | {"generation": before["generation"] + 2}


def objects(namespace: Namespace) -> set[str]:
    """All objects in a namespace but events."""
    kinds = kubectl("api-resources", "--verbs=list", "--namespaced", "--output=name").stdout.split()
    chosen = sorted(each for each in kinds if not each.startswith("events"))
    return set(namespace.kubectl("get", ",".join(chosen), "--output=name").stdout.split())


def test_after_a_failed_installation_an_upgrade_installs_and_uninstall_leaves_the_last_test_only() -> None:
    with Namespace("failed-upgrade-first") as namespace:
        issuer, before = Issuer(namespace), objects(namespace)
        values, release = service_values(issuer), Release(namespace, "authz")
        with pytest.raises(HelmError, match="authz-authz-service-check"):
            release.install(with_mistake(values))
        log = namespace.logs("job/authz-authz-service-check")
        assert re.search(MISTAKE, log), log
        kinds = {each.partition("/")[0] for each in objects(namespace) - before}
        assert kinds <= {"job.batch", "pod", "secret"}  # the Job, and what Helm knows of the release
        release.upgrade(values)
        assert "missing_token" in release.test()
        assert release.status()["status"] == "deployed"
        release.uninstall()
        # As the chart's README.md says.
        expected = {"pod/authz-authz-service-test", "configmap/authz-authz-service-test"}
        wait_until(lambda: objects(namespace) - before <= expected, what="the end of the release's objects")
        assert objects(namespace) - before == expected
        namespace.kubectl("delete", "pod,configmap", "authz-authz-service-test")
        assert objects(namespace) == before
