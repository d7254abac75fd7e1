"""Upgrades from the last release, and back to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from cluster import last_release
from cluster.client import CONTAINER_SECURITY, POD_SECURITY
from cluster.helm import CHART, IMAGE, Release
from cluster.images import TOOLS
from cluster.issuer import Issuer
from cluster.kubectl import wait_until
from cluster.upgrades import (
    Traffic,
    assert_nothing_lost,
    gateway_values,
    pods,
    service_values,
    wait_settled,
)
from generate import render
from support.chart import in_order, merged, one

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.client import Client, LoadResult
    from cluster.kubectl import Namespace

LAST: Final = Path(os.environ[last_release.VARIABLE])
LAST_CHART: Final = LAST / "helm" / "authz-service"
LAST_IMAGE: Final = {**IMAGE, "tag": last_release.TAG}


@pytest.fixture(scope="module")
def issuer(namespace: Namespace) -> Issuer:
    return Issuer(namespace)


# Calls Check as an Envoy does, on one connection after another. Each second it writes how many calls were allowed, and
# what became of the others.
CALLS: Final = """
import json, os, sys, time
import grpc
from authz_service._pb import external_auth_pb2
request = external_auth_pb2.CheckRequest()
attributes = request.attributes.request.http
attributes.method, attributes.host, attributes.path = "GET", "api.example.com", "/v1/appointments/7"
attributes.headers["authorization"] = f"Bearer {os.environ['TOKEN']}"
allowed, others, written = 0, [], 0.0
with grpc.insecure_channel(sys.argv[1]) as channel:
    check = channel.unary_unary(
        "/envoy.service.auth.v3.Authorization/Check",
        request_serializer=external_auth_pb2.CheckRequest.SerializeToString,
        response_deserializer=external_auth_pb2.CheckResponse.FromString,
    )
    while True:
        try:
            response = check(request, timeout=10, wait_for_ready=True)
        except grpc.RpcError as error:
            others.append(error.code().name)
        else:
            if response.WhichOneof("http_response") == "ok_response":
                allowed += 1
            else:
                others.append(response.dynamic_metadata["reason"])
        if time.monotonic() - written > 1:
            print(json.dumps([allowed, others]), flush=True)
            written = time.monotonic()
        time.sleep(0.02)
