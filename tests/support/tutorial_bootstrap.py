"""The bootstrap of the tutorial for plain Envoy, which other pages change."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import yaml

from authz_service.demo.identity_provider import AUDIENCE, IdentityProvider
from support.documents import blocks, page
from support.echo import echo
from support.envoy import RunningEnvoy, loopback, pipe, relocated, running_envoy
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

(_BLOCK,) = blocks(page("start/envoy"), title="envoy.yaml")
_SERVER: Final = {"grpc_address": "unix:authz.sock", "admin_address": "127.0.0.1:0"}


def tutorial_bootstrap() -> dict[str, Any]:
    """The bootstrap."""
    document: dict[str, Any] = yaml.safe_load(_BLOCK.text)
    return document


def manager_of(document: dict[str, Any]) -> dict[str, Any]:
    """The connection manager of its listener."""
    (chain,) = document["static_resources"]["listeners"][0]["filter_chains"]
    manager: dict[str, Any] = chain["filters"][0]["typed_config"]
    return manager


def host_of(document: dict[str, Any]) -> dict[str, Any]:
    """Its virtual host."""
    (host,) = manager_of(document)["route_config"]["virtual_hosts"]
    found: dict[str, Any] = host
    return found


@asynccontextmanager
async def protected(
    settings: dict[str, Any], folder: Path, change: Callable[[dict[str, Any]], None]
) -> AsyncIterator[tuple[RunningEnvoy, IdentityProvider]]:
    """An Envoy with the changed bootstrap, before an application that returns what it receives.

    The configuration needs no issuer: it is the provider, with its own audience.
    """
    async with IdentityProvider() as provider, echo() as port:
        issuer = {"issuer": provider.issuer, "audiences": [AUDIENCE]}
        (folder / "config.yaml").write_text(yaml.safe_dump({"server": _SERVER, "issuers": [issuer]} | settings))
        document = relocated(
            tutorial_bootstrap(), {"authz-service": pipe(folder / "authz.sock"), "api": loopback(port)}
        )
        change(document)
        async with (
            SidecarProcess(folder / "config.yaml", folder / "sidecar.log"),
            running_envoy(document, folder) as envoy,
        ):
            yield envoy, provider
