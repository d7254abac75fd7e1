"""A running mesh for the end-to-end tests: identity provider, API, sidecar, and Envoys in front of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from authz_service.demo.envoy import Envoy
from authz_service.demo.identity_provider import AUDIENCE, IdentityProvider
from authz_service.demo.introspection import API_SECRET
from authz_service.demo.samples import SECRET_FILE, configuration
from authz_service.demo.upstream import Upstream
from support.envoy_bootstrap import VariedBootstrap
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# Variants of `server` in the configuration, all with the same decisions.
TRANSPORTS: list[dict[str, Any]] = [{"transport": "asyncio"}, {"transport": "grpcio"}]
SERVERS = [*TRANSPORTS, {"workers": 2}]


@dataclass
class Mesh:
    """The running programs, and a way to send a request through them."""

    provider: IdentityProvider
    sidecar: SidecarProcess
    config: Path
    bootstrap: VariedBootstrap
    folder: Path

    @asynccontextmanager
    async def envoy(self, **changes: object) -> AsyncIterator[Envoy]:
        """Another Envoy, with changes to its bootstrap."""
        folder = self.folder / f"envoy-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        bootstrap = replace(self.bootstrap, **changes)  # type: ignore[arg-type]
        async with Envoy(bootstrap, folder) as envoy:
            yield envoy

    async def metrics(self) -> str:
        return (await self.sidecar.get("/metrics"))[1]


@asynccontextmanager
async def running(folder: Path, settings: str = "", **server: Any) -> AsyncIterator[Mesh]:
    """The identity provider, the API and the sidecar.

    ``settings`` are appended to the configuration file, and ``server`` is merged into its `server` section.
    """
    async with IdentityProvider() as provider, Upstream() as upstream:
        socket, config = folder / "authz.sock", folder / "config.yaml"
        written = configuration(provider.issuer, AUDIENCE, str(socket)) + settings
        more = "".join(f"\n  {key}: {value}" for key, value in server.items())
        config.write_text(written.replace("server:", f"server:{more}"))
        (folder / SECRET_FILE).write_text(API_SECRET)
        async with SidecarProcess(config, folder / "sidecar.log") as sidecar:
            yield Mesh(provider, sidecar, config, VariedBootstrap(f"unix:{socket}", upstream.port), folder)
