"""A real Envoy with an operator's bootstrap, with ports and addresses for this machine."""

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

_START_TIMEOUT = 30.0
_POLL_INTERVAL = 0.05
_STOP_TIMEOUT = 5.0
_FLUSH_OPTIONS = ("--file-flush-interval-msec", "100")  # instead of ten seconds


@dataclass(frozen=True)
class RunningEnvoy:
    """The ports of its listeners by name, and its log."""

    ports: Mapping[str, int]
    log: Path

    async def access_log_line(self, *parts: str) -> dict[str, Any]:
        """The first line of its access log that contains all these strings."""
        async with asyncio.timeout(_START_TIMEOUT):
            while True:
                for line in self.log.read_text().splitlines():
                    if line.startswith("{") and all(part in line for part in parts):
                        entry: dict[str, Any] = json.loads(line)
                        return entry
                await asyncio.sleep(_POLL_INTERVAL)


def relocated(document: dict[str, Any], clusters: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The bootstrap with free ports, and with these clusters at local addresses."""
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
    """The address of a loopback port."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@asynccontextmanager
async def running_envoy(document: dict[str, Any], folder: Path) -> AsyncIterator[RunningEnvoy]:
    """A running Envoy. Its admin interface is a socket in ``folder``."""
    admin, log, config = folder / "admin.sock", folder / "envoy.log", folder / "envoy.json"
    document["admin"] = {"address": pipe(admin)}
    config.write_text(json.dumps(document))
    command = [binary(), "--config-path", str(config), "--disable-hot-restart", "--concurrency", "1", *_FLUSH_OPTIONS]
    process = await child_process.start("Envoy", [*command, "--log-level", "warning"], log)
    try:
        async with child_process.stop_unless_ready("Envoy", process, log, _START_TIMEOUT):
            while not (ports := await _ports(admin)):
                child_process.require_running("Envoy", process, log)
                await asyncio.sleep(_POLL_INTERVAL)
        yield RunningEnvoy(ports, log)
    finally:
        await child_process.stop(process, _STOP_TIMEOUT)


async def _ports(admin: Path) -> dict[str, int]:
    """The ports of its listeners; empty until it listens."""
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(admin))) as session,
            session.get("http://envoy/listeners?format=json") as response,
        ):
            listeners = (await response.json(content_type=None)).get("listener_statuses", [])
    except aiohttp.ClientError:
        return {}
    return {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in listeners}
