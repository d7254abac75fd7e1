"""Bound tokens, revoked tokens and the metadata of a protected resource, through two gateways behind one Service."""

from __future__ import annotations

import re
import secrets
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import jwt
import pytest
import trustme
import yaml

from cluster.client import Answer, Request
from cluster.helm import IMAGE, Release
from cluster.images import TOOLS
from cluster.kubectl import wait_until
from support.chart import merged, shape
from support.documents import blocks, page, yaml_blocks
from support.dpop import DpopKey
from support.oidc_provider import API, READ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.client import Client
    from cluster.kubectl import Namespace
    from cluster.provider import Provider

PAGE: Final = page("how-to/chart")
PODS: Final = "app.kubernetes.io/instance=shop"
NAMES: Final = ("first", "second")  # a Service for each pod
PAYMENT: Final = "/payments/7"
KEY: Final = DpopKey()
NO_REVOCATIONS: Final = {"revocations.yaml": "revocations: []\n"}


@dataclass(frozen=True)
class Shop:
    """The gateways, and the client that calls them."""

    release: Release
    client: Client
    ca: str

    @property
    def host(self) -> str:
        return f"shop.{self.release.namespace.name}.svc"

    @property
    def resource(self) -> str:
        return f"https://{self.host}/mcp"

    def request(self, path: str, pod: str = "shop", **headers: str) -> Request:
        """A request to the Service or to one pod, with the host of the Service."""
        url = f"https://{pod}.{self.release.namespace.name}.svc{path}"
        return Request(url, headers={"host": self.host, **headers}, ca=self.ca)

    def send(self, path: str, pod: str = "shop", **headers: str) -> Answer:
        (answer,) = self.client.send(self.request(path, pod, **headers))
        return answer

    def pay(self, token: str, proof: str, pod: str = "shop") -> Answer:
        return self.send(PAYMENT, pod, authorization=f"DPoP {token}", dpop=proof)

    def proof(self, token: str, nonce: str | None, *, key: DpopKey = KEY, url: str = "") -> str:
        return key.proof("GET", url or f"https://{self.host}{PAYMENT}", token, now=time.time(), nonce=nonce)

    def nonce(self, token: str, pod: str = "shop") -> str:
        """The nonce that a pod requires."""
        answer = self.pay(token, self.proof(token, None), pod)
        assert outcome(answer) == (401, "nonce_required")
        assert 'error="use_dpop_nonce"' in answer.headers["www-authenticate"]
        return answer.headers["dpop-nonce"]

    def name_pods(self) -> None:
        """Let the Services of the pods lead to the two pods of now."""
        namespace = self.release.namespace
        pods = dict(zip(NAMES, sorted(pod["metadata"]["name"] for pod in namespace.pods(PODS)), strict=True))
        for name, pod in pods.items():
            namespace.kubectl("label", "pod", pod, f"pod={name}")
        wait_until(lambda: {name: self.reached(name) for name in NAMES} == pods, what="each pod by its Service")
        wait_until(lambda: self.reached("shop") in pods.values(), what="a pod by their Service")

    def reached(self, name: str) -> str:
        answer = self.send("/healthz", name)
        return str(answer.json()["pod"]) if answer.status == 200 else ""


@pytest.fixture(scope="module")
def values(namespace: Namespace, provider: Provider) -> dict[str, Any]:
    """The values of the shape, with the blocks for revoked and bound tokens and for a protected resource."""
    host = f"shop.{namespace.name}.svc"
    issuer = {
        "issuer": provider.issuer,
        "name": "main",
        "audiences": [API],
        "keys": {"ca_file": "/etc/authz-secrets/provider/ca.crt"},
    }
    mcp = {
        "name": "mcp",
        "match": {"hosts": [host], "paths": ["/mcp"]},
        "require": {"audiences": [f"https://{host}/mcp"], "scopes": [READ]},
    }
    health, *_ = shape("gateway")["config"]["rules"]
    orders = {"name": "orders", "match": {"paths": ["/orders/**"]}, "require": {"scopes": [READ]}}
    payments = {
        "name": "payments",
        "match": {"paths": ["/payments/**"]},
        "require": {"scopes": [READ], "proof": "any"},
    }
    (revocations,) = (yaml.safe_load(block) for block in yaml_blocks("how-to/chart") if "revocations_file" in block)
    own = {
        "fullnameOverride": "shop",
        "image": IMAGE,
        "resources": {"requests": {"cpu": "20m"}},
        "config": {
            "issuers": [issuer],
            "rules": [health, mcp, orders, payments],
            "resources": [{"resource": f"https://{host}/mcp", "mcp": True}],
            "dpop": {
                "nonce": "required",
                "nonce_key_file": "/etc/authz-secrets/dpop/nonce.key",
                "origins": [f"https://{host}"],
            },
            "upstream": {"forward_authorization": False},
        },
        "secrets": [{"name": "provider", "secretName": "provider-ca"}, {"name": "dpop", "secretName": "dpop"}],
        "tls": {"existingSecret": "shop-tls"},
        "gateway": {
            "application": {"image": TOOLS},
            "envoy": {"policies": [], "resources": {"requests": {"cpu": "20m"}}},
        },
        "networkPolicy": {"clients": [{"podSelector": {}}]},
        "monitoring": {"podMonitor": {"enabled": False}},  # whose kind the cluster lacks
    }
    return merged(merged(shape("gateway"), revocations), own)


