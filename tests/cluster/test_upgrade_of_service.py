"""Shape `service` is upgraded from the last release, and rolled back to it. Values of the last release are accepted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from cluster.client import CONTAINER_SECURITY, POD_SECURITY
from cluster.helm import CHART, Release
from cluster.images import TOOLS
from cluster.kubectl import wait_until
from cluster.upgrades import LAST_CHART, LAST_IMAGE, identity, service_values, wait_settled
from generate import render
from support.chart import in_order, merged, one

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.issuer import Issuer
    from cluster.kubectl import Namespace

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
        metadata = {"name": "calls", "labels": {"app": "client"}}  # which the NetworkPolicy admits
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
