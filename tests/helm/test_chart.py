"""Every shape of the chart, rendered by Helm's engine and validated against the schemas of Kubernetes."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import helm_python as helm
import pytest
import yaml

from authz_service import __version__
from authz_service.config.warnings import load_with_warnings
from generate import CHART, application, files, render
from support.chart import NAME, container, containers, in_order, manifests, merged, notes, one, pods, shape
from support.documents import blocks, page
from support.manifests import NEWEST, documents, problems

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = ("service", "gateway", "sidecar")
PODS = ("service", "gateway")
CHART_YAML = yaml.safe_load((CHART / "Chart.yaml").read_text())
# Every feature that is off in a values file.
EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "identity"},
    "image": {"digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "secrets": [{"name": "introspection", "secretName": "authz-introspection"}],
    "podLabels": {"mesh": "in"},
    "podAnnotations": {"note": "x"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "edge", "operator": "Exists"}],
    "priorityClassName": "high",
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/company-ca", "readOnly": True}],
    "lifecycle": {"preStop": {"exec": {"command": ["python", "-c", "import time; time.sleep(5)"]}}},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-further"}}],
    "monitoring": {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}},
}
FURTHER: dict[str, Any] = {
    "name": "further",
    "image": "further:1",
    "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"memory": "1Mi"}},
}
EVERYWHERE = EVERYTHING | {
    "serviceAccount": {"annotations": {"note": "x"}},
    "service": {
        "annotations": {"note": "x"},
        "labels": {"team": "edge"},
        "ipFamilyPolicy": "SingleStack",
        "ipFamilies": ["IPv4"],
    },
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": 1}},
    "revisionHistoryLimit": 3,
    "deploymentAnnotations": {"reloader.stakater.com/auto": "true"},
    "dnsPolicy": "None",
    "dnsConfig": {
        "nameservers": ["10.0.0.10"],
        "searches": ["svc.cluster.local"],
        "options": [{"name": "ndots", "value": "2"}],
    },
    "affinity": {"podAntiAffinity": {}},
    "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["idp.example.com"]}],
    "extraContainers": [FURTHER],
    "extraInitContainers": [FURTHER | {"name": "first"}],
    "podDisruptionBudget": {"minAvailable": "50%"},
    "autoscaling": {"enabled": True, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}}},
    "networkPolicy": {
        "enabled": True,
        "egressPorts": [443],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["unchanged", "everything"])
@pytest.mark.parametrize("version", ["1.30", "1.33", NEWEST])
def test_every_object_of_every_shape_is_valid(name: str, changes: dict[str, Any], version: str) -> None:
    changes = EVERYWHERE if changes and name in PODS else changes
    found = manifests(name, changes)
    assert [problem for each in found for problem in problems(each, version)] == []


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("version", ["v1.25.0", "v1.29.0", f"v{NEWEST}"])
def test_lint_finds_nothing(name: str, version: str, capfd: pytest.CaptureFixture[str]) -> None:
    values = merged(shape(name), {"sidecar": {"native": version != "v1.25.0"}})
    report = helm.lint(CHART, values, strict=True, kube_version=version)
    assert report["messages"] == []
    assert "the values are contradictory or incomplete" not in capfd.readouterr().err  # lint only prints it


def test_generated_files_are_up_to_date() -> None:
    outdated = [path.name for path, text in files().items() if not path.exists() or path.read_text() != text]
    assert outdated == [], "run `make chart`, and look at what changed"


def test_chart_image_and_program_have_one_version() -> None:
    assert CHART_YAML["appVersion"] == __version__
    dockerfile = (CHART.parent.parent / "Dockerfile").read_text()
    assert f"ARG VERSION={__version__}\n" in dockerfile
    parent = yaml.safe_load((CHART.parent / "examples" / "application" / "Chart.yaml").read_text())
    assert parent["dependencies"][0]["version"] == CHART_YAML["version"]


@pytest.mark.parametrize("name", SHAPES)
def test_the_configuration_is_unchanged_and_valid(name: str, tmp_path: Path) -> None:
    text = one(manifests(name), "ConfigMap")["data"]["config.yaml"]
    assert yaml.safe_load(text) == shape(name)["config"]
    for file in ("tls.crt", "tls.key"):
        (tmp_path / file).touch()
    for folder in ("/etc/authz-tls", "/var/lib/authz-service", "/run/authz"):
        text = text.replace(folder, str(tmp_path))
    (tmp_path / "config.yaml").write_text(text)
    settings, warnings = load_with_warnings(tmp_path / "config.yaml")
    assert settings.rules
    assert warnings == ()


@pytest.mark.parametrize("name", PODS)
@pytest.mark.parametrize("native", [True, False])
def test_every_pod_meets_the_restricted_standard_and_writes_only_to_volumes(name: str, native: bool) -> None:  # noqa: FBT001
    for pod in pods(manifests(name, {"sidecar": {"native": native}})):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert spec["securityContext"]["runAsUser"] == 65532
        assert all(set(volume) & {"configMap", "secret", "emptyDir"} for volume in spec["volumes"])
        for each in containers(pod):
            security = each["securityContext"]
            assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not any("hostPort" in port for port in each.get("ports", ()))


@pytest.mark.parametrize("name", PODS)
def test_every_own_container_has_resource_requests(name: str) -> None:
    ours = [each for pod in pods(manifests(name)) for each in containers(pod) if each["name"] != "application"]
    assert all({"cpu", "memory"} <= set(each["resources"]["requests"]) for each in ours)
    assert all("memory" in each["resources"]["limits"] for each in ours)


@pytest.mark.parametrize("name", PODS)
def test_every_mount_has_a_volume_and_every_volume_a_mount(name: str) -> None:
    for pod in pods(manifests(name, EVERYWHERE)):
        mounted = {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_every_selector_matches_the_pods_and_every_port_exists(name: str) -> None:
    found = manifests(name, {"autoscaling": {"enabled": True}})
    pod = one(found, "Deployment")["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for each in containers(pod) for port in each.get("ports", ())}
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert one(found, kind)["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    policy = one(found, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert opened == set(ports.values())
    service = one(found, "Service")["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert {port["targetPort"] for port in service["ports"]} <= set(ports)
    assert one(found, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == NAME


def test_a_headless_service_resolves_to_the_pods() -> None:
    service = one(manifests("service", {"service": {"headless": True}}), "Service")
    assert problems(service) == []
    assert service["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in one(manifests("service"), "Service")["spec"]


UNREAD = {"monitoring": {"serviceMonitor": {"enabled": False}, "podMonitor": {"enabled": False}}}


def policy_of(name: str, policy: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """The NetworkPolicy of a shape with these networkPolicy values and other changes."""
    values = merged(shape(name), UNREAD | changes)
    del values["networkPolicy"]
    found = one(
        in_order(render(CHART, values | ({} if policy is None else {"networkPolicy": policy}))), "NetworkPolicy"
    )
    assert problems(found) == []
    spec: dict[str, Any] = found["spec"]
    return spec


def admitted(spec: dict[str, Any], port: int) -> list[dict[str, Any]] | str:
    """The peers that may connect to a port."""
    rules = [rule for rule in spec["ingress"] or () if port in {each["port"] for each in rule["ports"]}]
    assert all(rule.get("from", "all") for rule in rules)  # an empty list of peers allows all
    return "all" if any("from" not in rule for rule in rules) else [peer for rule in rules for peer in rule["from"]]


ENVOY, STATS, ADMIN, GRPC = 8000, 9902, 9192, 9191
MONITORING = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
TEST_POD = {
    "podSelector": {
        "matchLabels": {"app.kubernetes.io/name": "authz-service-test", "app.kubernetes.io/instance": "authz"}
    }
}


def test_by_default_the_policy_allows_all_to_envoy_and_none_to_other_ports() -> None:
    spec = policy_of("gateway", None)
    assert spec["policyTypes"] == ["Ingress"]
    assert admitted(spec, ENVOY) == "all"
    assert [admitted(spec, port) for port in (STATS, ADMIN, GRPC, 8080)] == [[], [], [], []]


def test_a_network_policy_without_peers_allows_no_client() -> None:
    no_peers: dict[str, Any] = {"enabled": True, "clients": [], "metrics": [], "egressPorts": []}
    spec = policy_of("gateway", no_peers, test={"enabled": False})
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert not spec["ingress"]


@pytest.mark.parametrize(("name", "port"), [("service", GRPC), ("gateway", ENVOY)])
def test_the_policy_allows_the_listed_clients_prometheus_and_the_helm_test(name: str, port: int) -> None:
    clients = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]
    spec = policy_of(name, {"clients": clients, "metrics": MONITORING})
    assert admitted(spec, port) == [*clients, TEST_POD]
    assert admitted(spec, ADMIN) == MONITORING
    assert admitted(spec, STATS) == (MONITORING if name == "gateway" else [])
    test = one(manifests(name), "Pod", f"{NAME}-test")
    assert TEST_POD["podSelector"]["matchLabels"].items() <= test["metadata"]["labels"].items()


@pytest.mark.parametrize(
    "limited", [{"config": {"server": {"tls": {"client_ca_file": "/etc/authz-tls/ca.crt"}}}}, {"allowAnyClient": True}]
)
def test_with_another_limit_on_clients_the_policy_restricts_only_the_metrics(limited: dict[str, Any]) -> None:
    spec = policy_of("service", None, **limited)
    assert admitted(spec, GRPC) == "all"
    assert admitted(spec, ADMIN) == []


def test_the_service_has_a_metrics_port_only_for_a_service_monitor() -> None:
    def ports(changes: dict[str, Any]) -> list[str]:
        return [port["name"] for port in one(manifests("service", changes), "Service")["spec"]["ports"]]

    assert ports({}) == ["grpc", "http-metrics"]
    assert ports(UNREAD) == ["grpc"]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("long", [{"nameOverride": "n" * 63}, {"fullnameOverride": "f" * 63}], ids=["name", "fullname"])
def test_the_longest_names_yield_valid_names_and_labels(name: str, long: dict[str, str]) -> None:
    found = manifests(name, long)
    pod_labels = [pod["metadata"]["labels"] for pod in pods(found)]
    for each in [*(item["metadata"]["labels"] for item in found), *pod_labels]:
        assert all(len(value) <= 63 for value in each.values()), each
    assert all(len(each["metadata"]["name"]) <= 63 for each in found)


def test_no_selector_matches_the_helm_test_pod() -> None:
    found = manifests("service")
    test = one(found, "Pod", f"{NAME}-test")
    assert not one(found, "Service")["spec"]["selector"].items() <= test["metadata"]["labels"].items()
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_the_log_of_the_helm_test_remains() -> None:
    found = manifests("service")
    for each in (one(found, "Pod", f"{NAME}-test"), one(found, "ConfigMap", f"{NAME}-test")):
        assert each["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"


@pytest.mark.parametrize(("allows", "action"), [(False, "REJECT_REQUEST"), (True, "KEEP_UNCHANGED")])
def test_envoy_forwards_encoded_slashes_if_a_rule_matches_them(*, allows: bool, action: str) -> None:
    rules = [{"name": "npm", "match": {"paths": ["/npm/{name}"], "encoded_slash": allows}}, {"name": "rest"}]
    changes = {"config": {"rules": rules}}
    envoy = one(manifests("gateway", changes), "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"]
    assert f"path_with_escaped_slashes_action: {action}\n" in envoy


def monitors(bootstrap: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Envoy's resource monitors by name."""
    found = bootstrap["overload_manager"]["resource_monitors"]
    return {each["name"].removeprefix("envoy.resource_monitors."): each["typed_config"] for each in found}