@pytest.fixture(scope="module")
def shop(namespace: Namespace, client: Client, provider: Provider, values: dict[str, Any]) -> Shop:
    authority = trustme.CA()
    domain = f"{namespace.name}.svc"
    certificate = authority.issue_cert(*(f"{name}.{domain}" for name in ("shop", *NAMES)))
    chain = "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems)
    files = {"tls.crt": chain, "tls.key": certificate.private_key_pem.bytes().decode()}
    namespace.secret("shop-tls", files, "kubernetes.io/tls")
    namespace.secret("provider-ca", {"ca.crt": provider.ca})
    namespace.secret("dpop", {"nonce.key": secrets.token_hex(32)})
    namespace.config_map("authz-revocations", NO_REVOCATIONS)
    for name in NAMES:
        spec = {"selector": {"pod": name}, "ports": [{"port": 443, "targetPort": "http"}]}
        namespace.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    release = Release(namespace, "shop")
    release.install(values)
    installed = Shop(release, client, authority.cert_pem.bytes().decode())
    installed.name_pods()
    return installed


@pytest.fixture(scope="module")
def token(provider: Provider) -> str:
    """A token that is bound to the client's key."""
    return provider.bound_token(KEY)


def outcome(answer: Answer) -> tuple[int, str]:
    assert not answer.error, answer
    return answer.status, answer.reason


def test_a_bound_token_is_accepted_with_a_proof_of_its_key_only(shop: Shop, token: str) -> None:
    nonce = shop.nonce(token)
    answer = shop.pay(token, shop.proof(token, nonce))
    assert answer.status == 200, answer
    assert not answer.json()["authorization"]
    stolen = {
        "as a bearer token": (shop.send(PAYMENT, authorization=f"Bearer {token}"), "missing_proof"),
        "without a proof": (shop.send(PAYMENT, authorization=f"DPoP {token}"), "missing_proof"),
        "with a proof of another key": (
            shop.pay(token, shop.proof(token, nonce, key=DpopKey(name="thief"))),
            "invalid_proof",
        ),
        "where no proof is required": (shop.send("/orders/7", authorization=f"Bearer {token}"), "missing_proof"),
    }
    assert {how: outcome(answer) for how, (answer, _) in stolen.items()} == {
        how: (401, reason) for how, (_, reason) in stolen.items()
    }


def test_an_unbound_token_is_accepted_where_no_proof_is_required_only(shop: Shop, provider: Provider) -> None:
    bearer = f"Bearer {provider.access_token()}"
    assert shop.send("/orders/7", authorization=bearer).status == 200
    assert outcome(shop.send(PAYMENT, authorization=bearer)) == (401, "unbound_token")


def test_a_proof_is_for_the_url_of_the_service(shop: Shop, token: str) -> None:
    """Each pod accepts it, by whatever name it was reached, because `origins` has the name that clients use."""
    nonce = shop.nonce(token)
    for pod in NAMES:
        assert shop.pay(token, shop.proof(token, nonce), pod).status == 200
        other = f"https://{pod}.{shop.release.namespace.name}.svc{PAYMENT}"
        assert outcome(shop.pay(token, shop.proof(token, nonce, url=other), pod)) == (401, "invalid_proof")


def test_pods_that_share_the_key_accept_each_others_nonces(shop: Shop, token: str) -> None:
    for issuer in NAMES:
        nonce = shop.nonce(token, issuer)
        for pod in NAMES:
            assert shop.pay(token, shop.proof(token, nonce), pod).status == 200, (issuer, pod)


def test_a_captured_proof_is_accepted_once_by_each_pod(shop: Shop, token: str) -> None:
    """Replay caches are not shared, as docs/understand/stolen-tokens.md says."""
    proof = shop.proof(token, shop.nonce(token))
    for pod in NAMES:
        assert shop.pay(token, proof, pod).status == 200
        assert outcome(shop.pay(token, proof, pod)) == (401, "replayed_proof")


