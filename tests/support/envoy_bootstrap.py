"""The demo's Envoy bootstrap with the settings that tests vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from authz_service.demo.envoy import Bootstrap

_EXT_AUTHZ = "envoy.filters.http.ext_authz"


@dataclass(frozen=True)
class VariedBootstrap(Bootstrap):
    """The demo's settings, with these changes."""

    upstream_http2: bool = False  # for a gRPC upstream
    failure_mode_allow: bool = False
    timeout: str = "1s"  # of one Check call
    encode_raw_headers: bool = False
    escaped_slashes: str = "KEEP_UNCHANGED"  # the default
    policies: tuple[tuple[str, str], ...] = ()  # (route prefix, policy in the route's context_extensions)

    def document(self) -> dict[str, Any]:
        document = super().document()
        manager = connection_manager(document)
        ext_authz = ext_authz_filter(document)
        ext_authz["failure_mode_allow"] = self.failure_mode_allow
        ext_authz["encode_raw_headers"] = self.encode_raw_headers
        ext_authz["grpc_service"]["timeout"] = self.timeout
        manager["path_with_escaped_slashes_action"] = self.escaped_slashes
        if self.upstream_http2:
            sidecar, upstream = document["static_resources"]["clusters"]
            options = "typed_extension_protocol_options"
            upstream[options] = sidecar[options]
        (host,) = manager["route_config"]["virtual_hosts"]
        host["routes"] = [*(_route(prefix, policy) for prefix, policy in self.policies), *host["routes"]]
        return document


def connection_manager(document: dict[str, Any]) -> dict[str, Any]:
    """The HTTP connection manager of a bootstrap."""
    chain = document["static_resources"]["listeners"][0]["filter_chains"][0]
    manager: dict[str, Any] = chain["filters"][0]["typed_config"]
    return manager


def ext_authz_filter(document: dict[str, Any]) -> dict[str, Any]:
    """The ext_authz filter of a bootstrap."""
    filters = {each["name"]: each["typed_config"] for each in connection_manager(document)["http_filters"]}
    ext_authz: dict[str, Any] = filters[_EXT_AUTHZ]
    return ext_authz


def _route(prefix: str, policy: str) -> dict[str, Any]:
    per_route = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        "check_settings": {"context_extensions": {"authz_policy": policy}},
    }
    return {
        "match": {"prefix": prefix},
        "route": {"cluster": "upstream"},
        "typed_per_filter_config": {_EXT_AUTHZ: per_route},
    }
