"""The sidecar with the configuration of examples/keycloak, between a real Keycloak, a real Envoy, and an API."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml
from yarl import URL

from authz_service.demo.envoy import Envoy
from authz_service.demo.run import SampleResult, send
from authz_service.demo.samples import HOST, Sample
from authz_service.demo.upstream import Upstream
from support.envoy_bootstrap import VariedBootstrap
from support.keycloak import API, API_SECRET, Realm
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from support.dpop import DpopKey

_EXAMPLE = Path(__file__).parents[2] / "examples" / "keycloak" / "config.yaml"
_CONFIG = "config.yaml"
_HANG_TIMEOUT = 60.0  # seconds; only a test that hangs takes this long
_POLL_INTERVAL = 0.05
TIMEOUT = "20s"  # of Check calls and provider requests: Keycloak may share two cores with other tests

ORDERS, ADMIN, REPORTS = "/orders/7", "/admin/users", "/reports/2026"
_REPORTS_RULE = {
    "name": "reports",
    "match": {"paths": ["/reports/**"]},
    "require": {"claims": {"realm_access.roles": {"contains": "shop-admin"}}},
}


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a request with a bound token."""

    status: int
    reason: str
    challenges: tuple[str, ...]
    nonce: str | None
    upstream: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mesh:
    """The sidecar and Envoy in front of an API."""

    sidecar: SidecarProcess
    envoy: Envoy
    log: Path

    async def send(self, token: str, path: str = ORDERS) -> SampleResult:
        timeout = aiohttp.ClientTimeout(total=_HANG_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return await send(session, self.envoy.port, Sample("", path, 0, "", token))

    async def result(self, token: str, path: str = ORDERS) -> tuple[int, str]:
        """Status and reason."""
        outcome = await self.send(token, path)
        return outcome.status, outcome.reason

    async def send_bound(
        self,
        token: str,
        *,
        scheme: str = "DPoP",
        proof: str | None = None,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Request the orders with a bound token and its proof, over TLS where ``tls`` is given."""
        fields = {"Host": HOST, "Authorization": f"{scheme} {token}"} | dict(headers or {})
        if proof is not None:
            fields["DPoP"] = proof
        url = URL(f"{'https' if tls else 'http'}://127.0.0.1:{self.envoy.port}{ORDERS}")
        timeout = aiohttp.ClientTimeout(total=_HANG_TIMEOUT)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=fields, ssl=tls or True, server_hostname=HOST if tls else None) as response,
        ):
            body = json.loads(await response.text())
            return Response(
                status=response.status,
                reason=response.headers.get("x-authz-reason") or str(body.get("type")).rpartition(":")[2],
                challenges=tuple(response.headers.getall("WWW-Authenticate", [])),
                nonce=response.headers.get("DPoP-Nonce"),
                upstream=body.get("headers", {}),
            )

    async def until(self, token: str, reason: str) -> SampleResult:
        """Repeat the request until its reason is this one."""
        async with asyncio.timeout(_HANG_TIMEOUT):
            while (outcome := await self.send(token)).reason != reason:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_POLL_INTERVAL)
            return outcome

    @asynccontextmanager
    async def restarted(self) -> AsyncIterator[Mesh]:
        """The mesh with a new process of the sidecar in place of the running one."""
        await self.sidecar.stop()
        log = self.log.with_name("restarted.log")
        async with SidecarProcess(self.log.with_name(_CONFIG), log) as sidecar:
            yield replace(self, sidecar=sidecar, log=log)

    async def count(self, name: str, **labels: str) -> float:
        """The value of a metric of the issuer."""
        (value,) = await self.sidecar.metric(name, issuer="keycloak", **labels)
        return value


def proof_for(key: DpopKey, token: str, **changes: Any) -> str:
    """A proof for the request that ``Mesh.send_bound`` sends."""
    return key.proof("GET", f"https://{HOST}{ORDERS}", token, now=time.time(), **changes)


@asynccontextmanager
async def running(
    folder: Path,
    realm: Realm,
    *,
    top: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    envoy: Mapping[str, Any] | None = None,
    **issuer: Any,
) -> AsyncIterator[Mesh]:
    """A mesh with the example's configuration and changes of its server and issuer; ``top`` are further sections."""
    document = yaml.safe_load(_EXAMPLE.read_text())
    addresses = {"grpc_address": "unix:authz.sock", "admin_address": "127.0.0.1:0"}
    document["server"] = addresses | {"check_deadline": TIMEOUT} | dict(server or {})
    settings = {"issuer": realm.issuer, "keys": {"jwks_uri": f"{realm.protocol}/certs"}} | issuer
    document["issuers"][0] |= settings | {"keys": {"timeout": TIMEOUT} | settings["keys"]}
    document["rules"].append(_REPORTS_RULE)
    config, log = folder / _CONFIG, folder / "sidecar.log"
    config.write_text(yaml.safe_dump(document | dict(top or {})))
    (folder / "secret").write_text(API_SECRET)
    async with (
        Upstream() as upstream,
        SidecarProcess(config, log) as sidecar,
        Envoy(
            VariedBootstrap(f"unix:{folder}/authz.sock", upstream.port, timeout=TIMEOUT, **(envoy or {})), folder
        ) as proxy,
    ):
        yield Mesh(sidecar, proxy, log)


def introspection(**settings: str) -> dict[str, Any]:
    """Changes of the issuer: keys and introspection endpoint by discovery, JWTs are introspected as well."""
    own = {"client_id": API, "client_secret_file": "secret", "mode": "always", "timeout": TIMEOUT}
    return {"keys": {"discovery": True}, "introspection": own | settings}
