"""oidc-provider in a pod with TLS. All its tokens are requested by the client of its namespace."""

from __future__ import annotations

import json
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import trustme
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from cluster.client import CONTAINER_SECURITY, POD_SECURITY, Answer, Request
from cluster.images import PROVIDER
from cluster.kubectl import wait_until
from support.oidc_provider import API, APP, CALLBACK, READ, SERVICE, authorization_request
from support.signing import private_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster.client import Client
    from cluster.kubectl import Namespace
    from support.dpop import DpopKey

_NAME: Final = "provider"
_PORT: Final = 8443  # of its pod, and 443 of the Service
_LABELS: Final = {"app": _NAME}
_RELEASE: Final = "oidc-provider-8"  # the one that runs on each Node.js
_COOKIE: Final = re.compile(r"(?:^|, )([\w.]+)=([^;]*)")  # in set-cookie headers that the client has joined
_FORM: Final = {"content-type": "application/x-www-form-urlencoded"}


class Provider:
    """The Deployment and the Service `provider` of a namespace. They exist until the namespace is deleted."""

    def __init__(self, namespace: Namespace, client: Client, clients: Sequence[Mapping[str, Any]] = ()) -> None:
        """``client`` is in the same namespace. ``clients`` are registrations, such as those of introspecting APIs."""
        self._namespace = namespace
        self._client = client
        host = f"{_NAME}.{namespace.name}.svc"
        self.issuer = f"https://{host}"
        authority = trustme.CA()
        self.ca = authority.cert_pem.bytes().decode()
        certificate = authority.issue_cert(host).private_key_and_cert_chain_pem.bytes().decode()
        namespace.secret(_NAME, {"tls.pem": certificate, "keys.json": json.dumps(_keys(namespace.name))})
        namespace.apply(_service(), _deployment(self.issuer, clients))
        self._wait_reachable()

    def access_token(self, *, resource: str = API, scope: str = READ) -> str:
        """A token for the client credentials grant (RFC 6749 section 4.4, RFC 8707), opaque if the API's are."""
        return self._token(self._send("/token", _grant(resource, scope)), "Bearer")

    def bound_token(self, key: DpopKey, *, resource: str = API, scope: str = READ) -> str:
        """The same, bound to this key (RFC 9449 section 5, with a nonce as in section 8)."""
        url, form = f"{self.issuer}/token", _grant(resource, scope)
        first = self._send("/token", form, dpop=key.proof("POST", url, None, now=time.time()))
        nonce = first.headers["dpop-nonce"]
        proof = key.proof("POST", url, None, now=time.time(), nonce=nonce)
        return self._token(self._send("/token", form, dpop=proof), "DPoP")

    def id_token(self) -> str:
        """The ID token that the application gets after a login (OpenID Connect Core 1.0 section 3.1)."""
        verifier = secrets.token_urlsafe(32)
        url = f"{self.issuer}/auth?{urlencode(authorization_request(verifier))}"
        cookies: dict[str, str] = {}
        while not url.startswith(CALLBACK):
            sent = "; ".join(f"{name}={value}" for name, value in cookies.items())
            answer = self._client.get(url, ca=self.ca, cookie=sent)
            assert answer.status == 303, answer
            cookies |= dict(_COOKIE.findall(answer.headers.get("set-cookie", "")))
            url = urljoin(url, answer.headers["location"])
        (code,) = parse_qs(urlsplit(url).query)["code"]
        form = {"grant_type": "authorization_code", "redirect_uri": CALLBACK, "code_verifier": verifier, "code": code}
        answer = self._send("/token", APP | form)
        assert answer.status == 200, answer
        token: str = answer.json()["id_token"]
        return token

    def revoke(self, token: str) -> None:
        """Revoke a token of the service (RFC 7009)."""
        answer = self._send("/token/revocation", SERVICE | {"token": token})
        assert answer.status == 200, answer

    def stop(self) -> None:
        """End its pod. Its keys are the same after a start, its opaque tokens are not."""
        self._namespace.kubectl("scale", f"deployment/{_NAME}", "--replicas=0")
        wait_until(
            lambda: not self._namespace.get("pods", selector=f"app={_NAME}")["items"], what="the end of the provider"
        )

    def start(self) -> None:
        """Start a pod after ``stop``."""
        self._namespace.kubectl("scale", f"deployment/{_NAME}", "--replicas=1")
        self._wait_reachable()

    def _wait_reachable(self) -> None:
        self._namespace.wait_rollout(_NAME)
        # Each node learns a moment later that the Service has a pod.
        wait_until(lambda: self._client.get(f"{self.issuer}/jwks", ca=self.ca).status == 200, what=self.issuer)

    def _send(self, path: str, form: Mapping[str, str], **headers: str) -> Answer:
        body = urlencode(form)
        (answer,) = self._client.send(Request(f"{self.issuer}{path}", "POST", _FORM | headers, body, self.ca))
        return answer

    def _token(self, answer: Answer, kind: str) -> str:
        assert answer.status == 200, answer  # which is an error, and has no token
        tokens = answer.json()
        assert tokens["token_type"] == kind
        token: str = tokens["access_token"]
        return token


def _grant(resource: str, scope: str) -> dict[str, str]:
    return SERVICE | {"grant_type": "client_credentials", "resource": resource, "scope": scope}


def _keys(name: str) -> dict[str, Any]:
    """Private JWKs under the names by which provider.mjs publishes them."""
    keys = {
        "RSA-1": RSAAlgorithm.to_jwk(private_key("RSA", name), as_dict=True),
        "EC-1": ECAlgorithm.to_jwk(private_key("ES256", name), as_dict=True),
        "OKP-1": OKPAlgorithm.to_jwk(private_key("Ed25519", name), as_dict=True),
    }
    for key in keys.values():
        key.pop("key_ops", None)
    return keys


def _service() -> dict[str, Any]:
    spec = {"selector": _LABELS, "ports": [{"port": 443, "targetPort": "https"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": _NAME}, "spec": spec}


def _deployment(issuer: str, clients: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    probe = {"path": "/.well-known/openid-configuration", "port": "https", "scheme": "HTTPS"}
    container = {
        "name": _NAME,
        "image": PROVIDER,
        "imagePullPolicy": "IfNotPresent",
        "args": [_RELEASE, json.dumps(list(clients)), "/secret/tls.pem"],
        "env": [
            {"name": "OIDC_PROVIDER_ISSUER", "value": issuer},
            {"name": "OIDC_PROVIDER_KEYS", "value": "/secret/keys.json"},
        ],
        "stdin": True,  # it exits at the end of its standard input
        "ports": [{"name": "https", "containerPort": _PORT}],
        "readinessProbe": {"httpGet": probe, "periodSeconds": 1},
        "volumeMounts": [{"name": "secret", "mountPath": "/secret", "readOnly": True}],
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [{"name": "secret", "secret": {"secretName": _NAME}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": _NAME},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
        },
    }