@pytest.mark.parametrize(
    ("limit", "heap"),
    [("256Mi", 192 << 20), ("1Gi", 768 << 20), ("1.5Gi", 1152 << 20), ("400M", 300_000_000), (268_435_456, 192 << 20)],
)
def test_envoy_rejects_clients_before_its_memory_limit(limit: str | int, heap: int) -> None:
    changes = {"gateway": {"envoy": {"resources": {"limits": {"memory": limit}}}}}
    bootstrap = yaml.safe_load(one(manifests("gateway", changes), "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    assert monitors(bootstrap)["fixed_heap"]["max_heap_size_bytes"] == heap


def test_without_a_memory_limit_there_is_no_heap_monitor() -> None:
    changes = {"gateway": {"envoy": {"resources": {"limits": None}}}}
    bootstrap = yaml.safe_load(one(manifests("gateway", changes), "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    assert list(monitors(bootstrap)) == ["global_downstream_max_connections"]


def test_envoy_rejects_no_client_below_its_connection_limit() -> None:
    bootstrap = yaml.safe_load(one(manifests("gateway"), "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    most = monitors(bootstrap)["global_downstream_max_connections"]["max_active_downstream_connections"]
    clusters = {each["name"]: each for each in bootstrap["static_resources"]["clusters"]}
    for name in ("authz-service", "application"):
        (thresholds,) = clusters[name]["circuit_breakers"]["thresholds"]
        assert thresholds == dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), most)


def test_the_helm_test_pod_has_the_node_constraints_of_the_pods() -> None:
    where = {"nodeSelector": {"pool": "edge"}, "tolerations": [{"key": "edge", "operator": "Exists"}]}
    for pod in pods(manifests("service", where)):
        assert {key: pod["spec"].get(key) for key in where} == where


PLAIN = {"config": {"server": {"tls": None}}, "tls": {"certificate": {"enabled": False}}}


def test_readiness_uses_grpc_if_the_kubelet_can_and_http_otherwise() -> None:
    def readiness(name: str, changes: dict[str, Any]) -> dict[str, Any]:
        (pod, _) = pods(manifests(name, changes))
        probe: dict[str, Any] = container(pod)["readinessProbe"]
        return probe

    assert readiness("service", PLAIN)["grpc"] == {"port": 9191}
    assert readiness("service", {})["httpGet"]["path"] == "/readyz"  # TLS
    assert readiness("gateway", {})["httpGet"]["path"] == "/readyz"  # a unix socket


@pytest.mark.parametrize("name", PODS)
def test_an_unavailable_provider_restarts_no_container_before_helm_stops_waiting(name: str) -> None:
    (pod, _) = pods(manifests(name))
    startup, liveness = container(pod)["startupProbe"], container(pod)["livenessProbe"]
    assert startup["exec"]["command"] == ["authz-service", "healthcheck", "--config", "/etc/authz-service/config.yaml"]
    assert 240 < startup["periodSeconds"] * startup["failureThreshold"] < 300  # as with --wait, without --timeout
    assert liveness["httpGet"]["path"] == "/healthz"


@pytest.mark.parametrize(("written", "rendered"), [(None, "5s"), ("0s", "0s"), ("9s", "9s")])
def test_with_shape_service_a_pod_that_stops_keeps_serving_until_no_proxy_calls_it(
    written: str | None, rendered: str
) -> None:
    found = manifests("service", {"config": {"server": {"shutdown_delay": written}}})
    server = yaml.safe_load(one(found, "ConfigMap")["data"]["config.yaml"])["server"]
    assert server == shape("service")["config"]["server"] | {"shutdown_delay": rendered}


@pytest.mark.parametrize(("written", "rendered"), [(None, "6s"), ("0s", "0s"), ("9s", "9s")])
def test_a_plain_sidecar_keeps_serving_until_its_proxy_has_drained(written: str | None, rendered: str) -> None:
    changed = {"shutdown_delay": written} if written else {}
    found = manifests("sidecar", {"sidecar": {"native": False}, "config": {"server": changed}})
    server = yaml.safe_load(one(found, "ConfigMap")["data"]["config.yaml"])["server"]
    assert server == shape("sidecar")["config"]["server"] | {"shutdown_delay": rendered}


@pytest.mark.parametrize("name", ["gateway", "sidecar"])
def test_other_shapes_have_no_delay_by_default(name: str) -> None:
    server = yaml.safe_load(one(manifests(name), "ConfigMap")["data"]["config.yaml"])["server"]
    assert server == shape(name)["config"]["server"]


def test_lifecycle_replaces_the_hooks_of_authz_service_only() -> None:
    hooks = {"preStop": {"sleep": {"seconds": 9}}}
    (pod, _) = pods(manifests("gateway", {"sidecar": {"native": False}, "lifecycle": hooks}))
    assert container(pod)["lifecycle"]["preStop"] == hooks["preStop"]
    assert container(pod, "envoy")["lifecycle"] == {"preStop": {"sleep": {"seconds": 35}}}


def test_the_further_settings_of_the_deployment_are_those_of_the_values() -> None:
    deployment = one(manifests("service", EVERYWHERE), "Deployment")
    assert deployment["metadata"]["annotations"] == EVERYWHERE["deploymentAnnotations"]
    assert {key: deployment["spec"][key] for key in ("strategy", "revisionHistoryLimit")} == {
        key: EVERYWHERE[key] for key in ("strategy", "revisionHistoryLimit")
    }
    spec = deployment["spec"]["template"]["spec"]
    for key in ("dnsPolicy", "dnsConfig", "hostAliases"):
        assert spec[key] == EVERYWHERE[key]
    assert [each["name"] for each in spec["containers"]] == ["authz-service", "further"]
    assert [each["name"] for each in spec["initContainers"]] == ["first"]


def test_further_init_containers_run_before_authz_service() -> None:
    (pod, _) = pods(manifests("gateway", {"extraInitContainers": [FURTHER]}))
    assert [each["name"] for each in pod["spec"]["initContainers"]] == ["further", "authz-service"]


def test_a_rollout_replaces_no_pod_before_its_successor_is_ready() -> None:
    assert one(manifests("service"), "Deployment")["spec"]["strategy"] == {
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}
    }
    recreate = one(manifests("service", {"strategy": {"type": "Recreate"}}), "Deployment")
    assert recreate["spec"]["strategy"] == {"type": "Recreate"}


def test_the_service_has_its_labels_and_ip_families() -> None:
    dual = {"labels": {"team": "edge"}, "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}
    found = one(manifests("service", {"service": dual, "config": {"server": {"grpc_address": "[::]:9191"}}}), "Service")
    assert problems(found) == []
    assert found["metadata"]["labels"]["team"] == "edge"
    assert (found["spec"]["ipFamilyPolicy"], found["spec"]["ipFamilies"]) == ("RequireDualStack", ["IPv6", "IPv4"])
    assert not {"ipFamilyPolicy", "ipFamilies"} & set(one(manifests("service"), "Service")["spec"])


@pytest.mark.parametrize(
    ("budget", "rendered"),
    [
        ({}, {"maxUnavailable": 1}),
        ({"maxUnavailable": "25%"}, {"maxUnavailable": "25%"}),
        ({"minAvailable": 2}, {"minAvailable": 2}),
        ({"minAvailable": 0}, {"minAvailable": 0}),
    ],
)
def test_a_disruption_budget_has_one_limit(budget: dict[str, Any], rendered: dict[str, Any]) -> None:
    spec = one(manifests("service", {"podDisruptionBudget": budget}), "PodDisruptionBudget")["spec"]
    assert {key: spec[key] for key in ("maxUnavailable", "minAvailable") if key in spec} == rendered


@pytest.mark.parametrize(
    "further",
    [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-further"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-further\n",
    ],
)
def test_further_objects_are_templates(further: Any) -> None:
    assert one(manifests("sidecar", {"extraObjects": [further]}), "ConfigMap", "authz-further")


SCRAPE: dict[str, Any] = {
    "scrapeTimeout": "10s",
    "relabelings": [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
    "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": "python_.*", "action": "drop"}],
}


@pytest.mark.parametrize(
    ("name", "kind", "endpoints"),
    [("service", "ServiceMonitor", "endpoints"), ("gateway", "PodMonitor", "podMetricsEndpoints")],
)
def test_every_endpoint_is_scraped_as_the_values_say(name: str, kind: str, endpoints: str) -> None:
    changes = {"monitoring": {kind[0].lower() + kind[1:]: SCRAPE}}
    monitor = one(manifests(name, changes), kind)
    assert problems(monitor) == []
    for endpoint in monitor["spec"][endpoints]:
        assert {key: endpoint[key] for key in SCRAPE} == SCRAPE
    for endpoint in one(manifests(name), kind)["spec"][endpoints]:
        assert set(endpoint) == {"port", "path", "interval"}


OTHERS: dict[str, Any] = {"existingConfigMap": "shop-config", "config": {"issuers": None, "rules": None}}


@pytest.mark.parametrize("name", SHAPES)
def test_an_existing_config_map_replaces_the_charts(name: str) -> None:
    found = manifests(name, OTHERS)
    assert [problem for each in found for problem in problems(each)] == []
    assert NAME not in {each["metadata"]["name"] for each in found if each["kind"] == "ConfigMap"}
    job = one(found, "Job", f"{NAME}-check")["spec"]["template"]
    assert [each["configMap"]["name"] for each in job["spec"]["volumes"]] == ["shop-config"]
    if name in PODS:
        pod = one(found, "Deployment")["spec"]["template"]
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "authz-config"]
        assert volume["configMap"] == {"name": "shop-config"}
        assert "checksum/authz-config" not in pod["metadata"].get("annotations", {})
        assert "/var/lib/authz-service" in {each["mountPath"] for each in container(pod)["volumeMounts"]}


def checksum(name: str, changes: dict[str, Any]) -> str | None:
    (pod, _) = pods(manifests(name, changes))
    value: str | None = pod["metadata"].get("annotations", {}).get("checksum/authz-config")
    return value


def test_only_a_configuration_change_replaces_the_pods() -> None:
    before = checksum("service", {})
    assert checksum("service", {"config": {"logging": {"level": "debug"}}}) != before
    assert checksum("service", {"replicas": 5, "podLabels": {"a": "b"}}) == before
    assert checksum("service", {"rolloutOnConfigChange": False}) is None


def test_gateway_starts_authz_service_before_envoy_and_stops_it_after() -> None:
    (pod, _) = pods(manifests("gateway"))
    (native,) = pod["spec"]["initContainers"]
    assert (native["name"], native["restartPolicy"]) == ("authz-service", "Always")
    assert [each["name"] for each in pod["spec"]["containers"]] == ["envoy", "application"]
    (pod, _) = pods(manifests("gateway", {"sidecar": {"native": False}}))
    assert "initContainers" not in pod["spec"]
    assert [each["name"] for each in pod["spec"]["containers"]] == ["authz-service", "envoy", "application"]


@pytest.mark.parametrize("native", [True, False])
def test_every_container_of_a_request_runs_as_long_as_envoy(native: bool) -> None:  # noqa: FBT001
    (pod, _) = pods(manifests("gateway", {"sidecar": {"native": native}}))
    stopped_at_once = pod["spec"]["containers"]
    assert len(stopped_at_once) == (2 if native else 3)
    sleep = {"preStop": {"sleep": {"seconds": 35}}}
    assert [each["lifecycle"] for each in stopped_at_once[-2:]] == [sleep] * 2
    assert container(pod)["lifecycle"]["preStop"]["exec"]["command"][-1] == ("0" if native else "36")


def test_gateway_mounts_the_certificate_into_envoy_only() -> None:
    found = manifests("gateway", {"tls": {"existingSecret": "shop-tls"}})
    pod = one(found, "Deployment")["spec"]["template"]
    mounts = {each["name"]: {mount["name"] for mount in each.get("volumeMounts", ())} for each in containers(pod)}
    assert [name for name, mounted in mounts.items() if "authz-tls" in mounted] == ["envoy"]
    (port,) = one(found, "Service")["spec"]["ports"]
    assert (port["name"], port["port"]) == ("https", 443)


EVENTS: dict[str, Any] = {
    "issuer": "https://idp.example.com/",
    "audiences": ["api"],
    "security_events": {
        "poll_endpoint": "https://idp.example.com/poll",
        "audience": "api",
        "client_id": "authz",
        "client_secret_file": "/etc/authz-secrets/events/secret",
        "snapshot_file": "/var/lib/authz-service/events.json",
    },
}
RECEIVING: dict[str, Any] = {
    "config": {"issuers": [EVENTS]},
    "secrets": [{"name": "events", "secretName": "authz-events"}],
}


@pytest.mark.parametrize("name", PODS)
def test_pods_share_the_folder_of_security_events_by_an_existing_claim(name: str) -> None:
    found = manifests(name, RECEIVING | {"stateVolume": {"existingClaim": "authz-state"}})
    assert [problem for each in found for problem in problems(each)] == []
    pod = pods(found)[0]
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "authz-state")
    assert volume == {"name": "authz-state", "persistentVolumeClaim": {"claimName": "authz-state"}}
    mounts = {each["name"]: each["mountPath"] for each in container(pod)["volumeMounts"]}
    assert mounts["authz-state"] == "/var/lib/authz-service"


@pytest.mark.parametrize(("entries", "size"), [({}, "408Mi"), ({"max_entries": 1}, "20Mi")])
def test_one_pod_may_have_a_volume_of_its_own_with_room_for_its_security_events(
    entries: dict[str, int], size: str
) -> None:
    one_pod = {"replicas": 1, "autoscaling": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}
    issuer = EVENTS | {"security_events": EVENTS["security_events"] | entries}
    pod = pods(manifests("service", RECEIVING | one_pod | {"config": {"issuers": [issuer]}}))[0]
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "authz-state")
    assert volume["emptyDir"] == {"sizeLimit": size}


