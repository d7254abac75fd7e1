"""Metadata of protected resources, and challenges that name it, reach clients through a real Envoy (RFC 9728)."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
from transport.http2.client import ClientHalf

from authz_service.demo.envoy import Envoy
from authz_service.demo.samples import HOST, METADATA_PATH, RESOURCE
from authz_service.transport.http2 import frames
from support.envoy_bootstrap import VariedBootstrap, connection_manager
from support.mesh import Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = f"https://{HOST}{METADATA_PATH}"
OURS, OTHERS = {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}
PREFLIGHT = {"Access-Control-Request-Method": "GET"}
RESPONSE_TIMEOUT = 10.0
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
API_ONLY: dict[str, Any] = {"match": {"prefix": "/v1"}, "route": {"cluster": "upstream"}}
NOT_FOUND: dict[str, Any] = {"match": {"prefix": "/.well-known/"}, "direct_response": {"status": 404}}
UNAUTHORIZED: dict[str, Any] = {
    "match": {"prefix": "/.well-known/"},
    "route": {"cluster": "upstream"},
    "typed_per_filter_config": {
        "envoy.filters.http.ext_authz": {"@type": f"{_FILTERS}.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
    },
}


@dataclass(frozen=True)
class RoutedBootstrap(VariedBootstrap):
    """With other routes, or with Envoy's CORS filter before ext_authz."""

    routes: tuple[dict[str, Any], ...] = ()
    cors: bool = False

    def document(self) -> dict[str, Any]:
        document = super().document()
        manager = connection_manager(document)
        (host,) = manager["route_config"]["virtual_hosts"]
        host["routes"] = list(self.routes) or host["routes"]
        if self.cors:
            cors, ours = "envoy.filters.http.cors", {"exact": OURS["Origin"]}
            manager["http_filters"].insert(0, {"name": cors, "typed_config": {"@type": f"{_FILTERS}.cors.v3.Cors"}})
            policy = {"allow_origin_string_match": [ours], "allow_methods": "GET"}
            host["typed_per_filter_config"] = {cors: {"@type": f"{_FILTERS}.cors.v3.CorsPolicy"} | policy}
        return document


@dataclass(frozen=True)
class Response:
    """What a client receives."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: str = ""

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("metadata")) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def envoy(mesh: Mesh) -> AsyncIterator[Envoy]:
    async with mesh.envoy() as envoy:
        yield envoy


@asynccontextmanager
async def routed(mesh: Mesh, *routes: dict[str, Any], cors: bool = False) -> AsyncIterator[Envoy]:
    """Another Envoy, with these routes instead of one for every path."""
    settings = {each.name: getattr(mesh.bootstrap, each.name) for each in fields(mesh.bootstrap)}
    folder = mesh.folder / f"routed-{len(list(mesh.folder.iterdir()))}"
    folder.mkdir()
    async with Envoy(RoutedBootstrap(**settings, routes=routes, cors=cors), folder) as envoy:
        yield envoy


async def send(
    envoy: Envoy, method: str = "GET", path: str = METADATA_PATH, host: str = HOST, **headers: str
) -> Response:
    url = f"http://127.0.0.1:{envoy.port}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers={"Host": host} | headers) as response,
    ):
        received = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status, received, await response.text())


async def send_by_http2(envoy: Envoy, method: str) -> Response:
    reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
    client = ClientHalf()
    head = ((":method", method), (":scheme", "http"), (":path", METADATA_PATH), (":authority", HOST))
    block = client.block(head=head, plain=())
    flags = frames.END_HEADERS | frames.END_STREAM
    writer.write(frames.PREFACE + frames.settings({}) + client.headers(1, block, flags))
    async with asyncio.timeout(RESPONSE_TIMEOUT):
        while not (1 in client.responses and client.responses[1].ended):
            chunk = await reader.read(65_536)
            assert chunk, client.goaways
            client.receive(chunk)
    writer.close()
    headers = client.responses[1].headers[0]
    return Response(int(headers[":status"]), headers, client.responses[1].data.decode())


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_the_metadata_is_answered_over_http1_and_http2(envoy: Envoy, method: str) -> None:
    for response in (await send(envoy, method), await send_by_http2(envoy, method)):
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["cache-control"] == "max-age=3600"
        if method == "HEAD":
            assert response.body == ""
        else:
            assert response.document["resource"] == RESOURCE
            assert response.document["scopes_supported"] == ["read:appointments", "write:appointments"]


async def test_a_challenge_names_the_address_at_which_the_metadata_is(mesh: Mesh, envoy: Envoy) -> None:
    path, unscoped = "/v1/appointments", mesh.provider.access_token(scope="other")
    denials = {
        401: await send(envoy, path=path),
        403: await send(envoy, path=path, Authorization=f"Bearer {unscoped}"),
    }
    for status, denial in denials.items():
        assert denial.status == status
        assert f'resource_metadata="{URL}"' in denial.headers["www-authenticate"]
    assert URL.endswith(METADATA_PATH)


@pytest.mark.parametrize("host", ["evil.example", "api.demo.evil.example", "evil.example:80", "a,b", "[::1]"])
async def test_nothing_is_derived_from_the_host_of_a_stranger(mesh: Mesh, envoy: Envoy, host: str) -> None:
    assert (await send(envoy, host=host)).headers["x-authz-reason"] == "no_rule"
    denied = await send(envoy, host=host, path="/v1/appointments")
    assert denied.status == 401
    assert "resource_metadata" not in denied.headers["www-authenticate"]
    for name in ("X-Forwarded-Host", "Forwarded", "X-Original-Url"):
        answer = await send(envoy, **{name: f"https://{host}/x"})
        assert answer.body == (await send(envoy)).body
    assert host not in await mesh.metrics()


async def test_other_methods_are_left_to_the_rules(envoy: Envoy) -> None:
    assert (await send(envoy, "POST")).headers["x-authz-reason"] == "no_rule"


async def test_the_metadata_needs_a_route_that_matches_but_not_one_that_leads_anywhere(mesh: Mesh) -> None:
    async with routed(mesh, API_ONLY) as envoy:
        assert (await send(envoy)).status == 404  # by Envoy, whose ext_authz does nothing without a route
    async with routed(mesh, API_ONLY, NOT_FOUND) as envoy:
        assert (await send(envoy)).document["resource"] == RESOURCE
        assert (await send(envoy, path="/.well-known/openid-configuration")).status == 403  # no rule


async def test_a_route_without_ext_authz_leads_to_the_upstream(mesh: Mesh) -> None:
    async with routed(mesh, UNAUTHORIZED, API_ONLY) as envoy:
        assert (await send(envoy)).document["path"] == METADATA_PATH  # the API's echo


async def test_the_cors_filter_of_envoy_answers_preflights_of_its_origins_only(mesh: Mesh) -> None:
    async with routed(mesh, cors=True) as envoy:
        by_envoy = await send(envoy, "OPTIONS", **OURS, **PREFLIGHT)
        assert (by_envoy.status, by_envoy.body) == (200, "")
        by_us = await send(envoy, "OPTIONS", **OTHERS, **PREFLIGHT)
        assert by_us.document["resource"] == RESOURCE
        assert (await send(envoy, **OURS)).headers["access-control-allow-origin"] == OURS["Origin"]
        assert (await send(envoy, **OTHERS)).headers["access-control-allow-origin"] == "*"
