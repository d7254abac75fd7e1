"""Shape `service` behind Envoys: one release with mutual TLS and a headless Service, and one without either."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from cluster.kubectl import wait_until
from cluster.provider import Provider
from cluster.proxy import certificate
from cluster.service import API_CLIENT, API_SECRET, ServiceRelease, proxy_name, ready, values
from support.oidc_provider import OPAQUE_API, OTHER_API, WRITE

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.kubectl import Namespace

Report = Callable[[str, object], None]  # record_property

PATH = "/v1/appointments/7"
NEW_RULE = {"name": "invoices", "match": {"paths": ["/v1/invoices"]}, "require": {"scopes": ["read:appointments"]}}

# Connects with TLS 1.3 and without a certificate. Prints the serial number of the server's and what it answers.
HANDSHAKE = """
import socket, ssl, sys
context = ssl.create_default_context(cadata=sys.stdin.read())
context.minimum_version = ssl.TLSVersion.TLSv1_3
with context.wrap_socket(socket.create_connection((sys.argv[1], 9191)), server_hostname=sys.argv[2]) as connection:
    print(connection.getpeercert()["serialNumber"])
    try:
        print(connection.recv(1))
    except ssl.SSLError as error:
        print(error.reason)
"""
# Kills a child of the first process of a container.
KILL_A_WORKER = """
import os, pathlib, signal
workers = [each for each in pathlib.Path("/proc").glob("[0-9]*") if "\\nPPid:\\t1\\n" in (each / "status").read_text()]
os.kill(max(int(each.name) for each in workers if int(each.name) != os.getpid()), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def provider(namespace: Namespace, client: Client) -> Provider:
    return Provider(namespace, client, [API_CLIENT])


@pytest.fixture(scope="module")
def token(provider: Provider) -> str:
    return provider.access_token()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(namespace: Namespace, authority: trustme.CA) -> None:
    """A new server certificate for authz-service, in the Secret of its values."""
    host = f"authz-service.{namespace.name}.svc"
    namespace.secret("authz-tls", certificate(authority, host), "kubernetes.io/tls")


@pytest.fixture(scope="module")
def both(
    namespace: Namespace, client: Client, provider: Provider, authority: trustme.CA
) -> tuple[ServiceRelease, ServiceRelease]:
    """Two releases, one with mutual TLS and a headless Service, and one with two workers and without a rollout."""
    issue(namespace, authority)
    namespace.secret("provider-ca", {"ca.crt": provider.ca})
    namespace.secret("introspection", {"secret": "not yet registered"})
    namespace.config_map("authz-revocations", {"revocations.yaml": "revocations: []\n"})
    strict = {
        "service": {"headless": True},
        "tls": {"existingSecret": "authz-tls"},
        "config": {"server": {"tls": {"client_ca_file": "/etc/authz-tls/ca.crt"}, "shutdown_delay": "15s"}},
    }
    plain = {
        "tls": None,
        "config": {
            "server": {"tls": None, "workers": 2},
            "revocations_file": "/etc/authz-revocations/revocations.yaml",
        },
        "rolloutOnConfigChange": False,
        "extraVolumes": [{"name": "revocations", "configMap": {"name": "authz-revocations"}}],
        "extraVolumeMounts": [{"name": "revocations", "mountPath": "/etc/authz-revocations", "readOnly": True}],
        "resources": {"limits": {"memory": "384Mi"}},
    }

    releases = [
        ServiceRelease(namespace, client, name, values(namespace, provider, proxy_name(name), changes), authority)
        for name, changes in (("authz-service", strict), ("plain", plain))
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(ServiceRelease.install, releases))
    for each in releases:
        each.wait_allowed("/healthz")
    return releases[0], releases[1]


@pytest.fixture(scope="module")
def strict(both: tuple[ServiceRelease, ServiceRelease]) -> ServiceRelease:
    return both[0]


@pytest.fixture(scope="module")
def plain(both: tuple[ServiceRelease, ServiceRelease]) -> ServiceRelease:
    return both[1]


def test_it_is_admitted_under_the_restricted_pod_security_standard_without_a_warning(
    namespace: Namespace, strict: ServiceRelease, plain: ServiceRelease
) -> None:
    for each in (strict, plain):
        manifest = each.release.status()["manifest"]
        command = ("apply", "--server-side", "--dry-run=server", "--force-conflicts", "--filename=-")
        assert namespace.kubectl(*command, stdin=manifest).stderr == ""


def test_helm_test_passes_and_logs_the_decision(strict: ServiceRelease, plain: ServiceRelease) -> None:
    for each in (strict, plain):
        assert "denied with 401, reason missing_token" in each.release.test()


def test_only_an_access_token_for_this_api_with_the_scope_reaches_the_application(
    provider: Provider, token: str, strict: ServiceRelease, plain: ServiceRelease
) -> None:
    tokens = {
        "": "missing_token",
        f"{token[:-8]}AAAAAAAA": "bad_signature",
        provider.id_token(): "id_token",
        provider.access_token(resource=OTHER_API): "wrong_audience",
        provider.access_token(scope=WRITE): "insufficient_scope",
    }
    for each in (strict, plain):
        allowed = each.proxy.get(PATH, token, x_auth_subject="admin")
        assert allowed.status == 200
        assert allowed.json()["headers"]["x-auth-subject"] == "service"
        assert {value: each.proxy.get(PATH, value).reason for value in tokens} == tokens


def test_the_readiness_probe_calls_grpc_without_tls_and_http_with_it(
    namespace: Namespace, strict: ServiceRelease, plain: ServiceRelease
) -> None:
    kinds = {}
    for each in (strict, plain):
        (container,) = namespace.get("deployment", each.deployment)["spec"]["template"]["spec"]["containers"]
        kinds[each.release.name] = {"grpc", "httpGet"} & set(container["readinessProbe"])
        assert all(ready(pod) for pod in each.pods())
        assert each.restarts() == [0, 0]
    assert kinds == {"authz-service": {"httpGet"}, "plain": {"grpc"}}


def test_a_worker_that_is_killed_is_replaced_without_a_restart_of_the_container(
    namespace: Namespace, plain: ServiceRelease
) -> None:
    pod = plain.pods()[0]
    namespace.execute(pod["metadata"]["name"], "python", "-c", KILL_A_WORKER)
    wait_until(lambda: plain.metrics(pod).get("authz_worker_restarts_total") == 1, what="a new worker")
    wait_until(lambda: plain.admin(pod, "/readyz").status == 200, what="two workers that are ready")
    assert plain.restarts() == [0, 0]


def test_a_rolling_restart_loses_no_request(
    namespace: Namespace, token: str, strict: ServiceRelease, plain: ServiceRelease
) -> None:
    before = strict.names() | plain.names()
    loads = [each.proxy.load(PATH, token, rate=15, keep=keep) for each in (strict, plain) for keep in (True, False)]
    for each in (strict, plain):
        namespace.kubectl("rollout", "restart", f"deployment/{each.deployment}")
    for each in (strict, plain):
        namespace.wait_rollout(each.deployment)
        each.wait_terminated()
    for result in [load.stop() for load in loads]:
        assert result.lost == 0, (result.answers, result.failures)
    assert not before & (strict.names() | plain.names())


def handshake(release: ServiceRelease, authority: trustme.CA, pod: dict[str, Any]) -> list[str]:
    """What ``HANDSHAKE`` prints for a pod, from the pod of the proxy, which the NetworkPolicy admits."""
    command = ("python3", "-c", HANDSHAKE, pod["status"]["podIP"], f"{release.deployment}.{release.namespace.name}.svc")
    target = f"deployment/{release.proxy.name}"
    ca = authority.cert_pem.bytes().decode()
    return release.namespace.execute(target, *command, container="shop", stdin=ca).stdout.split()


def test_a_client_without_a_certificate_is_refused(authority: trustme.CA, strict: ServiceRelease) -> None:
    pod = strict.pods()[0]
    series = "authz_transport_failures_total no_client_certificate"
    before = strict.metrics(pod)[series]
    assert handshake(strict, authority, pod)[1] == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    wait_until(lambda: strict.metrics(pod).get(series) == before + 1, what="the counted failure")


def test_a_new_server_certificate_is_used_without_a_restart_and_without_a_lost_request(
    namespace: Namespace, token: str, authority: trustme.CA, strict: ServiceRelease, record_property: Report
) -> None:
    def serial_numbers() -> set[str]:
        return {handshake(strict, authority, pod)[0] for pod in strict.pods()}

    pods, (before,) = strict.names(), serial_numbers()
    loads = [strict.proxy.load(PATH, token, rate=20, keep=keep) for keep in (True, False)]
    issue(namespace, authority)
    changed = strict.update_volumes()
    wait_until(lambda: before not in serial_numbers(), 180, "the new certificate")
    record_property("a new server certificate in a Secret is used after", f"{time.monotonic() - changed:.1f} s")
    for result in [load.stop() for load in loads]:
        assert result.lost == 0, (result.answers, result.failures)
    # An Envoy that connects now verifies the new certificate.
    strict.proxy.restart()
    strict.wait_allowed(PATH, token)
    assert strict.names() == pods
    assert strict.restarts() == [0, 0]


def test_an_opaque_token_is_introspected_with_the_secret_that_the_file_has_now(
    namespace: Namespace, provider: Provider, plain: ServiceRelease, record_property: Report
) -> None:
    opaque = provider.access_token(resource=OPAQUE_API)
    unavailable = plain.proxy.get(PATH, opaque)
    assert (unavailable.status, unavailable.reason) == (503, "introspection_unavailable")
    assert int(unavailable.headers["retry-after"]) > 0
    namespace.secret("introspection", {"secret": API_SECRET})
    changed = plain.update_volumes()
    wait_until(lambda: plain.proxy.get(PATH, opaque).status == 200, 180, "an introspection with the new secret")
    record_property("a new client secret in a Secret is used after", f"{time.monotonic() - changed:.1f} s")
    revoked = provider.access_token(resource=OPAQUE_API)
    provider.revoke(revoked)
    assert plain.proxy.get(PATH, revoked).reason == "inactive"
    assert plain.restarts() == [0, 0]


def test_an_entry_in_the_list_of_revocations_denies_the_token_on_every_pod(
    namespace: Namespace, token: str, plain: ServiceRelease, record_property: Report
) -> None:
    def change(entries: str, number: float) -> None:
        namespace.config_map("authz-revocations", {"revocations.yaml": f"revocations: {entries}\n"})
        changed = plain.update_volumes()
        plain.wait_metric("authz_revocations file", number)
        seconds = time.monotonic() - changed
        record_property("a changed list of revocations in a ConfigMap is used after", f"{seconds:.1f} s")

    change("[{subject: service}]", 1.0)
    plain.wait_reason(PATH, token, "revoked")
    change("[]", 0.0)
    plain.wait_allowed(PATH, token)
    assert plain.restarts() == [0, 0]


def test_without_a_rollout_the_pods_reload_what_helm_changed(
    token: str, plain: ServiceRelease, record_property: Report
) -> None:
    pods = plain.names()
    assert plain.proxy.get("/v1/invoices", token).reason == "no_rule"
    plain.upgrade({"config": {"rules": [*plain.values["config"]["rules"], NEW_RULE]}})
    changed = plain.update_volumes()
    plain.wait_metric("authz_config_reloads_total success", 2.0)  # each of two workers
    record_property("a changed configuration in a ConfigMap is used after", f"{time.monotonic() - changed:.1f} s")
    assert plain.proxy.get("/v1/invoices", token).status == 200
    assert plain.names() == pods
    assert plain.restarts() == [0, 0]


def test_the_pods_reload_an_existing_config_map_and_keep_the_last_valid_one(
    namespace: Namespace, token: str, plain: ServiceRelease
) -> None:
    config = plain.values["config"]
    namespace.config_map("shop-authz", {"config.yaml": yaml.safe_dump(config)})
    server = {name: config["server"][name] for name in ("grpc_address", "admin_address", "workers")}
    plain.upgrade({"existingConfigMap": "shop-authz", "config": None}, {"config": {"server": server}})
    plain.wait_reason("/v1/invoices", token, "no_rule")
    plain.wait_terminated()

    namespace.config_map("shop-authz", {"config.yaml": yaml.safe_dump(config | {"rules": [NEW_RULE]})})
    plain.update_volumes()
    plain.wait_metric("authz_config_reloads_total success", 2.0)
    namespace.config_map("shop-authz", {"config.yaml": yaml.safe_dump(config | {"rules": "none"})})
    plain.update_volumes()
    plain.wait_metric("authz_config_last_reload_successful", 0.0)
    assert plain.proxy.get("/v1/invoices", token).status == 200
    assert plain.proxy.get(PATH, token).reason == "no_rule"
    assert [ready(each) for each in plain.pods()] == [True, True]
    assert plain.restarts() == [0, 0]
