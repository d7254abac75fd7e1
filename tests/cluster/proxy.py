"""Envoy in a pod of its own, which calls authz-service in other pods, with the application behind it.

Its bootstrap is the complete one of docs/how-to/envoy-bootstrap.md, without the rate limit, which a load would exceed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import yaml

from cluster.client import CONTAINER_SECURITY, POD_SECURITY, Answer
from cluster.images import ENVOY, TOOLS
from support.documents import blocks, page

if TYPE_CHECKING:
    import trustme

    from cluster.client import Client, Load
    from cluster.kubectl import Namespace

PORT: Final = 8443
(_COMPLETE,) = blocks(page("how-to/envoy-bootstrap"), title="envoy.yaml")
_FOLDERS: Final = {"tls": "/etc/envoy/tls", "clients": "/etc/envoy/clients", "authz": "/etc/envoy/authz"}


class Proxy:
    """The Deployment and the Service of an Envoy. They exist until the namespace is deleted."""

    def __init__(
        self, namespace: Namespace, client: Client, name: str, service: str, authority: trustme.CA, *, tls: bool
    ) -> None:
        """``service`` is the name of the Service of authz-service in the same namespace.

        With ``tls``, Envoy shows it a certificate of ``authority`` and expects one.
        """
        self.name = name
        self._namespace = namespace
        self._client = client
        host = f"{name}.{namespace.name}.svc"
        self._url = f"https://{host}:{PORT}"
        self._ca = authority.cert_pem.bytes().decode()
        namespace.secret(f"{name}-tls", certificate(authority, host), "kubernetes.io/tls")
        namespace.secret(f"{name}-authz", certificate(authority, host), "kubernetes.io/tls")
        namespace.config_map(name, {"envoy.yaml": json.dumps(bootstrap(service, namespace.name, tls=tls))})
        namespace.apply(_service(name), _deployment(name))

    def wait_ready(self) -> None:
        """Wait until it accepts connections."""
        self._namespace.wait_rollout(self.name)

    def restart(self) -> None:
        """Replace its pod."""
        self._namespace.kubectl("rollout", "restart", f"deployment/{self.name}")
        self.wait_ready()

    def get(self, path: str, token: str = "", **headers: str) -> Answer:
        """The answer to a request. In the names of headers, an underscore is a hyphen."""
        return self._client.get(f"{self._url}{path}", token, ca=self._ca, **headers)

    def load(self, path: str, token: str, *, rate: float, keep: bool = True) -> Load:
        """Send requests until it is stopped."""
        return self._client.load(
            f"{self._url}{path}", token=token, seconds=150, connections=4, rate=rate, keep=keep, ca=self._ca
        )


def certificate(authority: trustme.CA, *names: str) -> dict[str, str]:
    """The files of a Secret of type kubernetes.io/tls."""
    issued = authority.issue_cert(*names)
    return {
        "tls.crt": b"".join(each.bytes() for each in issued.cert_chain_pems).decode(),
        "tls.key": issued.private_key_pem.bytes().decode(),
        "ca.crt": authority.cert_pem.bytes().decode(),
    }


def bootstrap(service: str, namespace: str, *, tls: bool) -> dict[str, Any]:
    """The complete bootstrap of the guide, for this Service."""
    text = _COMPLETE.text.replace("authz-service.authz.svc", f"{service}.{namespace}.svc")
    document: dict[str, Any] = yaml.safe_load(text)
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [each for each in manager["http_filters"] if "ratelimit" not in each["name"]]
    del manager["route_config"]["virtual_hosts"][0]["rate_limits"]
    if not tls:
        del document["static_resources"]["clusters"][0]["transport_socket"]
    return document


def _service(name: str) -> dict[str, Any]:
    spec = {"selector": {"app": name}, "ports": [{"port": PORT}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _deployment(name: str) -> dict[str, Any]:
    mounts = [{"name": each, "mountPath": folder, "readOnly": True} for each, folder in _FOLDERS.items()]
    envoy = {
        "name": "envoy",
        "image": ENVOY,
        "imagePullPolicy": "IfNotPresent",
        "command": ["envoy"],
        "args": ["--config-path", "/etc/envoy/config/envoy.yaml", "--concurrency", "2", "--disable-hot-restart"],
        "ports": [{"name": "https", "containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": "https"}, "periodSeconds": 1},
        "volumeMounts": [*mounts, {"name": "config", "mountPath": "/etc/envoy/config", "readOnly": True}],
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    }
    shop = {
        "name": "shop",
        "image": TOOLS,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
    }
    secrets = {"tls": f"{name}-tls", "clients": f"{name}-tls", "authz": f"{name}-authz"}
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {**POD_SECURITY, "fsGroup": 65532},
        "containers": [envoy, shop],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            *({"name": each, "secret": {"secretName": secret}} for each, secret in secrets.items()),
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    }
