"""The page on metadata of protected resources: what its commands show, through a real Envoy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import yaml

from support import offline
from support.documents import blocks, page, yaml_blocks
from support.envoy import pipe, relocated, running_envoy
from support.sidecar_process import SidecarProcess
from support.signing import Signer
from support.tutorial_bootstrap import host_of, tutorial_bootstrap

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "how-to/protected-resources"
CONFIGURATION, ROUTE = yaml_blocks(PAGE)
(SHOWN,) = blocks(page(PAGE), "console")


async def test_the_commands_show_the_challenge_and_the_metadata(tmp_path: Path) -> None:
    """With the page's route in front of one for the API only."""
    issuer = {"issuer": "https://idp.example.com/"}
    server = {"grpc_address": "unix:authz.sock", "admin_address": "127.0.0.1:0"}
    settings = yaml.safe_load(CONFIGURATION) | {"issuers": [issuer], "server": server}
    offline.written(settings, tmp_path, Signer("ES256", "a"))
    bootstrap = relocated(tutorial_bootstrap(), {"authz-service": pipe(tmp_path / "authz.sock")})
    host_of(bootstrap)["routes"] = [
        *yaml.safe_load(ROUTE),
        {"match": {"prefix": "/orders"}, "route": {"cluster": "api"}},
    ]
    challenge, document = (line for line in SHOWN.text.splitlines() if line.startswith(("www-", "{")))
    async with (
        SidecarProcess(tmp_path / "config.yaml", tmp_path / "sidecar.log"),
        running_envoy(bootstrap, tmp_path) as envoy,
        aiohttp.ClientSession(f"http://127.0.0.1:{envoy.ports['http']}", headers={"Host": "api.example.com"}) as client,
    ):
        async with client.get("/orders/7") as denied:
            assert (denied.status, f"www-authenticate: {denied.headers['WWW-Authenticate']}") == (401, challenge)
        async with client.get("/.well-known/oauth-protected-resource/orders") as answered:
            assert (answered.status, await answered.text()) == (200, document)
        async with client.get("/.well-known/oauth-protected-resource/other") as other:
            assert other.status == 403
