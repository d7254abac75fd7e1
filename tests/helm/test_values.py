"""The schema rejects unknown values, and the templates reject contradictory ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import helm_python as helm
import pytest
import yaml

from generate import CHART, descriptions, render
from support.chart import container, in_order, manifests, merged, one, pods, shape
from support.manifests import problems

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
HALF_A_MINUTE = {"terminationGracePeriodSeconds": 30}
CERTIFICATE = {"tls": {"certificate": {"enabled": True, "issuerRef": {"name": "ca"}}}}


def server(**settings: object) -> dict[str, Any]:
    return {"config": {"server": settings}}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"replica": 3}, "at ''"),
        ({"extraObject": []}, "at ''"),
        ({"strategy": {"rollingupdate": {}}}, "/strategy"),
        ({"dnsConfig": {"nameserver": ["10.0.0.10"]}}, "/dnsConfig"),
        ({"hostAliases": [{"ip": "10.1.2.3", "hostname": ["a"]}]}, "/hostAliases/0"),
        ({"lifecycle": {"prestop": {}}}, "/lifecycle"),
        ({"extraContainers": [{"name": "a"}]}, "/extraContainers/0"),
        ({"service": {"ipFamilyPolicy": "DualStack"}}, "/service/ipFamilyPolicy"),
        ({"service": {"ipFamilies": ["IPV4"]}}, "/service/ipFamilies/0"),
        ({"podDisruptionBudget": {"minAvailable": "half"}}, "/podDisruptionBudget/minAvailable"),
        ({"monitoring": {"podMonitor": {"scrapeTimeout": "10"}}}, "/monitoring/podMonitor/scrapeTimeout"),
        ({"existingConfigMap": "A b"}, "/existingConfigMap"),
        ({"checkConfig": {"enable": False}}, "/checkConfig"),
        ({"image": {"tagg": "1"}}, "/image"),
        ({"monitoring": {"podMonitor": {"enable": True}}}, "/monitoring/podMonitor"),
        (
            {"monitoring": {"prometheusRule": {"runbookUrl": "docs/reference/alerts.md"}}},
            "/monitoring/prometheusRule/runbookUrl",
        ),
        (
            {"monitoring": {"prometheusRule": {"slo": {"availability": 100}}}},
            "/monitoring/prometheusRule/slo/availability",
        ),
        (
            {"monitoring": {"prometheusRule": {"slo": {"latencyThreshold": "60ms"}}}},
            "/prometheusRule/slo/latencyThreshold",
        ),
        ({"gateway": {"envoy": {"checktimeout": "1s"}}}, "/gateway/envoy"),
        ({"config": {"isuers": []}}, "/config"),
        (server(grpc_adress="0.0.0.0:1"), "/config/server"),
        ({"config": {"issuers": [{"issuer": "https://i.example", "audience": ["a"]}]}}, "/config/issuers/0"),
        ({"config": {"rules": [{"name": "a", "require": {"scope": ["a"]}}]}}, "/config/rules/0/require"),
        ({"shape": "daemon"}, "/shape"),
        ({"replicas": "three"}, "/replicas"),
        ({"user": 0}, "/user"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"gateway": {"envoy": {"checkTimeout": "1000ms"}}}, "/gateway/envoy/checkTimeout"),
        ({"gateway": {"envoy": {"removeHeaders": ["x original url"]}}}, "/gateway/envoy/removeHeaders/0"),
        ({"networkPolicy": {"clients": [{}]}}, "/networkPolicy/clients/0"),
        (server(check_deadline="1 second"), "/config/server/check_deadline"),
    ],
)
def test_the_schema_rejects_an_unknown_or_malformed_value_with_its_path(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(helm.HelmValuesError) as error:
        manifests("service", changes)
    assert place in str(error.value)


# Values that Kubernetes defines, and that its own schemas validate.
KUBERNETES = frozenset({
    "global", "behavior", "extraEgress", "env", "envFrom", "volumeMounts", "startupProbe", "readinessProbe",
    "livenessProbe", "securityContext", "affinity", "tolerations", "extraEnv", "extraVolumes", "extraVolumeMounts",
    "limits", "requests", "claims", "podSelector", "namespaceSelector", "ipBlock", "relabelings", "metricRelabelings",
    "preStop", "postStart", "options", "extraContainers", "extraInitContainers", "extraObjects",
})  # fmt: skip


def open_objects(schema: dict[str, Any], where: str) -> Iterator[str]:
    """The paths of objects that accept any key."""
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        yield where
    for key, member in schema.get("properties", {}).items():
        if key not in KUBERNETES:
            yield from open_objects(member, f"{where}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from open_objects(schema[key], f"{where}.{key}")


def test_no_object_in_the_schema_accepts_an_unknown_key() -> None:
    parts = {"values": SCHEMA, **SCHEMA["$defs"]}
    assert [place for name, part in parts.items() for place in open_objects(part, name)] == []


def undocumented(values: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    """Keys of the schema that values.yaml does not list."""
    schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for key, member in schema.get("properties", {}).items():
        if not isinstance(values, dict) or key not in values:
            yield f"{where}{key}"
        elif values[key]:
            yield from undocumented(values[key], member, f"{where}{key}.")


def test_values_yaml_lists_every_value() -> None:
    missing = [
        place
        for place in undocumented(DEFAULTS, SCHEMA, "")
        if not place.startswith(("config.", "probes."))
        and "resources." not in place
        # Kubernetes' own keys, whose defaults are empty.
        and not place.startswith(("strategy.", "lifecycle.", "dnsConfig."))
    ]
    assert missing == ["global", "enabled"]  # Helm's own `global`; `enabled` belongs to the parent chart


def test_the_defaults_alone_are_rejected_with_the_missing_values() -> None:
    with pytest.raises(helm.HelmRenderError) as error:
        render(CHART, {})
    assert "config.issuers is missing" in str(error.value)
    assert "config.rules is missing" in str(error.value)


NAMED = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
ALL_PEERS: list[list[dict[str, Any]]] = [
    [{"namespaceSelector": {}}],
    [NAMED, {"namespaceSelector": {"matchLabels": {}}, "podSelector": {}}],
    [{"namespaceSelector": {"matchExpressions": []}, "podSelector": {"matchLabels": {}}}],
    [{"ipBlock": {"cidr": "0.0.0.0/0"}}],
    [{"ipBlock": {"cidr": "::/0"}}, NAMED],
]


@pytest.mark.parametrize(
    "peers",
    [
        [NAMED],
        [{"podSelector": {}}],  # all pods of the release's namespace
        [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"istio": "ingressgateway"}}}],
        [NAMED | {"podSelector": {"matchExpressions": [{"key": "edge", "operator": "Exists"}]}}],
        [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        [],
    ],
)
def test_named_clients_are_enough_for_a_service(peers: list[dict[str, Any]]) -> None:
    assert manifests("service", {"networkPolicy": {"clients": peers}})


@pytest.mark.parametrize(
    "limited", [{"config": {"server": {"tls": {"client_ca_file": "/etc/authz-tls/ca.crt"}}}}, {"allowAnyClient": True}]
)
@pytest.mark.parametrize("policy", [{"enabled": False}, {"clients": None}, {"clients": ALL_PEERS[0]}])
def test_client_certificates_or_allow_any_client_are_enough_for_a_service(
    limited: dict[str, Any], policy: dict[str, Any]
) -> None:
    assert manifests("service", limited | {"networkPolicy": policy})


LOOPBACK = "127.0.0.1:9191"
PLAIN = {"issuer": "https://idp.example.com/", "audiences": ["a"]}
SNAPSHOT = {"issuer": "https://idp.example.com/", "audiences": ["a"], "keys": {"snapshot_file": "keys.json"}}
BOUND = {"name": "bound", "match": {"paths": ["/**"]}, "require": {"proof": "mtls"}}
STATE = "/var/lib/authz-service/e.json"


def receiving(file: str | None, **values: object) -> dict[str, Any]:
    """An issuer with security events and this snapshot_file."""
    polled = {"poll_endpoint": "https://idp.example.com/poll", "audience": "a", "bearer_token_file": "/token"}
    events = polled if file is None else polled | {"snapshot_file": file}
    return {"config": {"issuers": [{"issuer": "https://idp.example.com/", "security_events": events}]}} | values


ONE_POD = {"replicas": 1, "autoscaling": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}
SECRET = {"issuer": "https://idp.example.com/", "audiences": ["a"], "keys": {"ca_file": "/etc/authz-secrets/ca/ca.crt"}}


@pytest.mark.parametrize(
    ("name", "changes", "remedy"),
    [
        ("service", server(grpc_address=LOOPBACK), "set it to 0.0.0.0:9191"),
        ("service", server(grpc_address="[::1]:9191"), "set it to 0.0.0.0:9191"),
        ("service", server(grpc_address="unix:/run/authz/authz.sock"), "set it to 0.0.0.0:9191"),
        ("service", server(admin_address="localhost:9192"), "set it to 0.0.0.0:9192"),
        ("service", server(admin_address="0.0.0.0:9191"), "change one of them"),
        ("service", server(tls=None), "add config: {server: {tls: {certificate_file: /etc/authz-tls/tls.crt"),
        ("service", {"tls": {"certificate": {"enabled": False}}}, "set tls.existingSecret"),
        ("service", {"tls": {"existingSecret": "mine"}}, "keep one"),
        ("service", {"tls": {"certificate": {"issuerRef": {"name": ""}}}}, "set the issuer that signs it"),
        ("service", {"config": {"issuers": []}}, "add the issuers whose access tokens are accepted"),
        ("service", {"config": {"rules": []}}, "without a rule every request is denied"),
        ("service", {"config": {"issuers": [SNAPSHOT]}}, "set it to /var/lib/authz-service/keys.json"),
        ("service", receiving(None), "each of 12 pods would get some of the events only: set it to /var"),
        ("service", receiving(STATE), "set stateVolume.existingClaim to a PersistentVolumeClaim with ReadWriteMany"),
        ("service", receiving(STATE, autoscaling={"enabled": False}), "each of 3 pods would get some"),
        ("gateway", receiving(STATE), "or run one pod (replicas: 1, without autoscaling)"),
        ("service", receiving(None, stateVolume={"existingClaim": "a"}), "security_events has no snapshot_file"),
        ("service", receiving("/data/e.json", **ONE_POD), "set it to /var/lib/authz-service/e.json"),
        ("sidecar", receiving("e.json"), "set it to /var/lib/authz-service/e.json"),
        ("service", {"stateVolume": {"existingClaim": "a"}, "config": {"issuers": [PLAIN]}}, "uses no file in /var"),
        ("service", {"config": {"issuers": [SECRET]}}, "add secrets: [{name: ca, secretName: the-secret}]"),
        ("service", {"secrets": [{"name": "a", "secretName": "b"}] * 2}, "each name is a folder, so rename one"),
        ("service", server(shutdown_delay="1m") | HALF_A_MINUTE, "set it to at least 75"),
        ("service", server(shutdown_delay="500ms", shutdown_grace="30s") | HALF_A_MINUTE, "set it to at least 36"),
        ("service", {"autoscaling": {"minReplicas": 1}}, "set replicas (or autoscaling.minReplicas) to 2"),
        ("service", {"autoscaling": {"enabled": False}, "replicas": 1}, "podDisruptionBudget.enabled to false"),
        ("service", {"autoscaling": {"maxReplicas": 2}}, "raise it"),
        ("service", {"resources": {"requests": {"cpu": None}}}, "set it, such as 100m"),
        ("service", {"podDisruptionBudget": {"maxUnavailable": 0}}, "set it to 1"),
        ("service", {"podDisruptionBudget": {"maxUnavailable": 1, "minAvailable": 1}}, "are both set: keep one"),
        ("service", {"podDisruptionBudget": {"minAvailable": 3}}, "is 3 of 3 pods, which blocks draining every node"),
        ("service", {"podDisruptionBudget": {"minAvailable": "100%"}}, "which blocks draining every node"),
        ("service", {"existingConfigMap": "mine"}, "config.issuers and config.rules have no effect"),
        ("service", {"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}, "remove strategy.rolling"),
        ("service", {"dnsPolicy": "None"}, "requires dnsConfig.nameservers"),
        ("service", {"extraContainers": [{"name": "authz-service", "image": "a"}]}, "has one already: rename it"),
        ("gateway", {"extraInitContainers": [{"name": "envoy", "image": "a"}]}, "has one already: rename it"),
        ("sidecar", {"extraContainers": [{"name": "a", "image": "a"}]}, "set it in the application's chart"),
        ("sidecar", {"networkPolicy": {"clients": []}}, "so nothing would be restricted: remove it"),
        ("sidecar", {"networkPolicy": {"egressPorts": [443]}}, "so nothing would be restricted: remove it"),
        ("sidecar", {"strategy": {"type": "Recreate"}}, "set it in the application's chart"),
        ("service", {"service": {"ipFamilyPolicy": "PreferDualStack"}}, "set it to [::]:9191, which listens on both"),
        ("service", {"service": {"ipFamilies": ["IPv6"]}}, "set it to [::]:9191, which listens on both"),
        ("gateway", {"service": {"ipFamilies": ["IPv6"]}}, "gateway.envoy.address is 0.0.0.0, which is IPv4 only"),
        ("service", server(grpc_address="[::]:9191") | {"service": {"ipFamilyPolicy": "SingleStack",
                                                                    "ipFamilies": ["IPv4", "IPv6"]}},
         "has two families: keep one"),
        ("service", {"monitoring": {"serviceMonitor": {"scrapeTimeout": "1m"}}}, "Prometheus rejects a timeout"),
        ("service", server(shutdown_delay=None, shutdown_grace="26s") | HALF_A_MINUTE,
         "add up to 31 s: remove it, or set it to at least 36"),
        ("service", {"podDisruptionBudget": {"maxUnavailable": "0%"}}, "set it to 1"),
        ("service", {"service": {"headless": True, "port": 443}}, "remove service.port and service.type, or headless"),
        ("service", {"service": {"headless": True, "type": "NodePort"}}, "remove service.port and service.type"),
        ("gateway", {"service": {"headless": True}}, "service.headless requires shape service"),
        ("service", {"monitoring": {"podMonitor": {"enabled": True}}}, "keep one"),
        ("service", {"gateway": {"application": {"image": "shop:1"}}}, "set shape to gateway, or remove it"),
        ("service", {"test": {"url": "http://shop"}}, "remove it"),
        ("gateway", server(grpc_address="0.0.0.0:9191"), "set it to unix:/run/authz/authz.sock"),
        ("gateway", server(grpc_address="unix:authz.sock"), "an absolute path and its own folder"),
        ("gateway", server(grpc_address="unix:/run/authz.sock"), "an absolute path and its own folder"),
        ("gateway", server(grpc_address="unix:/etc/envoy/authz.sock"), "an absolute path and its own folder"),
        ("gateway", server(grpc_address="unix:/opt/authz-service/authz.sock"), "its own folder"),
        ("gateway", server(tls={"certificate_file": "a", "key_file": "b"}), "remove config.server.tls"),
        ("gateway", {"terminationGracePeriodSeconds": 44},
         "drainSeconds (35), config.server.shutdown_delay and shutdown_grace add up to 45 s: remove it, or set"),
        ("gateway", HALF_A_MINUTE | {"gateway": {"envoy": {"drainSeconds": 25}}},
         "drainSeconds (25), config.server.shutdown_delay and shutdown_grace add up to 35 s: remove it, or set"),
        ("gateway", {"gateway": {"application": {"image": ""}}}, "set it, or choose shape service or sidecar"),
        ("gateway", {"gateway": {"application": {"port": 8000}}}, "each must be different"),
        ("gateway", {"monitoring": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": False}}},
         "enable monitoring.podMonitor instead"),
        ("gateway", {"gateway": {"envoy": {"clientCaSecret": "ca"}}}, "without tls no client can show a certificate"),
        ("gateway", {"config": {"mtls": {"certificate": "xfcc"}}}, "set gateway.envoy.clientCaSecret to the CA"),
        ("gateway", {"config": {"rules": [BOUND]}}, "set gateway.envoy.clientCaSecret to a Secret"),
        ("service", {"networkPolicy": {"enabled": False}}, "list the proxies in networkPolicy.clients"),
        ("service", {"networkPolicy": {"clients": None}}, "config.server.tls.client_ca_file; or set allowAnyClient"),
        *(("service", {"networkPolicy": {"clients": peers}}, "clients allows all peers") for peers in ALL_PEERS),
        ("gateway", {"allowAnyClient": True}, "it applies only to shape service: remove it"),
        ("sidecar", {"allowAnyClient": True}, "it applies only to shape service: remove it"),
        ("service", {"networkPolicy": {"metrics": None}}, "serviceMonitor.enabled, but networkPolicy.metrics"),
        ("gateway", {"networkPolicy": {"metrics": []}}, "add Prometheus there"),
        ("gateway", {"networkPolicy": {"egressPorts": None, "extraEgress": [{"to": []}]}}, "set egressPorts"),
        ("sidecar", {"networkPolicy": {"enabled": True}}, "include authz-service.sidecar.metricsIngress in the policy"),
        ("sidecar", {"autoscaling": {"enabled": True}}, "scale the application"),
    ],
)  # fmt: skip
def test_a_contradiction_is_rejected_with_the_remedy(name: str, changes: dict[str, Any], remedy: str) -> None:
    with pytest.raises(helm.HelmRenderError) as error:
        manifests(name, changes)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("service", receiving(STATE, stateVolume={"existingClaim": "a"})),
        ("service", receiving(STATE, **ONE_POD)),
        ("service", receiving(None, **ONE_POD)),
        ("sidecar", receiving(STATE)),  # the application's chart has the number of pods
    ],
)
def test_pods_that_share_their_security_events_or_are_alone_are_rendered(name: str, changes: dict[str, Any]) -> None:
    assert manifests(name, changes)


@pytest.mark.parametrize("name", ["service", "gateway", "sidecar"])
def test_a_value_that_is_removed_is_rejected_by_name_or_not_needed(name: str) -> None:
    sections = {path[:-1] for path in descriptions() if len(path) > 1}
    for path in descriptions():
        values = with_null(shape(name), path)
        try:
            found = in_order(render(CHART, values))
        except helm.HelmRenderError as error:
            text = str(error)
            assert f"the values lack {'.'.join(path)}" in text or "or incomplete:\n" in text, path
        else:
            assert path not in sections, path
            assert [problem for each in found for problem in problems(each)] == [], path


def with_null(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    section = values
    for key in path[:-1]:
        section = section.setdefault(key, {})
    section[path[-1]] = None
    return values


def test_null_omits_a_probe() -> None:
    pod = pods(manifests("service"))[0]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container(pod))
    pod = pods(in_order(render(CHART, with_null(shape("service"), ("probes", "startup")))))[0]
    assert "startupProbe" not in container(pod)


def test_all_contradictions_are_reported_at_once() -> None:
    with pytest.raises(helm.HelmRenderError) as error:
        manifests("service", merged(server(grpc_address=LOOPBACK), {"config": {"rules": []}}))
    assert "set it to 0.0.0.0:9191" in str(error.value)
    assert "config.rules is missing" in str(error.value)


@pytest.mark.parametrize(("version", "rejected"), [("v1.28.9", True), ("v1.29.0", False)])
def test_a_native_sidecar_is_rejected_before_kubernetes_1_29(
    version: str,
    rejected: bool,  # noqa: FBT001
    capfd: pytest.CaptureFixture[str],
) -> None:
    helm.lint(CHART, shape("gateway"), kube_version=version)  # lint prints a failing template, and continues
    assert ("set sidecar.native to false" in capfd.readouterr().err) == rejected


@pytest.mark.parametrize(
    ("probe", "changes", "scheme"),
    [
        ({"port": 8000}, {}, None),
        ({"port": 8000}, {"tls": {"existingSecret": "shop-tls"}}, "HTTPS"),
        ({"port": 8000, "scheme": "HTTP"}, {"tls": {"existingSecret": "shop-tls"}}, "HTTP"),  # as in the values
        ({"port": 8080}, {"tls": {"existingSecret": "shop-tls"}}, None),  # the application itself
    ],
)
@pytest.mark.parametrize("kind", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_of_the_application_through_envoy_uses_tls_where_envoy_does(
    kind: str, probe: dict[str, Any], changes: dict[str, Any], scheme: str | None
) -> None:
    application = {"gateway": {"application": {kind: {"httpGet": {"path": "/healthz", **probe}}}}}
    pod = one(manifests("gateway", merged(changes, application)), "Deployment")["spec"]["template"]
    assert container(pod, "application")[kind]["httpGet"].get("scheme") == scheme
