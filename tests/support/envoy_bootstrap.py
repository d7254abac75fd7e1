"""The demo's Envoy bootstrap with the settings that tests vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz_service.demo.envoy import Bootstrap

if TYPE_CHECKING:
    from pathlib import Path

_EXT_AUTHZ = "envoy.filters.http.ext_authz"


@dataclass(frozen=True)
class VariedBootstrap(Bootstrap):
    """The demo's settings, with these changes."""

    upstream_http2: bool = False  # for a gRPC upstream
    failure_mode_allow: bool = False
    status_on_error: str = "ServiceUnavailable"  # without a decision; Envoy's default is Forbidden
    timeout: str = "1s"  # of one Check call
    encode_raw_headers: bool = False
    escaped_slashes: str = "KEEP_UNCHANGED"  # the default
    checks_per_connection: int | None = None  # to the sidecar
    certificate: Path | None = None  # of the listener, with its key: it accepts TLS
    client_ca: Path | None = None  # whose certificates it accepts from clients that have one
    policies: tuple[tuple[str, str], ...] = ()  # (route prefix, policy in the route's context_extensions)

    def document(self) -> dict[str, Any]:
        document = super().document()
        manager = connection_manager(document)
        ext_authz = ext_authz_filter(document)
        ext_authz["failure_mode_allow"] = self.failure_mode_allow
        ext_authz["status_on_error"] = {"code": self.status_on_error}
        ext_authz["encode_raw_headers"] = self.encode_raw_headers
        ext_authz["grpc_service"]["timeout"] = self.timeout
        manager["path_with_escaped_slashes_action"] = self.escaped_slashes
        if self.upstream_http2:
            sidecar, upstream = document["static_resources"]["clusters"]
            options = "typed_extension_protocol_options"
            upstream[options] = sidecar[options]
        if self.checks_per_connection is not None:
            _protocol_options(document)["common_http_protocol_options"] = {
                "max_requests_per_connection": self.checks_per_connection
            }
        if self.certificate is not None:
            (chain,) = document["static_resources"]["listeners"][0]["filter_chains"]
            chain["transport_socket"] = _tls(self.certificate, self.client_ca)
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


def _protocol_options(document: dict[str, Any]) -> dict[str, Any]:
    """The options of connections to the sidecar."""
    sidecar, _ = document["static_resources"]["clusters"]
    options: dict[str, Any]
    (options,) = sidecar["typed_extension_protocol_options"].values()
    return options


def _tls(certificate: Path, client_ca: Path | None) -> dict[str, Any]:
    files = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(certificate)}}
    common: dict[str, Any] = {"tls_certificates": [files]}
    if client_ca is not None:
        common["validation_context"] = {"trusted_ca": {"filename": str(client_ca)}}
    context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": context, "common_tls_context": common},
    }


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


def front_proxy(upstream_port: int, certificate: Path, client_ca: Path) -> dict[str, Any]:
    """The bootstrap of an Envoy in front of another one: it accepts TLS and decides nothing."""
    document = VariedBootstrap("127.0.0.1:9", upstream_port, certificate=certificate, client_ca=client_ca).document()
    manager = connection_manager(document)
    manager["http_filters"] = manager["http_filters"][-1:]
    (host,) = manager["route_config"]["virtual_hosts"]
    del host["response_headers_to_add"]
    return document
