"""The certificates and kubeconfigs of a cluster's programs."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

if TYPE_CHECKING:
    from pathlib import Path

_API_SERVER: Final = ("localhost", *(f"kubernetes{domain}" for domain in ("", ".default", ".default.svc")))
_CLIENTS: Final = {  # name: common name and organization, by which the API server authorizes it
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", None),
    "kube-proxy": ("system:kube-proxy", None),
    "kubelet": ("system:node:node1", "system:nodes"),
    "metrics-server": ("metrics-server", "system:masters"),
    "scheduler": ("system:kube-scheduler", None),
}


def kubeconfig(folder: Path, name: str) -> Path:
    """The kubeconfig of a program, or of the administrator."""
    return folder / f"{name}.kubeconfig"


def write(folder: Path, address: str) -> None:
    """Write the files for the API server at this address, and for its clients."""
    folder.mkdir()
    authority, front_proxy = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    front_proxy.cert_pem.write_to_path(folder / "front-proxy-ca.crt")
    names = (*_API_SERVER, "kubernetes.default.svc.cluster.local", "127.0.0.1", "10.96.0.1", address)
    _write(folder, "apiserver", authority.issue_cert(*names, common_name="kube-apiserver"))
    _write(folder, "apiserver-kubelet", _client(authority, "kube-apiserver-kubelet-client", "system:masters"))
    _write(folder, "front-proxy", _client(front_proxy, "front-proxy", None))
    for name, (common_name, organization) in _CLIENTS.items():
        certificate = _client(authority, common_name, organization)
        kubeconfig(folder, name).write_text(json.dumps(_kubeconfig(authority, certificate)))
    _write(folder, "network-policies", _client(authority, "network-policies", "system:masters"))
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "service-accounts.key").write_bytes(private)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "service-accounts.pub").write_bytes(public)


def _client(authority: trustme.CA, common_name: str, organization: str | None) -> trustme.LeafCert:
    return authority.issue_cert("client.invalid", common_name=common_name, organization_name=organization)


def _write(folder: Path, name: str, certificate: trustme.LeafCert) -> None:
    (folder / f"{name}.crt").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(folder / f"{name}.key")


def _kubeconfig(authority: trustme.CA, certificate: trustme.LeafCert) -> dict[str, Any]:
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    user = {
        "client-certificate-data": b64encode(chain).decode(),
        "client-key-data": b64encode(certificate.private_key_pem.bytes()).decode(),
    }
    cluster = {
        "server": "https://127.0.0.1:6443",
        "certificate-authority-data": b64encode(authority.cert_pem.bytes()).decode(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "context",
    }