def test_a_revoked_token_is_refused_by_each_pod_until_the_entry_is_removed(shop: Shop, provider: Provider) -> None:
    revoked, other = provider.access_token(), provider.access_token()
    identifier = jwt.decode(revoked, options={"verify_signature": False})["jti"]
    for token in (revoked, other):
        assert answers(shop, token) == {(200, "")}
    namespace = shop.release.namespace
    namespace.config_map("authz-revocations", {"revocations.yaml": f"revocations:\n  - {{jti: {identifier}}}\n"})
    make_kubelet_update(namespace)
    wait_until(lambda: answers(shop, revoked) == {(401, "revoked")}, timeout=150, what="the revocation in each pod")
    assert answers(shop, other) == {(200, "")}
    namespace.config_map("authz-revocations", NO_REVOCATIONS)
    make_kubelet_update(namespace)
    wait_until(lambda: answers(shop, revoked) == {(200, "")}, timeout=150, what="the end of the revocation")


def answers(shop: Shop, token: str) -> set[tuple[int, str]]:
    """What the pods answer."""
    requests = [shop.request("/orders/7", pod, authorization=f"Bearer {token}") for pod in NAMES]
    return {outcome(answer) for answer in shop.client.send(*requests)}


def make_kubelet_update(namespace: Namespace) -> None:
    """Run the page's command, by which the kubelet updates mounted ConfigMaps at once."""
    start = "kubectl --namespace shop annotate pods "
    (command,) = (each.text for each in blocks(PAGE, "sh") if each.text.startswith(start))
    in_namespace = command.replace("--namespace shop", f"--namespace {namespace.name}", 1)
    subprocess.run(["/bin/sh", "-c", in_namespace], check=True, capture_output=True)


def test_a_client_without_a_token_finds_its_way_to_one(shop: Shop, provider: Provider) -> None:
    """The challenge names the resource's metadata, these the provider, and the provider's the token endpoint."""
    challenged = shop.send("/mcp")
    assert outcome(challenged) == (401, "missing_token")
    challenge = challenged.headers["www-authenticate"]
    url, scope = (part(challenge, name) for name in ("resource_metadata", "scope"))
    assert url == f"https://{shop.host}/.well-known/oauth-protected-resource/mcp"

    answer = shop.client.get(url, ca=shop.ca)
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    metadata = answer.json()
    assert metadata["resource"] == shop.resource
    assert metadata["scopes_supported"] == [READ] == scope.split()
    (server,) = metadata["authorization_servers"]

    answer = shop.client.get(f"{server}/.well-known/openid-configuration", ca=provider.ca)
    assert answer.json()["issuer"] == server == provider.issuer
    assert answer.json()["token_endpoint"] == f"{provider.issuer}/token"

    token = provider.access_token(resource=metadata["resource"], scope=scope)
    allowed = shop.send("/mcp", authorization=f"Bearer {token}")
    assert allowed.status == 200, allowed
    assert not allowed.json()["authorization"]
    # The token is for this resource only, and a token for another one is not for this.
    assert outcome(shop.send("/orders/7", authorization=f"Bearer {token}")) == (401, "wrong_audience")
    assert outcome(shop.send("/mcp", authorization=f"Bearer {provider.access_token()}")) == (401, "wrong_audience")


def part(challenge: str, name: str) -> str:
    """A parameter that all challenges of an answer have in common."""
    (value,) = set(re.findall(rf'{name}="([^"]*)"', challenge))
    return str(value)


@pytest.fixture
def unshared(shop: Shop, values: dict[str, Any]) -> Iterator[Shop]:
    """The gateways without a common key for nonces."""
    shop.release.upgrade(merged(values, {"config": {"dpop": {"nonce_key_file": None}}}))
    shop.name_pods()
    yield shop
    shop.release.rollback()
    shop.name_pods()


def test_pods_without_a_common_key_refuse_each_others_nonces(unshared: Shop, token: str) -> None:
    """So a captured proof is refused by the other pod, and a client needs a nonce for each pod."""
    first, second = NAMES
    proof = unshared.proof(token, unshared.nonce(token, first))
    assert unshared.pay(token, proof, first).status == 200
    answer = unshared.pay(token, proof, second)
    assert outcome(answer) == (401, "nonce_required")
    renewed = answer.headers["dpop-nonce"]
    assert unshared.pay(token, unshared.proof(token, renewed), second).status == 200
