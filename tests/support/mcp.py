"""An MCP server that knows nothing of authorization, and the clients of the MCP SDK, all from npm."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.node import NodeProgram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from support.oidc_provider import OidcProvider

FOLDER = Path(__file__).parent.parent / "end_to_end" / "mcp"
CONFORMANCE_FOLDER = FOLDER.with_name("mcp_conformance")
HOST = "mcp.example"
RESOURCE = f"https://{HOST}/mcp"
READ, WRITE = "orders.read", "orders.write"
CALLBACK = "https://app.example/callback"
CLIENT = {
    "client_id": "assistant",
    "redirect_uris": [CALLBACK],
    "grant_types": ["authorization_code"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP request of a client, and what it received."""

    method: str
    url: str
    headers: Mapping[str, str]
    form: Mapping[str, str] | None  # of a token request
    status: int
    received: Mapping[str, str]

    @property
    def challenge(self) -> str:
        """The WWW-Authenticate header."""
        return self.received.get("www-authenticate", "")


class McpServer(NodeProgram):
    """The running server, of the SDK with this name in package.json."""

    def __init__(self, sdk: str, log: Path) -> None:
        super().__init__("the MCP server", FOLDER / "server.mjs", [sdk], log)

    @property
    def port(self) -> int:
        port: int = self.greeting["port"]
        return port

    async def observed(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The requests that reached it, and the tools that ran, since the last call."""
        reply = await self.request({})
        return reply["requests"], reply["ran"]


class McpClient(NodeProgram):
    """A running application with an MCP client of this SDK, and the browser of its user."""

    def __init__(self, sdk: str, port: int, authorities: Path, provider: OidcProvider, log: Path) -> None:
        super().__init__(
            "the MCP client", FOLDER / "client.mjs", [sdk, json.dumps({HOST: port}), str(authorities)], log
        )
        self._provider = provider
        self.exchanges: list[Exchange] = []  # since it connected

    async def connect(self, registration: dict[str, Any] | None = None) -> str | None:
        """Start without a token, and unless given without a registration. Returns the URL that the user must open."""
        self.exchanges = []
        command = {"connect": RESOURCE} | ({} if registration is None else {"client": registration})
        return (await self._command(command)).get("authorize")

    async def call(self, tool: str) -> str:
        """The text that the tool returns for order 7, or the URL that the user must open first."""
        reply = await self._command({"call": tool, "arguments": {"id": "7"}})
        if "authorize" in reply:
            return str(reply["authorize"])
        (content,) = reply["result"]["content"]
        return str(content["text"])

    async def log_in(self, url: str) -> None:
        """Open the URL in the browser of alice, and give the client what the browser comes back with."""
        reply = await self._command({"finish": await self._provider.browse(url, CALLBACK)})
        assert "authorize" not in reply

    def sent(self, path: str = "/mcp") -> Sequence[Exchange]:
        """The exchanges with the MCP server's host at this path."""
        return [each for each in self.exchanges if each.url == f"https://{HOST}{path}"]

    async def _command(self, command: dict[str, Any]) -> dict[str, Any]:
        reply = await self.request(command)
        self.exchanges += [Exchange(**({"form": None} | each)) for each in reply.pop("sent")]
        assert "error" not in reply, reply["error"]
        return reply
