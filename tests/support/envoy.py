"""A real Envoy with an operator's bootstrap, its ports and addresses changed to those of this machine."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from authz_service.demo import child_process
from authz_service.demo.envoy import binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

_START = 30.0
_LOOK = 0.05
_STOP = 5.0
_SOON = ("--file-flush-interval-msec", "100")  # instead of ten seconds


@dataclass(frozen=True)
class RunningEnvoy:
    """Where its listeners are, by name, and what it has written."""

    ports: Mapping[str, int]
    log: Path

    async def logged(self, *parts: str) -> dict[str, Any]:
        """The first line of its access log with all these parts in it."""
        async with asyncio.timeout(_START):
            while True:
                for line in self.log.read_text().splitlines():
                    if line.startswith("{") and all(part in line for part in parts):
                        told: dict[str, Any] = json.loads(line)
                        return told
                await asyncio.sleep(_LOOK)


def moved(document: dict[str, Any], clusters: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The bootstrap with free ports, and with clusters at addresses of this machine: the rest is as it was."""
    for listener in document["static_resources"]["listeners"]:
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    for cluster in document["static_resources"]["clusters"]:
        if cluster["name"] in clusters:
            for endpoint in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
                endpoint["endpoint"]["address"] = clusters[cluster["name"]]
    return document


def pipe(path: Path) -> dict[str, Any]:
    """The address of a unix socket."""
    return {"pipe": {"path": str(path)}}


def loopback(port: int) -> dict[str, Any]:
    """The address of a port of this machine."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@asynccontextmanager
async def running_envoy(document: dict[str, Any], folder: Path) -> AsyncIterator[RunningEnvoy]:
    """Envoy, from entering to leaving. Its admin interface is moved to a socket in ``folder``."""
    admin, log, config = folder / "admin.sock", folder / "envoy.log", folder / "envoy.json"
    document["admin"] = {"address": pipe(admin)}
    config.write_text(json.dumps(document))
    command = [binary(), "--config-path", str(config), "--disable-hot-restart", "--concurrency", "1", *_SOON]
    process = await child_process.start("Envoy", [*command, "--log-level", "warning"], log)
    try:
        async with child_process.stop_unless_ready("Envoy", process, log, _START):
            while not (ports := await _ports(admin)):
                child_process.require_running("Envoy", process, log)
                await asyncio.sleep(_LOOK)
        yield RunningEnvoy(ports, log)
    finally:
        await child_process.stop(process, _STOP)


async def _ports(admin: Path) -> dict[str, int]:
    """Where it listens; nothing while it does not."""
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(admin))) as session,
            session.get("http://envoy/listeners?format=json") as answer,
        ):
            listeners = (await answer.json(content_type=None)).get("listener_statuses", [])
    except aiohttp.ClientError:
        return {}
    return {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in listeners}
