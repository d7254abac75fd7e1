"""Mistakes between the real Envoy and the real program: what the client gets, what is counted, and what is logged.

Envoy runs the filter and the cluster of docs/how-to/envoy.md, with one mistake each.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
import yaml
from transport.pki import TlsFiles

from authz_service.core.connection_failure import REMEDIES, ConnectionFailure
from support.documents import page, section, yaml_blocks
from support.envoy import loopback, relocated, running_envoy
from support.missing import program
from support.sidecar_process import SidecarProcess, wait_until
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from support.envoy import RunningEnvoy

GUIDE = page("how-to/envoy-connections")
BLOCKS = [yaml.safe_load(each) for each in yaml_blocks("how-to/envoy")]
(FILTER,) = [each for each in BLOCKS if isinstance(each, list) and "typed_config" in each[0]]
(CLUSTER,) = [each for each in BLOCKS if isinstance(each, list) and "load_assignment" in each[0]]
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}


def bootstrap() -> dict[str, Any]:
    """The filter and cluster of docs/how-to/envoy.md; allowed requests get a response from Envoy itself."""
    allowed = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": HTTP,
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [allowed]}]},
        "http_filters": [*json.loads(json.dumps(FILTER)), ROUTER],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {"name": "http", "address": loopback(0), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": json.loads(json.dumps(CLUSTER))}}


@dataclass
class Files:
    """Certificates on disk."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)
    other: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.authority.cert_pem.write_to_path(self.folder / "authority.crt")
        self.other.cert_pem.write_to_path(self.folder / "other.crt")
        for name, authority in (("good", self.authority), ("bad", self.other)):
            authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(self.folder / f"{name}.pem")

    def tls(self, *, trusted: str = "authority.crt", certificate: str | None = None) -> dict[str, Any]:
        """The ``transport_socket`` of a cluster."""
        common: dict[str, Any] = {"validation_context": {"trusted_ca": {"filename": str(self.folder / trusted)}}}
        if certificate is not None:
            file = {"filename": str(self.folder / certificate)}
            common["tls_certificates"] = [{"certificate_chain": file, "private_key": file}]
        context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        typed = {"@type": context, "sni": "localhost", "common_tls_context": common}
        return {"name": "envoy.transport_sockets.tls", "typed_config": typed}

    def server(self, *, mutual: bool) -> dict[str, Any]:
        """``server.tls``."""
        certificate = self.authority.issue_cert("localhost")
        files = TlsFiles(self.folder, certificate, self.authority if mutual else None)
        return files.written


