"""`helm test`: the script that sends one real request."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
import yaml
from transport.pki import TlsFiles

from authz_service.demo.identity_provider import IdentityProvider
from authz_service.demo.sidecar import Sidecar
from support.chart import NAME, manifests, one
from support.request import request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RULES = [
    {"name": "reports", "match": {"paths": ["/reports"]}},
    {"name": "news", "match": {"paths": ["/news"]}, "access": "public"},
]


@asynccontextmanager
async def asked(folder: Path, tls: dict[str, str] | None = None) -> AsyncIterator[str]:
    """The address of a real sidecar."""
    config = folder / "config.yaml"
    async with IdentityProvider() as provider:
        settings = {
            "server": {"grpc_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0"} | ({"tls": tls} if tls else {}),
            "issuers": [{"issuer": provider.issuer, "audiences": ["https://api.demo/"]}],
            "rules": RULES,
        }
        config.write_text(yaml.safe_dump(settings))
        async with Sidecar(config, folder / "sidecar.log") as sidecar:
            (listening,) = [record for record in sidecar.log() if record["event"] == "listening"]
            yield f"localhost:{listening['grpc_port']}"


async def test_it_asks_as_envoy_does_and_expects_a_decision(tmp_path: Path) -> None:
    async with asked(tmp_path) as address:
        url = f"grpc://{address}"
        denied = await request(url, "GET", "api.demo", "/reports", "missing_token")
        assert denied == (0, "GET api.demo/reports: denied with 401, reason missing_token\n")
        assert await request(url, "GET", "api.demo", "/news", "") == (0, "GET api.demo/news: allowed, reason public\n")
        status, said = await request(url, "GET", "api.demo", "/news", "missing_token")
        assert (status, said.splitlines()[-1]) == (1, "FAILED: expected the reason missing_token")


@pytest.mark.parametrize("mutual", [False, True])
async def test_it_trusts_the_certificates_authority_and_shows_its_own(tmp_path: Path, mutual: bool) -> None:  # noqa: FBT001
    authority = trustme.CA()
    files = TlsFiles(tmp_path, authority.issue_cert("localhost"), authority)
    tls = {"certificate_file": str(files.certificate), "key_file": str(files.key)}
    async with asked(tmp_path, tls | ({"client_ca_file": str(files.client_ca)} if mutual else {})) as address:
        answer = await request(f"grpcs://{address}", "GET", "api.demo", "/reports", "missing_token", str(tmp_path))
        assert answer == (0, "GET api.demo/reports: denied with 401, reason missing_token\n")


def test_the_pod_sends_it_to_the_service_by_the_name_in_its_certificate() -> None:
    found = manifests("service")
    (container,) = one(found, "Pod", f"{NAME}-test")["spec"]["containers"]
    url, *rest = container["args"]
    assert url == f"grpcs://{NAME}.authz.svc:9191"
    assert f"{NAME}.authz.svc" in one(found, "Certificate")["spec"]["dnsNames"]
    assert rest == ["GET", "api.example.com", "/v1/appointments/7", "missing_token"]
