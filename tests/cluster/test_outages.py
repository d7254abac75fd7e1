"""Shape `service` while the provider cannot be reached: at the start of the pods, and later."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from cluster.kubectl import wait_until
from cluster.provider import Provider
from cluster.proxy import certificate
from cluster.service import (
    API_CLIENT,
    API_SECRET,
    ServiceRelease,
    deployment_name,
    proxy_name,
    ready,
    values,
    wait_not_serving,
)
from support.oidc_provider import API, OPAQUE_API, READ
from support.signing import Signer

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.kubectl import Namespace

PATH = "/v1/appointments/7"
STOP = "import os, signal; os.kill(1, signal.SIGTERM)"


@pytest.fixture(scope="module")
def provider(namespace: Namespace, client: Client) -> Provider:
    return Provider(namespace, client, [API_CLIENT])


@pytest.fixture(scope="module")
def both(namespace: Namespace, client: Client, provider: Provider) -> tuple[ServiceRelease, ServiceRelease]:
    """A release with TLS, whose readiness probe uses HTTP, and one without, whose readiness probe uses gRPC.

    They are not installed yet. Without a startup probe, it is the readiness probe that keeps a pod from being ready.
    """
    authority = trustme.CA()
    secret = certificate(authority, f"{deployment_name('secure')}.{namespace.name}.svc")
    namespace.secret("authz-tls", secret, "kubernetes.io/tls")
    namespace.secret("provider-ca", {"ca.crt": provider.ca})
    namespace.secret("introspection", {"secret": API_SECRET})
    common: dict[str, Any] = {
        "replicas": 1,
        "podDisruptionBudget": {"enabled": False},
        "probes": {"startup": None},
    }
    changes = {
        "secure": common | {"tls": {"existingSecret": "authz-tls"}},
        "plain": common | {"tls": None, "config": {"server": {"tls": None}}},
    }

    def release(name: str) -> ServiceRelease:
        chosen = values(namespace, provider, proxy_name(name), changes[name])
        chosen["config"]["issuers"][0]["introspection"]["cache_ttl"] = "5m"
        return ServiceRelease(namespace, client, name, chosen, authority)

    return release("secure"), release("plain")


@pytest.fixture(scope="module")
def secure(both: tuple[ServiceRelease, ServiceRelease]) -> ServiceRelease:
    return both[0]


@pytest.fixture(scope="module")
def plain(both: tuple[ServiceRelease, ServiceRelease]) -> ServiceRelease:
    return both[1]


def new_pod(release: ServiceRelease, installation: Future[None]) -> str:
    """The name of the pod of a release that Helm installs."""

    def names() -> set[str]:
        if installation.done():
            installation.result()  # raises why it failed
        return release.names()

    (name,) = wait_until(names, what=f"a pod of {release.release.name}")
    return name


def wait_not_ready(release: ServiceRelease, pod: str) -> None:
    """Wait until a pod has reported to the kubelet that it is not ready, and check that it says why."""
    wait_not_serving(release.namespace, pod)
    found = release.namespace.get("pod", pod)
    assert not ready(found)
    answer = release.admin(found, "/readyz")
    assert (answer.status, answer.body) == (503, '{"ready": false, "missing": ["keys of issuer main"]}')
    wait_until(lambda: '"fetching keys failed"' in release.namespace.logs(pod), what="the failed fetch in the log")


def test_pods_that_start_without_the_provider_get_ready_when_it_comes(
    provider: Provider, secure: ServiceRelease, plain: ServiceRelease
) -> None:
    provider.stop()
    with ThreadPoolExecutor() as pool:
        installations = {each: pool.submit(each.install) for each in (secure, plain)}
        for each, installation in installations.items():
            wait_not_ready(each, new_pod(each, installation))
            each.proxy.wait_ready()
            assert each.proxy.get(PATH).status == 503
        provider.start()
        for installation in installations.values():
            installation.result()  # Helm waits for ready pods
    token = provider.access_token()
    for each in (secure, plain):
        each.wait_allowed(PATH, token)
        assert each.restarts() == [0]


@pytest.fixture(scope="module")
def tokens(provider: Provider, secure: ServiceRelease, plain: ServiceRelease) -> dict[str, str]:
    """Tokens from before the provider went down. It is down from now on."""
    issued = {"known": provider.access_token(), "new": provider.access_token()}
    issued |= {
        "opaque": provider.access_token(resource=OPAQUE_API),
        "unseen": provider.access_token(resource=OPAQUE_API),
    }
    for each in (secure, plain):
        for name in ("known", "opaque"):
            each.wait_allowed(PATH, issued[name])
    claims = {"iss": provider.issuer, "aud": API, "exp": int(time.time()) + 600, "sub": "alice", "scope": READ}
    issued["another key"] = Signer("RS256", "another").sign(claims)
    provider.stop()
    return issued


def test_during_an_outage_only_what_needs_the_provider_is_denied_and_may_be_repeated(
    tokens: dict[str, str], secure: ServiceRelease, plain: ServiceRelease
) -> None:
    for each in (secure, plain):
        answers = {name: each.proxy.get(PATH, token) for name, token in tokens.items()}
        answers |= {"none": each.proxy.get(PATH), "public": each.proxy.get("/healthz")}
        assert {name: answer.status for name, answer in answers.items()} == {
            "known": 200,
            "new": 200,
            "opaque": 200,
            "unseen": 503,
            "another key": 503,
            "none": 401,
            "public": 200,
        }
        # The reason depends on whether the provider refuses connections or does not respond before the call's deadline.
        assert answers["unseen"].reason in {"introspection_unavailable", "deadline_exceeded"}
        assert answers["another key"].reason in {"keys_unavailable", "deadline_exceeded"}
        repeatable = {name for name, answer in answers.items() if "retry-after" in answer.headers}
        assert repeatable == {"unseen", "another key"}
        assert [ready(pod) for pod in each.pods()] == [True]


def test_a_container_that_restarts_during_an_outage_serves_with_the_keys_of_its_snapshot(
    namespace: Namespace, tokens: dict[str, str], secure: ServiceRelease
) -> None:
    (pod,) = secure.names()
    namespace.execute(f"pod/{pod}", "python", "-c", STOP)
    wait_until(lambda: secure.restarts() == [1], what="the restart")
    wait_until(lambda: all(ready(each) for each in secure.pods()), what="a pod that is ready")
    secure.wait_allowed(PATH, tokens["new"])
    assert secure.names() == {pod}


def test_a_rollout_during_an_outage_keeps_the_old_pods_and_ends_after_it(
    namespace: Namespace, provider: Provider, tokens: dict[str, str], plain: ServiceRelease
) -> None:
    (old,) = plain.names()
    namespace.kubectl("rollout", "restart", f"deployment/{plain.deployment}")
    wait_until(lambda: len(plain.names()) == 2, what="a new pod")
    (new,) = plain.names() - {old}
    wait_not_ready(plain, new)
    assert plain.proxy.get(PATH, tokens["new"]).status == 200
    provider.start()
    namespace.wait_rollout(plain.deployment)
    plain.wait_allowed(PATH, tokens["new"])
    assert plain.names() == {new}