@asynccontextmanager
async def sidecar(folder: Path, tls: dict[str, Any] | None = None, **server: Any) -> AsyncIterator[SidecarProcess]:
    (folder / "jwks.json").write_text(json.dumps({"keys": [Signer("ES256", "k").jwk()]}))
    issuer = {"issuer": "https://idp.example/", "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
    rule = {"name": "public", "match": {"paths": ["/"]}, "access": "public"}
    server = {"grpc_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0"} | ({"tls": tls} if tls else {}) | server
    (folder / "config.yaml").write_text(json.dumps({"server": server, "issuers": [issuer], "rules": [rule]}))
    async with SidecarProcess(folder / "config.yaml", folder / "sidecar.log") as running:
        yield running


def port_of(running: SidecarProcess, kind: str = "grpc_port") -> int:
    port: int = running.records("listening")[0][kind]
    return port


@asynccontextmanager
async def envoy_calling(
    port: int, folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> AsyncIterator[RunningEnvoy]:
    """Envoy with a changed cluster."""
    document = relocated(bootstrap(), {"authz-service": loopback(port)})
    change(document["static_resources"]["clusters"][0])
    async with running_envoy(document, folder) as envoy:
        yield envoy


async def status_of(envoy: RunningEnvoy) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{envoy.ports['http']}/") as response:
        return response.status


def without_http2(cluster: dict[str, Any]) -> None:
    del cluster["typed_extension_protocol_options"]


def unchanged(_cluster: dict[str, Any]) -> None:
    """No mistake."""


@dataclass(frozen=True)
class Mistake:
    """What Envoy does, and how it is reported."""

    name: str
    reason: ConnectionFailure
    cause: str
    served: str = "plaintext"  # tls | mutual
    cluster: dict[str, Any] | None = None  # of Files.tls
    http2: bool = True


MISTAKES = [
    Mistake("no http2", ConnectionFailure.HTTP1, "HTTP/1.1 instead of the HTTP/2 connection preface", http2=False),
    Mistake("no http2 over tls", ConnectionFailure.HTTP1, "HTTP/1.1 instead", "tls", {}, http2=False),
    Mistake("only envoy has tls", ConnectionFailure.TLS, "TLS instead of the HTTP/2", cluster={}),
    Mistake("only we have tls", ConnectionFailure.PLAINTEXT, "HTTP/2 without TLS", "tls"),
    Mistake("neither tls nor http2", ConnectionFailure.PLAINTEXT, "HTTP/1.1 without TLS", "tls", http2=False),
    Mistake("wrong ca", ConnectionFailure.SERVER_CERTIFICATE_REFUSED, "unknown ca", "tls", {"trusted": "other.crt"}),
    Mistake("no client certificate", ConnectionFailure.NO_CLIENT_CERTIFICATE, "peer did not return", "mutual", {}),
    Mistake(
        "untrusted client certificate",
        ConnectionFailure.UNTRUSTED_CLIENT_CERTIFICATE,
        "unable to get local issuer certificate",
        "mutual",
        {"certificate": "bad.pem"},
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.name)
async def test_each_mistake_has_its_reason_and_remedy_in_metrics_and_log(mistake: Mistake, tmp_path: Path) -> None:
    files = Files(tmp_path)
    tls = None if mistake.served == "plaintext" else files.server(mutual=mistake.served == "mutual")

    def change(cluster: dict[str, Any]) -> None:
        if mistake.cluster is not None:
            cluster["transport_socket"] = files.tls(**mistake.cluster)
        if not mistake.http2:
            without_http2(cluster)

    async with sidecar(tmp_path, tls) as running, envoy_calling(port_of(running), tmp_path, change) as envoy:
        for _ in range(3):
            assert await status_of(envoy) == 503
        await wait_until(lambda: bool(running.records("connection failed")))
        (line,) = running.records("connection failed")  # not three
        (failures,) = await running.metric("authz_transport_failures_total", reason=mistake.reason)
        (failed,) = await running.metric("authz_transport_connections_total", result="failed")
        assert failures == failed >= 3
        assert sum(await running.metric("authz_transport_failures_total")) == failures
        assert sum(await running.metric("authz_checks_total")) == 0
    assert (line["level"], line["reason"], line["remedy"]) == ("warning", mistake.reason, REMEDIES[mistake.reason])
    assert mistake.cause in line["cause"]
    assert line["peer"].startswith("127.0.0.1:")


async def test_without_a_mistake_nothing_fails(tmp_path: Path) -> None:
    files = Files(tmp_path)

    def change(cluster: dict[str, Any]) -> None:
        cluster["transport_socket"] = files.tls(certificate="good.pem")

    async with sidecar(tmp_path, files.server(mutual=True), workers=2) as running:
        async with envoy_calling(port_of(running), tmp_path, change) as envoy:
            assert await status_of(envoy) == 200
            assert await running.metric("authz_transport_connections") == [1]
            assert await running.metric("authz_transport_connections_total", result="accepted") == [1]
        assert sum(await running.metric("authz_transport_failures_total")) == 0
        assert running.records("connection failed") == []


async def test_grpcio_shows_its_connections_and_claims_nothing_about_failures(tmp_path: Path) -> None:
    async with sidecar(tmp_path, transport="grpcio", workers=2) as running:
        async with envoy_calling(port_of(running), tmp_path) as envoy:
            assert await status_of(envoy) == 200
            assert await running.metric("authz_transport_connections") == [1]
        with socket.create_connection(("127.0.0.1", port_of(running))) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert await running.metric("authz_transport_connections_total") == []
        assert await running.metric("authz_transport_failures_total") == [0]  # on the admin port


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("change", [unchanged, without_http2], ids=["http2", "http1"])
async def test_a_cluster_with_the_admin_port_is_recognized_there(
    tmp_path: Path, workers: int, change: Callable[[dict[str, Any]], None]
) -> None:
    async with (
        sidecar(tmp_path, workers=workers) as running,
        envoy_calling(port_of(running, "admin_port"), tmp_path, change) as envoy,
    ):
        for _ in range(3):
            assert await status_of(envoy) == 503
        await wait_until(lambda: bool(running.records("connection failed")))
        (line,) = running.records("connection failed")
        assert await running.metric("authz_transport_failures_total", reason="grpc_on_admin_port") == [3]
        assert sum(await running.metric("authz_transport_connections_total")) == 0
    assert line["reason"] == "grpc_on_admin_port"
    assert line["remedy"] == REMEDIES[ConnectionFailure.GRPC]


async def test_without_status_on_error_a_broken_connection_is_a_403(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as running:
        document = relocated(bootstrap(), {"authz-service": loopback(port_of(running))})
        (listener,) = document["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        del manager["http_filters"][0]["typed_config"]["status_on_error"]
        without_http2(document["static_resources"]["clusters"][0])
        async with running_envoy(document, tmp_path) as envoy:
            assert await status_of(envoy) == 403


@pytest.mark.parametrize("failure", ConnectionFailure)
def test_the_guide_explains_each_reason(failure: ConnectionFailure) -> None:
    symptoms, metrics = (section(GUIDE, each) for each in ("## 3. Apply the remedy", "## Connections in the metrics"))
    assert re.search(rf"\| .*`{failure}`.* \|", symptoms)
    assert f"| `{failure}` |" in metrics


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"), "unsupported protocol"),
        (("-tls1_2", "-cipher", "AES128-GCM-SHA256"), "no shared cipher"),
    ],
)
async def test_an_openssl_client_without_a_common_version_or_cipher_fails_the_handshake(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    openssl = program("openssl", "that a TLS handshake without common parameters is reported")
    async with sidecar(tmp_path, Files(tmp_path).server(mutual=False)) as running:
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{port_of(running)}", *options]
        run = partial(subprocess.run, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
        await asyncio.to_thread(run, command)
        await wait_until(lambda: bool(running.records("connection failed")))
        (line,) = running.records("connection failed")
        assert (line["reason"], line["cause"]) == ("tls_handshake", reason)
        assert await running.metric("authz_transport_failures_total", reason="tls_handshake") == [1]
