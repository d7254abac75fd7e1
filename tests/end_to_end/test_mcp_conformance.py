"""The conformance suite of MCP, on an MCP server with and without Envoy and the sidecar in front.

The suite has no scenario for the authorization of a server (its scenarios of authorization are for clients and for
authorization servers), and it sends no token: Envoy adds one here, before it calls the sidecar.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.demo.envoy import Envoy
from authz_service.demo.identity_provider import IdentityProvider
from support.envoy_bootstrap import VariedBootstrap, connection_manager
from support.mcp import McpServer
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("mcp_packages")]

REVISION = "2026-07-28"
SUITE_TIMEOUT = 60.0  # seconds; it takes four
CONFIG = """\
server: {{grpc_address: unix:authz.sock, admin_address: "127.0.0.1:0"}}
issuers:
  - {{issuer: {issuer}, name: main, audiences: [https://127.0.0.1/mcp]}}
resources:
  - {{resource: https://127.0.0.1/mcp, mcp: true}}
rules: # without hosts: the suite sends others too, which the server has to refuse
  - name: tools
    match: {{paths: [/mcp], mcp: {{methods: [tools/call], names: ["*"]}}}}
    require: {{scopes: [tools]}}
  - name: everything-else
    match: {{paths: [/mcp]}}
    require: {{scopes: [server]}}
upstream: {{forward_authorization: false}}
"""

Results = Counter[tuple[str, str, str]]  # of scenario, check and status


@dataclass(frozen=True)
class WithToken(VariedBootstrap):
    """An Envoy that adds a token to each request before it calls the sidecar."""

    token: str = ""

    def document(self) -> dict[str, Any]:
        document = super().document()
        extension = "envoy.http.early_header_mutation.header_mutation"
        mutation = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
        header = {"key": "authorization", "value": f"Bearer {self.token}"}
        append = {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        typed = {"@type": mutation, "mutations": [{"append": append}]}
        connection_manager(document)["early_header_mutation_extensions"] = [{"name": extension, "typed_config": typed}]
        return document


async def run(suite: Sequence[str], port: int, folder: Path) -> Results:
    """The results of every scenario that the revision has for a server."""
    url = f"http://127.0.0.1:{port}/mcp"
    command = [*suite, "server", "--url", url, "--requirements", REVISION, "--output-dir", str(folder)]
    pipe = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(SUITE_TIMEOUT):
        await process.wait()
    return read_results(folder)


def read_results(folder: Path) -> Results:
    found: Results = Counter()
    for path in folder.glob("*/checks.json"):
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*", "", path.parent.name)  # without the time of the run
        found.update((scenario, check["id"], check["status"]) for check in json.loads(path.read_text()))
    return found


async def test_a_server_has_the_same_results_behind_envoy_and_the_sidecar_but_for_what_the_rules_refuse(
    conformance: list[str], tmp_path: Path
) -> None:
    async with McpServer("server", tmp_path / "server.log") as server, IdentityProvider() as provider:
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG.format(issuer=provider.issuer))
        token = provider.access_token(aud="https://127.0.0.1/mcp", scope="tools server")
        bootstrap = WithToken(f"unix:{tmp_path}/authz.sock", server.port, token=token)
        async with SidecarProcess(config, tmp_path / "sidecar.log") as sidecar, Envoy(bootstrap, tmp_path) as envoy:
            alone = await run(conformance, server.port, tmp_path / "alone")
            behind = await run(conformance, envoy.port, tmp_path / "behind")
            # The sidecar refuses the request without Mcp-Method and the one without Mcp-Name, with a problem document
            # instead of a JSON-RPC error. The specification allows that to an intermediary.
            refused, code = 2, ("server-http-header-validation", "sep-2243-server-reject-error-code")
            assert alone - behind == Counter({(*code, "SUCCESS"): refused})
            assert behind - alone == Counter({(*code, "WARNING"): refused})
            assert ("server-http-header-validation", "FAILURE") not in {(each, outcome) for each, _, outcome in behind}
            assert sum(await sidecar.metric("authz_checks_total", decision="allow", reason="ok")) > 0
            assert sum(await sidecar.metric("authz_checks_total", decision="deny")) == refused
            assert sum(await sidecar.metric("authz_checks_total", reason="malformed_request")) == refused
