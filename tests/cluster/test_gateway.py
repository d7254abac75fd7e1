"""The gateway of docs/start/kubernetes.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from cluster.gateway import API, DEPLOYMENT, ORDERS, Gateway, quickstart, signed_wrong
from cluster.kubectl import wait_until

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.kubectl import Namespace, Outcome
    from cluster.provider import Provider


@pytest.fixture(scope="module")
def gateway(namespace: Namespace, client: Client, provider: Provider) -> Gateway:
    return Gateway(namespace, client, provider, quickstart())


def test_all_pods_are_admitted_under_restricted_without_a_warning(namespace: Namespace, gateway: Gateway) -> None:
    manifest = "\n---\n".join(gateway.release.manifests())
    kinds = {each["kind"] for each in yaml.safe_load_all(manifest) if each}
    assert {"Deployment", "Job", "Pod"} <= kinds
    assert _admit(namespace, manifest).status == 0, _admit(namespace, manifest).stderr
    worse = manifest.replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")
    refused = _admit(namespace, worse)
    assert refused.status == 1
    assert "violate PodSecurity" in refused.stderr


def _admit(namespace: Namespace, manifest: str) -> Outcome:
    """Whether the API server admits objects without a warning. It creates none."""
    options = ["--dry-run=server", "--force-conflicts", "--server-side", "--warnings-as-errors"]
    return namespace.kubectl("apply", *options, "--filename=-", stdin=manifest, check=False)


def test_helm_test_passes_and_its_log_says_what_it_found(gateway: Gateway) -> None:
    log = gateway.release.test()
    assert "missing_token" in log
    assert gateway.release.test() == log  # once more, with the pod of before


def test_the_service_decides_each_kind_of_token_as_it_is(gateway: Gateway, provider: Provider) -> None:
    allowed = gateway.get(ORDERS, gateway.token, x_auth_subject="mallory")
    assert allowed.status == 200, allowed.reason
    assert allowed.json()["pod"] in gateway.pods()
    assert allowed.json()["headers"]["x-auth-subject"] == "service"
    assert allowed.json()["headers"]["x-auth-scopes"] == "orders"

    missing = gateway.get(ORDERS)
    assert (missing.status, missing.reason) == (401, "missing_token")
    assert missing.headers["www-authenticate"].startswith("Bearer")

    for token, status, reason in (
        (signed_wrong(gateway.token), 401, "bad_signature"),
        ("not-a-token", 401, "malformed_token"),
        (provider.id_token(), 401, "id_token"),
        (provider.access_token(), 401, "wrong_audience"),
        (provider.access_token(resource=API, scope="billing"), 403, "insufficient_scope"),
    ):
        denied = gateway.get(ORDERS, token)
        assert (denied.status, denied.reason) == (status, reason)
        assert denied.headers["www-authenticate"].startswith("Bearer")

    assert gateway.get("/healthz").status == 200  # which is public
    assert gateway.get("/v1/other", gateway.token).status == 403


def test_explain_in_the_pod_shows_the_same_decision(namespace: Namespace, gateway: Gateway) -> None:
    def explain(token: str, *options: str) -> Outcome:
        arguments = ["--config", "/etc/authz-service/config.yaml", "--url", f"http://{gateway.host}{ORDERS}"]
        command = ["authz-service", "explain", *arguments, "--token-file", "-", *options]
        target = f"deployment/{DEPLOYMENT}"
        return namespace.execute(target, *command, container="authz-service", stdin=token, check=False)

    wrong = signed_wrong(gateway.token)
    assert explain(gateway.token).status == 0
    denied = explain(wrong)
    assert denied.status == 1
    assert "command terminated with exit code 1" in denied.stderr
    shown = explain(wrong, "--exit-zero")
    assert (shown.status, shown.stdout) == (0, denied.stdout)
    assert "bad_signature" in shown.stdout


def test_the_application_can_only_be_reached_through_envoy(namespace: Namespace, gateway: Gateway) -> None:
    (pod, _) = gateway.pods()
    address = gateway.pod(pod)["status"]["podIP"]
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"
    assert namespace.execute("client", "python3", "-c", connect, address, "8000", check=False).status == 0
    assert namespace.execute("client", "python3", "-c", connect, address, "8080", check=False).status == 1


def test_a_drained_node_gets_only_one_pod_at_a_time(namespace: Namespace, gateway: Gateway) -> None:
    first, second = gateway.pods()
    assert _evict(namespace, first).status == 0
    refused = _evict(namespace, second)
    assert refused.status == 1
    assert "TooManyRequests" in refused.stderr
    assert "disruption budget" in refused.stderr
    assert second in gateway.pods()
    gateway.wait_ready()
    wait_until(
        lambda: namespace.get("poddisruptionbudget", DEPLOYMENT)["status"]["disruptionsAllowed"] == 1,
        what="another permitted disruption",
    )


def _evict(namespace: Namespace, pod: str) -> Outcome:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace.name}}
    path = f"/api/v1/namespaces/{namespace.name}/pods/{pod}/eviction"
    return namespace.kubectl("create", "--raw", path, "--filename=-", stdin=json.dumps(eviction), check=False)


def test_no_log_has_a_part_of_a_token(gateway: Gateway) -> None:
    assert gateway.leaks(gateway.token, signed_wrong(gateway.token)) == []
