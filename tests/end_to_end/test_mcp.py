"""An MCP server from npm that knows nothing of authorization, protected by the real sidecar behind the real Envoy.

The client of the MCP SDK discovers, registers, logs in, and steps up by what it receives, with a real identity provider
(oidc-provider from npm). Each tool requires a scope of its own: clients of MCP 2026-07-28 name the tool in a header,
and the server compares that header with the request's body. Clients of earlier revisions need the scopes of all tools.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import jwt
import pytest
import pytest_asyncio
import trustme
from multidict import CIMultiDict

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
NAMES_GET_ORDER = {"MCP-Protocol-Version": CURRENT, "Mcp-Method": "tools/call", "Mcp-Name": "get_order"}
HEADER_MISMATCH = -32020  # JSON-RPC error code
META = {
    "io.modelcontextprotocol/protocolVersion": CURRENT,
    "io.modelcontextprotocol/clientInfo": {"name": "by hand", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def message(tool: str, meta: Mapping[str, Any] = META) -> dict[str, Any]:
    """A call of a tool; without ``meta`` as in earlier revisions."""
    parameters = {"name": tool, "arguments": {"id": "7"}} | ({"_meta": meta} if meta else {})
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}


OTHER_BODIES = [
    pytest.param(message("delete_order", {}), id="message"),
    pytest.param([message("get_order", {}), message("delete_order", {}) | {"id": 2}], id="batch"),
    pytest.param([message("delete_order")], id="batch-of-the-current-revision"),
]
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
    match: {{hosts: [mcp.example], paths: [/mcp], mcp: {{methods: [tools/call], names: [delete_*]}}}}
    require: {{scopes: [orders.write]}}
  - name: read-orders
    match: {{hosts: [mcp.example], paths: [/mcp], mcp: {{methods: [tools/call], names: [get_order]}}}}
    require: {{scopes: [orders.read]}}
  - name: discover
    match: {{hosts: [mcp.example], paths: [/mcp], mcp: {{methods: [server/discover, tools/list]}}}}
    require: {{scopes: [orders.read]}}
  - name: everything-else
    match: {{hosts: [mcp.example], paths: [/mcp]}}
    require: {{scopes: [orders.read, orders.write]}}
upstream: {{forward_authorization: false, headers: {{x-user: sub}}}}
"""


@dataclass(frozen=True, slots=True)
class Mesh:
    """The server behind Envoy and the sidecar, and a client."""

    provider: OidcProvider
    sidecar: SidecarProcess
    server: McpServer
    client: McpClient
    port: int
    trust: ssl.SSLContext

    async def post(self, body: object, token: str, headers: Mapping[str, str]) -> tuple[int, Any]:
        """The status and the body for a message by hand, with these headers."""
        url = f"https://127.0.0.1:{self.port}/mcp"
        sent = CIMultiDict(headers)
        sent.update(Host=HOST, Accept="application/json, text/event-stream", Authorization=f"Bearer {token}")
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, headers=sent, json=body, ssl=self.trust, server_hostname=HOST) as response,
        ):
            return response.status, await response.json(content_type=None)


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


async def test_a_header_that_names_another_tool_than_the_body_runs_none(current: Mesh) -> None:
    """The sidecar sees the header only. A server of the current revision compares it with the body."""
    token = await current.provider.access_token(RESOURCE, READ)
    await current.server.observed()
    assert (await current.post(message("get_order"), token, NAMES_GET_ORDER))[0] == 200
    status, body = await current.post(message("delete_order"), token, NAMES_GET_ORDER)
    assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH)
    requests, ran = await current.server.observed()
    assert (len(requests), ran) == (2, ["get_order"])


async def test_a_name_in_base64_is_that_of_the_tool(current: Mesh) -> None:
    token = await current.provider.access_token(RESOURCE, READ)
    await current.server.observed()
    for tool, status in (("get_order", 200), ("delete_order", 403)):
        name = f"=?base64?{b64encode(tool.encode()).decode()}?="
        assert (await current.post(message(tool), token, NAMES_GET_ORDER | {"Mcp-Name": name}))[0] == status
    assert (await current.server.observed())[1] == ["get_order"]


@pytest.mark.parametrize(
    "names", [[], ["get_order", "delete_order"], ["delete_order", "get_order"], ["=?BASE64?eA==?="]]
)
async def test_a_call_that_does_not_name_its_tool_in_one_way_does_not_reach_the_server(
    names: list[str], current: Mesh
) -> None:
    token = await current.provider.access_token(RESOURCE, READ)
    await current.server.observed()
    headers = CIMultiDict(NAMES_GET_ORDER)
    del headers["Mcp-Name"]
    headers.extend([("Mcp-Name", name) for name in names])
    status, problem = await current.post(message("delete_order"), token, headers)
    assert (status, problem["type"].rpartition(":")[2]) == (400, "malformed_request")
    assert await current.server.observed() == ([], [])


@pytest.mark.parametrize("body", OTHER_BODIES)
async def test_headers_of_the_current_revision_run_no_tool_of_a_body_of_an_earlier_one(
    body: object, current: Mesh, earlier: Mesh
) -> None:
    """A server of an earlier revision compares no header with the body, but it does not have the current revision."""
    for mesh in (current, earlier):
        token = await mesh.provider.access_token(RESOURCE, READ)
        await mesh.server.observed()
        assert (await mesh.post(body, token, NAMES_GET_ORDER))[0] == 400
        requests, ran = await mesh.server.observed()
        assert (len(requests), ran) == (1, [])
