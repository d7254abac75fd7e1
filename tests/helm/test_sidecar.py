"""The named templates in an application's own chart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import helm_python as helm
import pytest
import yaml

from generate import APPLICATION, CHART, render, with_dependency
from support.chart import NAME, container, in_order, manifests, one, pods, shape
from support.manifests import problems

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    return with_dependency(APPLICATION, tmp_path)


def application(chart: Path, changes: dict[str, Any]) -> list[dict[str, Any]]:
    return in_order(render(chart, {"authz-service": changes}))


def pod_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = one(found, "Deployment", "shop")["spec"]["template"]
    return pod


SOCKET = {"config": {"server": {"grpc_address": "unix:/run/authz/authz.sock"}}}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("changes", [{}, SOCKET], ids=["loopback", "socket"])
def test_every_object_is_valid(chart: Path, changes: dict[str, Any], native: bool) -> None:  # noqa: FBT001
    found = application(chart, changes | {"sidecar": {"native": native}})
    assert [problem for each in found for problem in problems(each)] == []


def test_the_container_is_native_or_plain(chart: Path) -> None:
    native, plain = (pod_of(application(chart, {"sidecar": {"native": native}}))["spec"] for native in (True, False))
    assert [(each["name"], each["restartPolicy"]) for each in native["initContainers"]] == [("authz-service", "Always")]
    assert [each["name"] for each in native["containers"]] == ["shop"]
    assert not plain["initContainers"]
    assert [each["name"] for each in plain["containers"]] == ["shop", "authz-service"]
    assert "restartPolicy" not in plain["containers"][1]


def test_the_pod_monitor_and_the_config_map_match_the_pod(chart: Path) -> None:
    found = application(chart, {})
    pod = pod_of(found)
    assert one(found, "PodMonitor")["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (port,) = [each for each in container(pod)["ports"] if each["name"] == "authz-metrics"]
    assert one(found, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == port["name"]
    (volume,) = pod["spec"]["volumes"]
    assert one(found, "ConfigMap")["metadata"]["name"] == volume["configMap"]["name"]


def test_the_pod_is_replaced_when_the_configuration_changes(chart: Path) -> None:
    def annotations(changes: dict[str, Any]) -> Any:
        return pod_of(application(chart, changes))["metadata"]["annotations"]

    assert annotations({}) != annotations({"config": {"logging": {"level": "debug"}}})
    assert annotations({}) == annotations({"test": {"path": "/other"}})


def test_the_container_is_the_same_as_in_every_other_shape(chart: Path) -> None:
    sidecar = container(pod_of(application(chart, {})))
    service = container(pods(manifests("service"))[0])
    for key in ("image", "command", "args", "resources", "securityContext", "startupProbe", "livenessProbe"):
        assert sidecar[key] == service[key], key


def test_a_socket_gets_a_volume_that_the_proxy_can_mount(chart: Path) -> None:
    template = chart / "templates" / "deployment.yaml"
    proxy = """
        - name: proxy
          image: envoy
          volumeMounts:
            {{- include "authz-service.sidecar.socketMount" . | nindent 12 }}
        {{- include "authz-service.sidecar.containers" . | nindent 8 }}
"""
    line = '        {{- include "authz-service.sidecar.containers" . | nindent 8 }}\n'
    template.write_text(template.read_text().replace(line, proxy.lstrip("\n")))
    pod = pod_of(application(chart, SOCKET))
    (mount,) = container(pod, "proxy")["volumeMounts"]
    assert mount == {"name": "authz-socket", "mountPath": "/run/authz", "readOnly": True}
    assert mount["name"] in {volume["name"] for volume in pod["spec"]["volumes"]}
    assert pod["spec"]["securityContext"]["fsGroup"] == 65532  # the group of the socket, which has mode 0660


def test_the_applications_own_policy_allows_only_prometheus_to_the_metrics(chart: Path) -> None:
    found = application(chart, {})
    (pods_port,) = [port for port in container(pod_of(found))["ports"] if port["name"] == "authz-metrics"]
    calls, metrics = one(found, "NetworkPolicy", "shop")["spec"]["ingress"]
    assert calls == {"ports": [{"protocol": "TCP", "port": "http"}]}
    assert metrics["ports"] == [{"protocol": "TCP", "port": pods_port["containerPort"]}]
    assert metrics["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    without_prometheus = application(chart, {"networkPolicy": {"metrics": []}})
    assert one(without_prometheus, "NetworkPolicy", "shop")["spec"]["ingress"] == [calls]


def test_with_an_alias_the_templates_take_the_subcharts_context(chart: Path) -> None:
    definition = yaml.safe_load((chart / "Chart.yaml").read_text())
    definition["dependencies"][0]["alias"] = "guard"
    (chart / "Chart.yaml").write_text(yaml.safe_dump(definition))
    template, values = chart / "templates" / "deployment.yaml", chart / "values.yaml"
    values.write_text(values.read_text().replace("authz-service:\n", "guard:\n"))
    with pytest.raises(helm.HelmRenderError, match="if the dependency has an alias, pass"):
        render(chart, {})
    template.write_text(template.read_text().replace('sidecar.labels" .', 'sidecar.labels" (index .Subcharts "guard")'))
    policy = chart / "templates" / "networkpolicy.yaml"
    policy.write_text(policy.read_text().replace('metricsIngress" .', 'metricsIngress" (index .Subcharts "guard")'))
    for part in ("annotations", "podSecurityContext", "initContainers", "containers", "volumes"):
        source = template.read_text()
        template.write_text(source.replace(f'sidecar.{part}" .', f'sidecar.{part}" (index .Subcharts "guard")'))
    found = in_order(render(chart, {}))
    assert container(pod_of(found))["name"] == "authz-service"
    assert one(found, "ConfigMap", "authz-guard")


def test_another_shape_is_rejected_in_an_applications_pod(chart: Path) -> None:
    server = {"grpc_address": "0.0.0.0:9191"}
    changes = {"shape": "service", "allowAnyClient": True, "config": {"server": server}, "test": {"url": ""}}
    with pytest.raises(helm.HelmRenderError, match=r"set authz-service\.shape to sidecar"):
        application(chart, changes)


def test_the_values_file_works_alone_and_in_the_example(chart: Path) -> None:
    assert application(chart, shape("sidecar"))
    assert one(in_order(render(CHART, shape("sidecar"))), "ConfigMap", NAME)