@pytest.mark.parametrize("user", [65532, None])
def test_a_new_pod_does_not_make_the_files_of_a_shared_volume_writable_for_its_group(user: int | None) -> None:
    pod = pods(manifests("service", {"user": user}))[0]
    assert pod["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["spec"]["securityContext"].get("fsGroup") == user


def test_secrets_are_mounted_from_existing_secrets_only() -> None:
    found = manifests("service", EVERYWHERE)
    assert not [each for each in found if each["kind"] == "Secret"]
    pod = one(found, "Deployment")["spec"]["template"]
    (mount,) = [each for each in container(pod)["volumeMounts"] if each["mountPath"].startswith("/etc/authz-secrets/")]
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/authz-secrets/introspection", True)
    assert volume["secret"] == {"secretName": "authz-introspection"}


def test_the_certificate_names_the_service_and_its_secret_is_mounted() -> None:
    found = manifests("service")
    certificate = one(found, "Certificate")["spec"]
    assert f"{NAME}.authz.svc" in certificate["dnsNames"]
    (volume,) = [each for each in pods(found)[0]["spec"]["volumes"] if each["name"] == "authz-tls"]
    assert volume["secret"]["secretName"] == certificate["secretName"]


def alerts(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    groups = one(found, "PrometheusRule")["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_the_alerts_and_the_dashboard_come_from_their_files() -> None:
    found = manifests("service")
    text = (CHART / "alerts" / "authz-service.yaml").read_text()
    # The chart adds its job and namespace, and its version to links. test_alerts.py changes the objectives.
    absent = 'or absent(authz_build_info{job="authz-service", namespace="authz"})'
    text = text.replace("/blob/main/", f"/blob/v{__version__}/")
    groups = yaml.safe_load(text.replace("or on () absent(authz_build_info)", absent))["groups"]
    assert one(found, "PrometheusRule")["spec"]["groups"] == groups
    dashboard = one(found, "ConfigMap", f"{NAME}-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    written = (CHART / "dashboards" / "authz-service.json").read_text()
    of_version = written.replace("/blob/main/", f"/blob/v{__version__}/")
    assert json.loads(dashboard["data"]["authz-service.json"]) == json.loads(of_version)


@pytest.mark.parametrize(
    ("name", "changes", "absent"),
    [
        ("gateway", {}, 'or absent(authz_build_info{job="authz-service", namespace="authz"})'),
        ("service", {"nameOverride": "tokens"}, 'or absent(authz_build_info{job="tokens", namespace="authz"})'),
        # The job is the name of the application.
        ("sidecar", {}, 'or absent(authz_build_info{namespace="authz"})'),
        ("service", {"monitoring": {"serviceMonitor": {"enabled": False}}}, "or on () absent(authz_build_info)"),
    ],
)
def test_an_absent_release_is_known_by_the_labels_of_its_monitor(
    name: str, changes: dict[str, Any], absent: str
) -> None:
    found = manifests(name, merged({"monitoring": {"prometheusRule": {"enabled": True}}}, changes))
    (rules,) = (each["spec"]["groups"] for each in found if each["kind"] == "PrometheusRule")
    (rule,) = (each for group in rules for each in group["rules"] if each.get("alert") == "AuthzAbsent")
    assert rule["expr"].splitlines()[-1] == absent


def test_alerts_and_dashboard_link_to_the_configured_page() -> None:
    found = manifests("service", {"monitoring": {"prometheusRule": {"runbookUrl": "https://wiki.example/authz"}}})
    for name, rule in alerts(found).items():
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example/authz#{name.lower()}"
    dashboard = one(found, "ConfigMap", f"{NAME}-dashboard")["data"]["authz-service.json"]
    assert '"https://wiki.example/authz"' in dashboard
    assert "runbooks.md" not in dashboard


def test_alerts_can_be_labeled_and_disabled() -> None:
    name, *others = alerts(manifests("service"))
    changes = {"monitoring": {"prometheusRule": {"alertLabels": {"team": "identity"}, "disabled": [name]}}}
    found = alerts(manifests("service", changes))
    assert list(found) == others
    assert all(rule["labels"]["team"] == "identity" and "severity" in rule["labels"] for rule in found.values())


@pytest.mark.parametrize("name", SHAPES)
def test_the_notes_describe_the_next_steps(name: str) -> None:
    text = notes(name)
    assert "helm test authz" in text
    assert "explain --config" in text
    assert "{{" not in text


@pytest.mark.parametrize("name", SHAPES)
def test_the_notes_read_the_logs_of_all_pods(name: str) -> None:
    selectors = re.findall(r"logs --selector (\S+)", notes(name))
    labels = [dict(part.split("=") for part in each.split(",")) for each in selectors]
    found = documents(application()) if name == "sidecar" else manifests(name)
    (pod,) = [each for each in pods(found) if any(of["name"] == "authz-service" for of in containers(each))]
    assert [each.items() <= pod["metadata"]["labels"].items() for each in labels] == [True]


NONCES: dict[str, Any] = {"config": {"dpop": {"nonce": "required"}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 1, "autoscaling": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
        {"config": {"dpop": {"nonce_key_file": "/etc/authz-secrets/dpop/nonce.key"}},
         "secrets": [{"name": "dpop", "secretName": "authz-dpop"}]},
    ],
)  # fmt: skip
def test_the_notes_do_not_warn_about_nonces_that_every_pod_accepts(changes: dict[str, Any]) -> None:
    assert "nonces" not in notes("gateway", merged(NONCES, changes))


OPAQUE = {
    "issuer": "https://idp.example.com/",
    "introspection": {"client_id": "api", "client_secret_file": "/secret"},
}


@pytest.mark.parametrize(
    ("name", "changes", "warning"),
    [
        ("gateway", {"networkPolicy": {"enabled": False}}, "bypass Envoy"),
        ("gateway", {"networkPolicy": {"enabled": False}}, "can read the metrics on port 9192"),
        ("gateway", {"monitoring": {"podMonitor": {"enabled": False}}, "networkPolicy": {"metrics": None}},
         "add Prometheus to networkPolicy.metrics"),
        ("gateway", {"gateway": {"envoy": {"failureModeAllow": True}}}, "every request passes without authorization"),
        ("gateway", {"gateway": {"envoy": {"drainSeconds": 29}}}, "raise it to at least 30"),
        ("gateway", {"gateway": {"envoy": {"drainSeconds": 0}}}, "requests that take longer than\n0 s are cut"),
        ("gateway", {"gateway": {"envoy": {"routeTimeout": "0s"}}}, "so are\nstreams and WebSockets"),
        ("gateway", {"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}, "Let yours run drain.py as well"),
        ("service", {"allowAnyClient": True}, "that can reach port 9191 can probe which tokens are valid"),
        ("service", PLAIN, "in plain text"),
        ("sidecar", {"config": {"server": {"grpc_address": "0.0.0.0:9191"}}}, "every pod in the cluster can call"),
        ("sidecar", {"monitoring": {"podMonitor": {"enabled": False}}}, "Prometheus does not scrape its metrics"),
        ("service", {"config": {"server": {"workers": 4}}}, "4 workers need about 608Mi"),
        ("service", {"config": {"token_cache": {"max_bytes": "145MiB"}}}, "need about 257Mi"),
        ("service", {"config": {"token_cache": {"max_bytes": "1GiB"}}}, "need about 1136Mi"),
        ("service", {"config": {"issuers": [OPAQUE] * 2, "token_cache": {"max_bytes": "49MiB"}}}, "need about 259Mi"),
        ("service", {"resources": {"limits": {"memory": "143Mi"}}}, "need about 144Mi"),
        ("service", {"service": {"type": "LoadBalancer"}}, "can probe tokens and read the metrics"),
        ("gateway", NONCES | {"replicas": 2, "autoscaling": {"enabled": False}}, "refuses the nonces of the others"),
        ("gateway", NONCES | {"replicas": 1, "autoscaling": {"enabled": True}}, "refuses the nonces of the others"),
        ("sidecar", NONCES, "refuses the nonces of the others"),
        ("service", RECEIVING | {"stateVolume": {"existingClaim": "a"}, "resources": {"limits": {"memory": "241Mi"}}},
         "98Mi for security events) its processes need about 242Mi"),
        ("sidecar", RECEIVING, "receives some of the events only"),
        ("service", RECEIVING | {"replicas": 1, "autoscaling": {"enabled": False},
                                 "podDisruptionBudget": {"enabled": False}}, "forgets the security events"),
    ],
)  # fmt: skip
def test_the_notes_warn_about_valid_but_dangerous_values(name: str, changes: dict[str, Any], warning: str) -> None:
    assert warning in notes(name, changes)
    assert warning not in notes(name)


@pytest.mark.parametrize("limits", [{"memory": "608Mi"}, {"memory": "1Gi"}, {"memory": "1G"}, {"memory": None}, None])
def test_the_notes_do_not_warn_about_a_sufficient_or_absent_memory_limit(limits: dict[str, str | None] | None) -> None:
    text = notes("service", {"config": {"server": {"workers": 4}}, "resources": {"limits": limits}})
    assert "resources.limits.memory" not in text


def test_the_notes_lead_to_pages_that_exist_and_in_a_release_to_their_addresses(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "authz-service")
    definition = copy / "Chart.yaml"
    definition.write_text(definition.read_text().replace("OWNER/REPOSITORY", "acme/authz"))
    for name in SHAPES:
        pages = re.findall(r"\S*\b(?:docs|helm)/[\w/.-]+\w", notes(name))
        assert all((CHART.parent.parent / page).exists() for page in pages), pages
        released = render(copy, shape(name))["authz-service/templates/NOTES.txt"]
        addresses = [f"https://github.com/acme/authz/blob/v{__version__}/{page}" for page in pages]
        assert re.findall(r"\S*\b(?:docs|helm)/[\w/.-]+\w", released) == addresses
    assert "docs/start/istio.md" in notes("service")


FROM_API_SERVER = {
    "config": {
        "issuers": [
            {"issuer": "https://a", "audiences": ["a"], "keys": {"ca_file": "/var/run/secrets/api-server/ca.crt"}}
        ]
    }
}


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("gateway", {}, "egress to port 8000 of its pods, not to\nport 80 of its Service"),
        ("service", {"service": {"port": 443}}, "egress to port 9191 of its pods, not to\nport 443 of its Service"),
        ("service", {}, "egress to port 9191 of its pods.\n"),
        (
            "gateway",
            {"networkPolicy": {"egressPorts": [443, 5432]}},
            "it can connect only to port 53 (DNS), 443, 5432. If",
        ),
        (
            "gateway",
            {"networkPolicy": {"egressPorts": [], "extraEgress": [{}]}},
            "only to port 53 (DNS) and to\nthe peers in extra",
        ),
        ("service", FROM_API_SERVER, "needs the port on which it listens, 6443 in most clusters"),
        ("gateway", OTHERS, "so\nmust be `upstream` and `mtls`"),
        ("service", OTHERS, "set its server.shutdown_delay, such as to 5s"),
    ],
)
def test_the_notes_say_what_policies_and_an_existing_config_map_require(
    name: str, changes: dict[str, Any], expected: str
) -> None:
    assert expected in notes(name, changes)


def test_the_notes_mention_the_api_server_only_where_its_port_may_be_closed() -> None:
    assert "API server" not in notes("service")
    assert "API server" not in notes("gateway", FROM_API_SERVER)


@pytest.mark.parametrize(
    "page",
    [
        "docs/how-to/network-policies.md",
        "docs/reference/alerts.md",
        "docs/how-to/api-server.md",
        "helm/authz-service/values.yaml",
    ],
)
def test_pages_on_network_policies_name_the_ports_of_pods(page: str) -> None:
    text = (CHART.parent.parent / page).read_text()
    assert "6443" in text
    assert "8443" in text or page == "docs/how-to/api-server.md"  # of a provider in the cluster


def test_the_gateway_of_the_tutorial_lets_every_namespace_call_and_the_application_connect_anywhere() -> None:
    text = page("start/kubernetes")
    (block,) = blocks(text, "yaml", "shop.yaml")
    found = in_order(render(CHART, yaml.safe_load(block.text), name="shop"))
    policy = one(found, "NetworkPolicy", "shop-authz-service")["spec"]
    assert policy["policyTypes"] == ["Ingress"]  # no limit on egress, such as to a database
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": ENVOY}]}]  # from all namespaces
    (port,) = one(found, "Service", "shop-authz-service")["spec"]["ports"]
    rule = f"allow port {ENVOY} of the pods of this release, not port {port['port']} of the Service"
    assert rule in " ".join(text.split())


def test_by_default_the_application_of_a_gateway_can_connect_anywhere() -> None:
    assert one(manifests("gateway"), "NetworkPolicy")["spec"]["policyTypes"] == ["Ingress"]
    assert "applies to your application" not in notes("gateway")