"""


class Calls:
    """A pod that calls the Service of a release."""

    def __init__(self, release: Release, token: str) -> None:
        self._namespace = release.namespace
        self._namespace.secret("calls", {"token": token})
        container = {
            "name": "calls",
            "image": TOOLS,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", CALLS, f"{release.name}-authz-service.{self._namespace.name}.svc:9191"],
            "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "calls", "key": "token"}}}],
            "securityContext": CONTAINER_SECURITY,
        }
        spec = {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": POD_SECURITY,
            "containers": [container],
        }
        metadata = {"name": "calls", "labels": {"app": "client"}}  # whom the NetworkPolicy admits
        self._namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self._namespace.kubectl("wait", "--for=condition=Ready", "pod/calls", "--timeout=60s")
        self.wait_allowed()

    def wait_allowed(self) -> list[str]:
        """Wait for one more allowed call, and return what became of those that were not."""
        before, _ = self._read()
        wait_until(lambda: self._read()[0] > before, what="an allowed call")
        return self._read()[1]

    def _read(self) -> tuple[int, list[str]]:
        lines = self._namespace.logs("calls").splitlines()
        allowed, others = json.loads(lines[-1]) if lines else (0, [])
        return allowed, others


def identity(release: Release) -> dict[str, Any]:
    """What must outlive every upgrade: the objects by which others know the release, and what cannot be changed."""
    namespace, name = release.namespace, f"{release.name}-authz-service"
    deployment, service = namespace.get("deployment", name), namespace.get("service", name)
    return {
        "uids": [each["metadata"]["uid"] for each in (deployment, service)],
        "selectors": [each["spec"]["selector"] for each in (deployment, service)],
        "address": service["spec"]["clusterIP"],
    }


def test_a_gateway_is_upgraded_from_the_last_release_and_rolled_back_under_load(
    namespace: Namespace, client: Client, issuer: Issuer, record_property: Callable[[str, object], None]
) -> None:
    values = gateway_values(issuer, LAST_CHART)
    token = issuer.token(values, "orders")
    release = Release(namespace, "shop", LAST_CHART)
    release.install(merged(values, {"image": LAST_IMAGE}))
    before = identity(release)
    for upgrade in (True, False, True):
        traffic = Traffic(client, release, token)
        if upgrade:
            release.upgrade(values, chart=CHART)
        else:
            release.rollback()
        wait_settled(release)
        slow, fast = traffic.stop()
        if upgrade and not ANNOUNCES:
            found = f"{fast.unannounced} connections closed unannounced, {fast.lost} of {fast.requests} requests lost"
            record_property("when a pod of the last release stops", found)
            assert_kept_connections_cut(slow, fast)
        else:
            assert_nothing_lost(slow, fast)
        assert identity(release) == before
        (pod,) = pods(release)
        tags = {each["image"].rpartition(":")[2] for each in pod["spec"]["initContainers"]}
        assert (last_release.TAG in tags) != upgrade
    release.uninstall()


# Whether Envoy announces to its clients that it stops. The version before the first tag does not.
ANNOUNCES: Final = any(
    "/healthcheck/fail" in path.read_text()
    for folder in ("templates", "files")
    for path in (LAST_CHART / folder).rglob("*.*")
)


def assert_kept_connections_cut(slow: LoadResult, fast: LoadResult) -> None:
    """All that is lost are requests that arrive on kept connections at the moment in which the pod ends.

    That is after five seconds, when Envoy and the application get SIGTERM at once: the connection is closed, or Envoy
    answers 503 because the application has closed its own. Slow requests on new connections are answered before.
    """
    assert (slow.lost, slow.answers) == (0, {"200": slow.requests}), slow.failures
    cut = {kind for kind in fast.answers if kind not in {"200", "503"}}
    assert all(kind.endswith("(kept connection)") for kind in cut), fast.failures
    assert fast.unannounced + fast.lost > 0  # or it announces it: then nothing may be lost


def test_a_service_is_upgraded_from_the_last_release_and_rolled_back_under_load(
    namespace: Namespace, issuer: Issuer
) -> None:
    values = service_values(issuer, LAST_CHART)
    release = Release(namespace, "authz", LAST_CHART)
    release.install(merged(values, {"image": LAST_IMAGE}))
    before = identity(release)
    calls = Calls(release, issuer.token(values, "read:appointments"))
    for upgrade in (True, False, True):
        if upgrade:
            release.upgrade(values, chart=CHART)
        else:
            release.rollback()
        wait_settled(release)
        assert calls.wait_allowed() == []
        assert identity(release) == before
    release.uninstall()


def test_a_headless_service_stays_one(namespace: Namespace, issuer: Issuer) -> None:
    values = merged(
        service_values(issuer, LAST_CHART), {"service": {"headless": True}, "checkConfig": {"enabled": False}}
    )
    release = Release(namespace, "headless", LAST_CHART)
    release.install(merged(values, {"image": LAST_IMAGE}), wait=False)
    before = identity(release)
    assert before["address"] == "None"
    release.upgrade(values, chart=CHART, wait=False)
    assert identity(release) == before
    release.uninstall()


@pytest.mark.parametrize("name", ["service", "gateway", "sidecar"])
def test_the_values_that_the_last_release_shows_are_accepted(name: str, tmp_path: Path) -> None:
    values = yaml.safe_load((LAST_CHART / "values" / f"{name}.yaml").read_text())
    found = in_order(render(CHART, values))
    config = tmp_path / "config.yaml"
    config.write_text(one(found, "ConfigMap")["data"]["config.yaml"])
    command = [sys.executable, "-m", "authz_service", "check-config", "--without-files", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
