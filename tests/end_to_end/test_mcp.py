"""An MCP server from npm that knows nothing of authorization, protected by the real sidecar behind the real Envoy.

The client of the MCP SDK discovers, registers, logs in, and steps up by what it receives, with a real identity provider
(oidc-provider from npm). Each tool requires a scope of its own: clients of MCP 2026-07-28 name the tool in a header,
and the server compares that header with the request's body. Clients of earlier revisions need the scopes of all tools.
"""

from __future__ import annotations

import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import jwt
import pytest
import pytest_asyncio
import trustme

from authz_service.demo.envoy import Envoy
from support.envoy_bootstrap import VariedBootstrap
from support.mcp import CLIENT, HOST, READ, RESOURCE, WRITE, McpClient, McpServer
from support.oidc_provider import OidcProvider
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("mcp_packages")]

METADATA_PATH = "/.well-known/oauth-protected-resource/mcp"
METADATA = f'resource_metadata="https://{HOST}{METADATA_PATH}"'
CURRENT, EARLIER = "2026-07-28", "2025-11-25"  # revisions of MCP
CONFIG = """\
server: {{grpc_address: unix:authz.sock, admin_address: "127.0.0.1:0"}}
issuers:
  - issuer: {issuer}
    name: main
    audiences: [https://mcp.example/mcp]
resources:
  - resource: https://mcp.example/mcp
    name: Orders
    scopes: [orders.read, orders.write]
    mcp: true
rules:
  - name: change-orders
    match: {{hosts: [mcp.example], paths: [/mcp], headers: {{mcp-method: tools/call, mcp-name: delete_order}}}}
    require: {{scopes: [orders.write]}}
  - name: read-orders
    match: {{hosts: [mcp.example], paths: [/mcp], headers: {{mcp-method: tools/call, mcp-name: get_order}}}}
    require: {{scopes: [orders.read]}}
  - name: discover
    match: {{hosts: [mcp.example], paths: [/mcp], headers: {{mcp-method: server/discover}}}}
    require: {{scopes: [orders.read]}}
  - name: everything-else
    match: {{hosts: [mcp.example], paths: [/mcp]}}
    require: {{scopes: [orders.read, orders.write]}}
upstream: {{forward_authorization: false, headers: {{x-user: sub}}}}
"""


@dataclass(frozen=True, slots=True)
class Response:
    """What a request by hand got."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def reason(self) -> str:
        """The sidecar's reason."""
        return self.headers.get("x-authz-reason", "")


