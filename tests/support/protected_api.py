"""An API behind Envoy and the sidecar, called by oauth4webapi and by hand.

It keeps every token and proof that was sent and everything that was received, because no part of the former may be in
the latter, nor in the sidecar's log and metrics.
"""

from __future__ import annotations

import json
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from support import oidc_provider
from support.envoy_bootstrap import VariedBootstrap
from support.node import RESPONSE_TIMEOUT
from support.oidc_provider import API, OPAQUE_API, READ
from support.secrecy import members_of_proof, parts_in
from support.sidecar_process import wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from support.oauth_client import ApiResponse, OAuthClient
    from support.oidc_provider import Mesh, OidcProvider

HOST = "api.example.com"
ORIGIN = f"https://{HOST}"
PATH = "/appointments"
_SECRET = secrets.token_urlsafe(32)
INTROSPECTING = {"client_id": "api", "client_secret": _SECRET, "token_endpoint_auth_method": "client_secret_basic"}
RESOURCES = {"JWT": API, "opaque": OPAQUE_API}
SETUPS: dict[str, dict[str, Any]] = {
    "asyncio": {},
    "grpcio": {"server": {"transport": "grpcio"}},
    "raw headers": {"encode_raw_headers": True},
    "two workers": {"server": {"workers": 2}},
}
_TIMEOUT = aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT)


@dataclass(frozen=True, slots=True)
class RawResponse:
    """The answer to a request that was sent by hand."""

    status: int
    reason: str
    challenges: Sequence[str]
    nonce: str | None


@dataclass(slots=True)
class ProtectedApi:
    """The API as its clients see it."""

    mesh: Mesh
    client: OAuthClient
    log: Path  # of the sidecar
    requests: int = 0
    sent: set[str] = field(default_factory=set)  # tokens and proofs
    received: list[str] = field(default_factory=list)

    async def call(
        self,
        token: str,
        key: str | None = None,
        *,
        method: str = "GET",
        path: str = PATH,
        tls: Mapping[str, str] | None = None,
    ) -> ApiResponse:
        """Call it with oauth4webapi, which uses the nonces it gets."""
        port = self.mesh.envoy.port
        response = await self.client.call(f"{ORIGIN}{path}", token, port=port, method=method, key=key, tls=tls)
        self.requests += len(response.sent)
        self.sent |= {token, *(each.proof for each in response.sent if each.proof)}
        self.received += [str(response.headers), response.body]
        return response

    async def send(
        self,
        token: str,
        *proofs: str,
        scheme: str = "DPoP",
        method: str = "GET",
        path: str = PATH,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RawResponse:
        """Send one request with these proofs; ``headers`` may replace others."""
        fields = CIMultiDict({"Host": HOST, "Authorization": f"{scheme} {token}"})
        fields.update(headers or {})
        for proof in proofs:
            fields.add("DPoP", proof)
        self.requests += 1
        self.sent |= {token, *proofs}
        url = URL(f"{'https' if tls else 'http'}://127.0.0.1:{self.mesh.envoy.port}{path}", encoded=True)
        name = HOST if tls else None
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.request(method, url, headers=fields, ssl=tls or True, server_hostname=name) as response,
        ):
            body = await response.text()
            self.received += [str(response.headers), body]
            return RawResponse(
                status=response.status,
                reason=response.headers.get("x-authz-reason") or str(json.loads(body)["type"]).rpartition(":")[2],
                challenges=response.headers.getall("WWW-Authenticate", []),
                nonce=response.headers.get("DPoP-Nonce"),
            )

    async def last_decision(self) -> dict[str, Any]:
        """The log record of the last request's decision."""
        await wait_until(lambda: len(self.mesh.sidecar.records("decision")) == self.requests)
        return self.mesh.sidecar.records("decision")[-1]

    async def require_secrecy(self) -> None:
        """No part of a token or a proof is in the log, the metrics, or an answer."""
        await self.last_decision()
        _, metrics = await self.mesh.sidecar.get("/metrics")
        members = {member for secret in self.sent for member in _members(secret)}
        assert self.sent
        assert not parts_in(self.log.read_text() + metrics, self.sent | members)
        assert not parts_in("\n".join(self.received), self.sent)


def _members(secret: str) -> set[str]:
    try:
        return members_of_proof(secret)
    except (KeyError, ValueError):  # a token, or no proof at all
        return set()


def configuration(folder: Path, provider: OidcProvider, proof: str, **settings: Any) -> str:
    """The configuration of an API that introspects opaque tokens, and where /bound requires this proof."""
    (folder / "secret").write_text(_SECRET)
    introspection = {"client_id": INTROSPECTING["client_id"], "client_secret_file": "secret"}
    issuer = {"issuer": provider.issuer, "name": "real", "audiences": [API, OPAQUE_API], "introspection": introspection}
    rules = [
        {"name": "bound", "match": {"paths": ["/bound"]}, "require": {"proof": proof}},
        {"name": "appointments", "require": {"scopes": [READ]}},
    ]
    members = {"issuers": [issuer], "rules": rules, "logging": {"decisions": "all"}} | settings
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in members.items())


@asynccontextmanager
async def protected_api(
    folder: Path,
    provider: OidcProvider,
    client: OAuthClient,
    configuration: str,
    server: Mapping[str, Any] | None = None,
    **envoy: Any,
) -> AsyncIterator[ProtectedApi]:
    """The running API; ``envoy`` are fields of VariedBootstrap."""
    bootstrap = partial(VariedBootstrap, **envoy)
    async with oidc_provider.running(folder, provider, configuration, server, bootstrap) as mesh:
        api = ProtectedApi(mesh, client, folder / "sidecar.log")
        yield api
        await api.require_secrecy()
