"""`helm test`: the script that sends one request."""

from __future__ import annotations

import importlib.util
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from aiohttp import web
from transport.pki import TlsFiles

from authz_service.demo.identity_provider import IdentityProvider
from generate import CHART
from support.chart import NAME, manifests, one
from support.request import request
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RULES = [
    {"name": "reports", "match": {"paths": ["/reports"]}},
    {"name": "news", "match": {"paths": ["/news"]}, "access": "public"},
]


@asynccontextmanager
async def running_sidecar(folder: Path, tls: dict[str, str] | None = None) -> AsyncIterator[str]:
    """The gRPC address of a real sidecar."""
    config = folder / "config.yaml"
    async with IdentityProvider() as provider:
        settings = {
            "server": {"grpc_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0"} | ({"tls": tls} if tls else {}),
            "issuers": [{"issuer": provider.issuer, "audiences": ["https://api.demo/"]}],
            "rules": RULES,
        }
        config.write_text(yaml.safe_dump(settings))
        async with SidecarProcess(config, folder / "sidecar.log") as sidecar:
            (listening,) = [record for record in sidecar.log() if record["event"] == "listening"]
            yield f"localhost:{listening['grpc_port']}"


async def test_it_calls_check_and_reports_the_decision(tmp_path: Path) -> None:
    async with running_sidecar(tmp_path) as address:
        url = f"grpc://{address}"
        denied = await request(url, "GET", "api.demo", "/reports", "missing_token")
        assert denied == (0, "GET api.demo/reports: denied with 401, reason missing_token\n")
        assert await request(url, "GET", "api.demo", "/news", "") == (0, "GET api.demo/news: allowed, reason public\n")
        status, output = await request(url, "GET", "api.demo", "/news", "missing_token")
        assert (status, output.splitlines()[-1]) == (1, "FAILED: expected reason missing_token")


@pytest.mark.parametrize("mutual", [False, True])
async def test_it_trusts_the_mounted_authority_and_presents_the_mounted_certificate(
    tmp_path: Path,
    mutual: bool,  # noqa: FBT001
) -> None:
    authority = trustme.CA()
    files = TlsFiles(tmp_path, authority.issue_cert("localhost"), authority)
    tls = {"certificate_file": str(files.certificate), "key_file": str(files.key)}
    async with running_sidecar(tmp_path, tls | ({"client_ca_file": str(files.client_ca)} if mutual else {})) as address:
        result = await request(f"grpcs://{address}", "GET", "api.demo", "/reports", "missing_token", str(tmp_path))
        assert result == (0, "GET api.demo/reports: denied with 401, reason missing_token\n")


@asynccontextmanager
async def proxied(certificate: trustme.LeafCert) -> AsyncIterator[str]:
    """The address of a proxy that denies everything."""

    async def denied(_: web.Request) -> web.Response:
        problem = {"type": "urn:authz-service:missing_token"}
        return web.json_response(problem, status=401, content_type="application/problem+json")

    application = web.Application()
    application.router.add_get("/{path:.*}", denied)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(tls)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"https://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Network:
    """A connection that fails with these errors, one after another, before it succeeds."""

    def __init__(self, *errors: OSError) -> None:
        self.errors = list(errors)

    def connect(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


def test_it_connects_as_soon_as_the_network_admits_its_new_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("request", CHART / "files" / "request.py")
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "RETRY_INTERVAL", 0)
    network = Network(ConnectionRefusedError(), TimeoutError(), socket.gaierror())
    script.connect(network)
    assert network.errors == []
    with pytest.raises(ssl.SSLCertVerificationError):
        script.connect(Network(ssl.SSLCertVerificationError()))
    monkeypatch.setattr(script, "TIMEOUT", 0)
    with pytest.raises(ConnectionRefusedError):
        script.connect(Network(*(ConnectionRefusedError() for _ in range(1000))))


@pytest.mark.parametrize("with_authority", [True, False])
async def test_a_proxys_certificate_may_have_another_name_but_not_another_authority(
    tmp_path: Path,
    with_authority: bool,  # noqa: FBT001
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("shop.example.com")
    TlsFiles(tmp_path, certificate, authority if with_authority else None)
    async with proxied(certificate) as url:
        result = await request(url, "GET", "shop.example.com", "/orders", "missing_token", str(tmp_path))
        assert result == (0, "GET shop.example.com/orders: status 401, reason missing_token\n")
    async with proxied(trustme.CA().issue_cert("shop.example.com")) as url:
        assert (await request(url, "GET", "shop.example.com", "/orders", "", str(tmp_path)))[0] == 1


async def test_without_a_mounted_certificate_the_system_trust_store_applies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "system.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    for name, status in (("localhost", 0), ("shop.example.com", 1)):
        async with proxied(authority.issue_cert(name)) as url:
            result = await request(url, "GET", "shop", "/orders", "missing_token", str(tmp_path / "none"))
            assert result[0] == status, name


def test_the_pod_connects_to_the_service_by_a_name_in_its_certificate() -> None:
    found = manifests("service")
    (container,) = one(found, "Pod", f"{NAME}-test")["spec"]["containers"]
    url, *rest = container["args"]
    assert url == f"grpcs://{NAME}.authz.svc:9191"
    assert f"{NAME}.authz.svc" in one(found, "Certificate")["spec"]["dnsNames"]
    assert rest == ["GET", "api.example.com", "/v1/appointments/7", "missing_token"]
