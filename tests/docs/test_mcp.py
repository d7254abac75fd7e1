"""The guide to MCP servers: its configuration and its settings of Envoy, in a real Envoy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from authz_service.demo.identity_provider import IdentityProvider
from support.console import reader
from support.documents import blocks, page, yaml_blocks
from support.echo import echo
from support.envoy import RunningEnvoy, loopback, pipe, relocated, running_envoy
from support.sidecar_process import SidecarProcess
from support.tutorial_bootstrap import host_of, manager_of, tutorial_bootstrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAIN, _CASES, ROUTES, CORS, CORS_POLICY = yaml_blocks("start/mcp")
_RULES, SHOWN = blocks(page("start/mcp"), "console")
STEP_UP, _MISMATCH = (each.text for each in blocks(page("how-to/mcp-tools"), "http"))
HOST = "mcp.example.com"
ISSUER = yaml.safe_load(MAIN)["issuers"][0]["issuer"]
METADATA = "/.well-known/oauth-protected-resource/mcp"


def bootstrap() -> dict[str, Any]:
    """The minimal bootstrap with what the guide replaces and adds."""
    document = tutorial_bootstrap()
    cors = yaml.safe_load(CORS)
    manager = manager_of(document)
    manager["http_filters"] = cors["http_filters"] + manager["http_filters"]
    host_of(document).update(yaml.safe_load(ROUTES) | yaml.safe_load(CORS_POLICY))
    return document


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def envoy(provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningEnvoy]:
    folder = tmp_path_factory.mktemp("mcp")
    config, socket = folder / "config.yaml", folder / "authz.sock"
    settings = yaml.safe_load(MAIN)
    settings["server"] = {"grpc_address": f"unix:{socket}", "admin_address": "127.0.0.1:0"}
    settings["issuers"][0]["issuer"] = provider.issuer
    config.write_text(yaml.safe_dump(settings))
    async with SidecarProcess(config, folder / "sidecar.log"), echo() as port:
        document = relocated(bootstrap(), {"authz-service": pipe(socket), "api": loopback(port)})
        async with running_envoy(document, folder) as running:
            yield running


async def send(
    envoy: RunningEnvoy, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the response."""
    url, headers = f"http://127.0.0.1:{envoy.ports['http']}{path}", {"Host": HOST} | (headers or {})
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as response:
        return response.status, {name.lower(): value for name, value in response.headers.items()}, await response.text()


async def test_a_client_without_a_token_gets_the_challenge_of_the_guide(
    envoy: RunningEnvoy, provider: IdentityProvider, tmp_path: Path
) -> None:
    """And then, the metadata."""
    here = SHOWN.text.replace(":8000/", f":{envoy.ports['http']}/").replace(ISSUER, provider.issuer)
    with reader(tmp_path) as running:
        await running.follow(SHOWN._replace(text=here))


async def test_the_metadata_needs_no_token_and_does_not_reach_the_server(envoy: RunningEnvoy) -> None:
    for method in ("GET", "HEAD"):
        status, headers, _ = await send(envoy, method, METADATA)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert "x-envoy-upstream-service-time" not in headers


async def test_a_token_for_the_resource_reaches_the_server_without_being_passed_on(
    envoy: RunningEnvoy, provider: IdentityProvider
) -> None:
    token = provider.access_token(aud=f"https://{HOST}/mcp", scope="orders.read")
    status, _, body = await send(envoy, "POST", "/mcp", {"Authorization": f"Bearer {token}"})
    received = {name.lower(): value for name, value in json.loads(body)["headers"].items()}
    assert (status, received["x-auth-subject"], received["host"]) == (200, "alice", "127.0.0.1:8080")
    assert "authorization" not in received


async def test_a_token_for_another_api_is_denied(envoy: RunningEnvoy, provider: IdentityProvider) -> None:
    token = provider.access_token(scope="orders.read")
    status, headers, _ = await send(envoy, "POST", "/mcp", {"Authorization": f"Bearer {token}"})
    assert (status, 'error="invalid_token"' in headers["www-authenticate"]) == (401, True)


async def test_a_token_without_the_scope_leads_to_a_step_up(envoy: RunningEnvoy, provider: IdentityProvider) -> None:
    token = provider.access_token(aud=f"https://{HOST}/mcp", scope="profile")
    status, headers, _ = await send(envoy, "POST", "/mcp", {"Authorization": f"Bearer {token}"})
    assert status == 403
    shown = headers["www-authenticate"].replace('scope="orders.read"', 'scope="orders.write"')
    assert f"www-authenticate: {shown}\n" in STEP_UP


async def test_scripts_of_a_listed_website_can_read_the_challenge(envoy: RunningEnvoy) -> None:
    origin = {"Origin": "https://inspector.example.com"}
    preflight = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "mcp-method"}
    status, headers, _ = await send(envoy, "OPTIONS", "/mcp", preflight)
    assert (status, headers["access-control-allow-origin"]) == (200, origin["Origin"])
    assert "mcp-method" in headers["access-control-allow-headers"]
    status, headers, _ = await send(envoy, "POST", "/mcp", origin)
    assert (status, headers["access-control-allow-origin"]) == (401, origin["Origin"])
    assert "www-authenticate" in headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", ["https://inspector.example.com", "https://any.example"])
async def test_scripts_of_any_website_can_read_the_metadata(envoy: RunningEnvoy, origin: str) -> None:
    preflight = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    for method, headers in (("OPTIONS", preflight), ("GET", {"Origin": origin})):
        status, received, _ = await send(envoy, method, METADATA, headers)
        assert (status, received["access-control-allow-origin"] in {"*", origin}) == (200, True)