@dataclass(frozen=True, slots=True)
class Mesh:
    """The server behind Envoy and the sidecar, and a client."""

    provider: OidcProvider
    sidecar: SidecarProcess
    server: McpServer
    client: McpClient
    port: int
    trust: ssl.SSLContext

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Any = None, *, host: str = HOST
    ) -> Response:
        """A request by hand."""
        url, headers = f"https://127.0.0.1:{self.port}{path}", {"Host": host, **headers}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, headers=headers, json=body, ssl=self.trust, server_hostname=HOST) as response,
        ):
            return Response(response.status, response.headers, await response.text())

    async def call(self, tool: str, token: str, **headers: str) -> Response:
        """Call a tool of the current revision, with these Mcp headers."""
        accept = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {token}"}
        meta = {
            "io.modelcontextprotocol/protocolVersion": CURRENT,
            "io.modelcontextprotocol/clientInfo": {"name": "by hand", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        parameters = {"name": tool, "arguments": {"id": "7"}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("POST", "/mcp", accept | sent, body)


@asynccontextmanager
async def running(folder: Path, provider: OidcProvider, *, server_sdk: str, client_sdk: str) -> AsyncIterator[Mesh]:
    ca, certificate, authorities = trustme.CA(), folder / "server.pem", folder / "ca.pem"
    ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
    ca.cert_pem.write_to_path(authorities)
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(issuer=provider.issuer))
    async with (
        McpServer(server_sdk, folder / "server.log") as server,
        SidecarProcess(config, folder / "sidecar.log") as sidecar,
        Envoy(VariedBootstrap(f"unix:{folder}/authz.sock", server.port, certificate=certificate), folder) as envoy,
        McpClient(client_sdk, envoy.port, authorities, provider, folder / "client.log") as client,
    ):
        trust = ssl.create_default_context(cafile=str(authorities))
        yield Mesh(provider, sidecar, server, client, envoy.port, trust)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider(release: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OidcProvider]:
    async with OidcProvider(release, tmp_path_factory.mktemp("provider") / "provider.log", [CLIENT]) as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def current(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Server and client of the current revision."""
    folder = tmp_path_factory.mktemp("current")
    async with running(folder, provider, server_sdk="server", client_sdk="client") as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def earlier(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Server and client of earlier revisions."""
    async with running(tmp_path_factory.mktemp("earlier"), provider, server_sdk="sdk", client_sdk="sdk") as mesh:
        yield mesh


def scopes_of(url: str) -> set[str]:
    """The scopes of an authorization request."""
    return set(parse_qs(urlsplit(url).query)["scope"][0].split(" "))


async def test_a_client_logs_in_by_the_challenge_and_gets_the_scope_of_each_tool_when_it_calls_it(
    current: Mesh,
) -> None:
    client, server = current.client, current.server
    await server.observed()

    # The first request has no token. Its challenge leads to the metadata, and the metadata to the identity provider.
    login = await client.connect({"client_id": CLIENT["client_id"]})
    (first,) = client.sent()
    assert (first.status, first.headers["mcp-method"]) == (401, "server/discover")
    assert METADATA in first.challenge
    assert f'scope="{READ}"' in first.challenge
    assert "error=" not in first.challenge
    (metadata,) = client.sent(METADATA_PATH)
    assert (metadata.status, metadata.received["content-type"]) == (200, "application/json")
    assert login is not None
    assert scopes_of(login) == {READ}
    assert parse_qs(urlsplit(login).query)["resource"] == [RESOURCE]
    assert await server.observed() == ([], [])  # none of this reached the server

    await client.log_in(login)
    assert await client.call("get_order") == "order 7 shipped"
    requests, ran = await server.observed()
    assert ran == ["get_order"]
    assert {each["headers"]["mcp-protocol-version"] for each in requests} == {CURRENT}
    assert all("authorization" not in each["headers"] for each in requests)
    assert {each["headers"]["x-user"] for each in requests} == {"alice"}

    # The token has the scope of one tool. The challenge of the other tool names the scope that it requires.
    step_up = await client.call("delete_order")
    last = client.sent()[-1]
    assert (last.status, last.headers["mcp-name"]) == (403, "delete_order")
    assert 'error="insufficient_scope"' in last.challenge
    assert f'scope="{WRITE}"' in last.challenge
    assert METADATA in last.challenge
    assert scopes_of(step_up) == {READ, WRITE}
    assert (await server.observed())[1] == []

    await client.log_in(step_up)
    assert await client.call("delete_order") == "order 7 deleted"
    assert await client.call("get_order") == "order 7 shipped"
    assert (await server.observed())[1] == ["delete_order", "get_order"]

    token = client.sent()[-1].headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["aud"], set(claims["scope"].split())) == (RESOURCE, {READ, WRITE})


async def test_a_client_of_an_earlier_revision_that_names_no_tool_registers_and_needs_the_scopes_of_all_tools(
    earlier: Mesh,
) -> None:
    client, server = earlier.client, earlier.server
    await server.observed()
    login = await client.connect()
    (first,) = client.sent()
    assert first.status == 401
    assert METADATA in first.challenge
    assert f'scope="{READ} {WRITE}"' in first.challenge
    assert len(client.sent(METADATA_PATH)) == 1
    registration = f"{earlier.provider.issuer}/reg"
    assert [each.status for each in client.exchanges if each.url == registration] == [201]
    assert login is not None
    assert scopes_of(login) == {READ, WRITE}

    await client.log_in(login)
    assert await client.call("get_order") == "order 7 shipped"
    assert await client.call("delete_order") == "order 7 deleted"
    requests, ran = await server.observed()
    assert ran == ["get_order", "delete_order"]
    assert {each["headers"].get("mcp-protocol-version", EARLIER) for each in requests} == {EARLIER}
    assert all("authorization" not in each["headers"] for each in requests)


async def test_envoy_delivers_the_metadata_that_the_sidecar_answers_for_a_configured_host_only(current: Mesh) -> None:
    await current.server.observed()
    got = await current.send("GET", METADATA_PATH, {"Origin": "https://app.example"})
    assert (got.status, got.headers["access-control-allow-origin"]) == (200, "*")
    assert json.loads(got.body) == {
        "resource": RESOURCE,
        "authorization_servers": [current.provider.issuer],
        "scopes_supported": [READ, WRITE],
        "bearer_methods_supported": ["header"],
        "resource_name": "Orders",
    }
    head = await current.send("HEAD", METADATA_PATH, {})
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(got.body)), "")
    preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    assert (await current.send("OPTIONS", METADATA_PATH, preflight)).status == 200
    for refused in (
        await current.send("POST", METADATA_PATH, {}),
        await current.send("GET", METADATA_PATH, {}, host="other.example"),
        await current.send("GET", "/.well-known/oauth-protected-resource", {}),
    ):
        assert (refused.status, refused.reason) == (403, "no_rule")
    assert await current.server.observed() == ([], [])
    answered = await current.sidecar.metric(
        "authz_checks_total", reason="resource_metadata", decision="answer", rule="-"
    )
    assert sum(answered) >= 3


async def test_a_header_that_names_another_tool_than_the_body_runs_none(current: Mesh) -> None:
    """The sidecar sees the header only. The server of the current revision compares it with the body."""
    token = await current.provider.access_token(RESOURCE, READ)
    await current.server.observed()
    current_revision = {"MCP_Protocol_Version": CURRENT, "Mcp_Method": "tools/call"}
    honest = await current.call("get_order", token, **current_revision, Mcp_Name="get_order")
    assert honest.status == 200
    lying = await current.call("delete_order", token, **current_revision, Mcp_Name="get_order")
    assert (lying.status, json.loads(lying.body)["error"]["code"]) == (400, -32020)  # HeaderMismatch
    assert (await current.server.observed())[1] == ["get_order"]


async def test_a_server_of_an_earlier_revision_refuses_the_current_one_whose_headers_it_would_not_compare(
    earlier: Mesh,
) -> None:
    token = await earlier.provider.access_token(RESOURCE, READ)
    await earlier.server.observed()
    headers = {"MCP_Protocol_Version": CURRENT, "Mcp_Method": "tools/call", "Mcp_Name": "get_order"}
    lying = await earlier.call("delete_order", token, **headers)
    assert lying.status == 400
    requests, ran = await earlier.server.observed()
    assert (len(requests), ran) == (1, [])
