"""A client of the npm package oauth4webapi, which makes proofs, keeps nonces and parses challenges."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.node import NodeProgram
from support.oidc_provider import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_CLIENT = {"client_id": "service", "client_secret": "service-secret"}


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of the client, and what it received."""

    status: int
    proof: str | None
    nonce: str | None  # the DPoP-Nonce that it received


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """What the client got from the API."""

    status: int
    headers: Mapping[str, str]
    body: str
    challenges: Sequence[Mapping[str, Any]]  # as oauth4webapi parsed them
    sent: Sequence[Sent]  # two requests if the first had no current nonce

    @property
    def reason(self) -> str:
        """The sidecar's reason."""
        return self.headers.get("x-authz-reason") or str(json.loads(self.body)["type"]).rpartition(":")[2]

    @property
    def upstream(self) -> Mapping[str, str]:
        """The headers that the API received."""
        headers: dict[str, str] = json.loads(self.body)["headers"]
        return headers

    def errors(self) -> dict[str, str | None]:
        """The error of each challenge, by its scheme."""
        return {each["scheme"]: each["parameters"].get("error") for each in self.challenges}


class OAuthClient(NodeProgram):
    """The running client. Its keys have names and are generated on first use; without a key it sends no proof."""

    def __init__(self, log: Path) -> None:
        super().__init__("oauth4webapi", FOLDER / "client.mjs", [], log)

    async def token(
        self,
        issuer: str,
        *,
        client: Mapping[str, Any] = _CLIENT,
        key: str | None = None,
        algorithm: str = "ES256",
        tls: Mapping[str, str] | None = None,
        **parameters: str,
    ) -> dict[str, Any]:
        """The token response for the client credentials grant."""
        command = {"token": parameters, "issuer": issuer, "client": client, "tls": tls}
        return await self._grant(command, key, algorithm)

    async def login(
        self, issuer: str, *, client: Mapping[str, Any], key: str | None = None, **parameters: str
    ) -> dict[str, Any]:
        """The token response for the authorization code in a callback."""
        return await self._grant({"login": parameters, "issuer": issuer, "client": client}, key, "ES256")

    async def call(
        self,
        url: str,
        token: str,
        *,
        port: int,
        method: str = "GET",
        key: str | None = None,
        tls: Mapping[str, str] | None = None,
    ) -> ApiResponse:
        """Call the API at a port of this machine."""
        command = {"call": url, "token": token, "port": port, "method": method, "tls": tls}
        reply = await self._requested(command | _named(key))
        sent = [Sent(each["status"], each.get("proof"), each["nonce"]) for each in reply["sent"]]
        return ApiResponse(reply["status"], reply["headers"], reply["body"], reply.get("challenges", []), sent)

    async def _grant(self, command: dict[str, Any], key: str | None, algorithm: str) -> dict[str, Any]:
        reply = await self._requested(command | _named(key) | {"algorithm": algorithm})
        response: dict[str, Any] = reply["response"]
        return response

    async def _requested(self, command: dict[str, Any]) -> dict[str, Any]:
        reply = await self.request({name: value for name, value in command.items() if value is not None})
        assert "error" not in reply, reply["error"]
        return reply


def _named(key: str | None) -> dict[str, str]:
    return {} if key is None else {"key": key}
