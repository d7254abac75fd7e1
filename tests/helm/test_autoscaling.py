"""The number of pods with autoscaling, rendered against an API server with a Deployment."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import helm_python as helm
import pytest
import yaml

from generate import CHART
from support.chart import NAME, in_order, manifests, merged, one, shape

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOYMENTS = "/apis/apps/v1/namespaces/authz/deployments"
RESOURCE = {"name": "deployments", "kind": "Deployment", "namespaced": True, "verbs": ["get", "list"]}
DISCOVERY: dict[str, Any] = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [{"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]}],
    },
    "/apis/apps/v1": {"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": [RESOURCE]},
}
AUTOSCALING = {"enabled": True, "minReplicas": 3, "maxReplicas": 12}
OWNED: dict[str, Any] = {"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {}}}
NOT_OWNED: dict[str, Any] = {"f:spec": {"f:selector": {}, "f:template": {}}}


@contextmanager
def api_server(objects: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The address of an API server with these objects by their paths, and no others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = (DISCOVERY | objects).get(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(missing if found is None else found).encode()
            self.send_response(HTTPStatus.NOT_FOUND if found is None else HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def replicas(live: int | None, *managers: dict[str, Any], autoscaling: dict[str, Any] = AUTOSCALING) -> int | None:
    """The rendered number of pods, where the cluster has a Deployment with this number or, with None, has none."""
    metadata = {"name": NAME, "namespace": "authz", "managedFields": list(managers)}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": live}}
    values = merged(shape("service"), {"replicas": 3, "autoscaling": autoscaling})
    with api_server({} if live is None else {f"{DEPLOYMENTS}/{NAME}": deployment}) as address:
        kubeconfig = yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": {"server": address}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": ""}}],
                "current-context": "test",
            }
        )
        with helm.Config(kubeconfig_content=kubeconfig) as config, helm.Chart.load(CHART) as chart:
            rendered = config.render(chart, values, name="authz", namespace="authz", is_upgrade=True)
    number: int | None = one(in_order(rendered), "Deployment")["spec"].get("replicas")
    return number


def manager(operation: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"manager": "x", "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields}


@pytest.mark.parametrize(("live", "rendered"), [(0, 3), (1, 3), (3, 3), (7, 7), (12, 12), (40, 12)])
def test_with_autoscaling_the_number_of_pods_is_the_live_one_within_the_limits(live: int, rendered: int) -> None:
    assert replicas(live) == rendered
    assert replicas(live, manager("Update", OWNED)) == rendered


def test_without_autoscaling_it_is_that_of_the_values() -> None:
    assert replicas(7, autoscaling={"enabled": False}) == 3
    assert one(manifests("service", {"autoscaling": {"enabled": False}}), "Deployment")["spec"]["replicas"] == 3


@pytest.mark.parametrize("name", ["service", "gateway"])
def test_without_a_live_deployment_it_is_left_to_the_autoscaler(name: str) -> None:
    assert replicas(None) is None
    # As `helm template` and Argo CD render: a number would undo the autoscaler's at each synchronization.
    assert "replicas" not in one(manifests(name, {"autoscaling": {"enabled": True}}), "Deployment")["spec"]


def test_with_server_side_apply_it_is_rendered_only_while_helm_owns_it() -> None:
    scaled = manager("Update", {"f:spec": {"f:replicas": {}}})
    assert replicas(7, manager("Apply", OWNED)) == 7
    assert replicas(7, manager("Apply", NOT_OWNED), scaled) is None
    # What another program applies, such as an annotation, does not show how Helm does.
    annotated = manager("Apply", {"f:metadata": {"f:annotations": {"f:note": {}}}})
    assert replicas(7, annotated, manager("Update", NOT_OWNED), scaled) == 7
    assert replicas(7, annotated, manager("Apply", NOT_OWNED), scaled) is None
