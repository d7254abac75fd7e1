"""Part three: behind a real Envoy, beside its own jwt_authn filter. Envoy answers itself what was let in.

Law: one Envoy with a listener for each way. It and h2load share a core, the sidecars have the other.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from authz_service.demo.envoy import binary
from bench.decision import CALLS, ROUNDS
from bench.load import CLIENT_CORE, Load, alternating, h2load, on_core
from bench.report import Row
from bench.servers import is_ready, running, sidecar
from bench.subject import ASYNCIO, AUDIENCE, GRPC_PORTS, GRPCIO, HOST, ISSUER, PATH, Subject

if TYPE_CHECKING:
    from pathlib import Path

IN_FLIGHT = (1, 16)
FIRST_PORT = 19201
_TYPE = "type.googleapis.com/envoy.extensions"
_TRACED = ", traced"  # the end of a way's name, where Envoy makes spans, of which it samples none
_ROUTER = {"name": "router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}}
_TRACER = {
    "name": "envoy.tracers.opentelemetry",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "grpc_service": {"envoy_grpc": {"cluster_name": GRPCIO}},  # which hears nothing, as nothing is sampled
        "service_name": "bench",
    },
}
_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def behind_envoy(subject: Subject) -> list[Row]:
    """Print and return what each way does."""
    print(f"Behind Envoy, h2load (median of {ROUNDS} alternating runs); CPU and switches are Envoy's and the sidecar's")
    ways: dict[str, list[dict[str, Any]]] = {
        "no filter": [],
        "jwt_authn": [_jwt_authn(subject, cached=False)],
        "jwt_authn, cache": [_jwt_authn(subject, cached=True)],
        "ext_authz, grpcio": [ext_authz(GRPCIO)],
        "ext_authz, asyncio": [ext_authz(ASYNCIO)],
        f"ext_authz, grpcio{_TRACED}": [ext_authz(GRPCIO)],
        f"ext_authz, asyncio{_TRACED}": [ext_authz(ASYNCIO)],
    }
    config = subject.folder / "envoy.json"
    config.write_text(json.dumps(bootstrap(ways)))
    rows: list[Row] = []
    with ExitStack() as stack:
        sidecars = {
            f"ext_authz, {transport}": stack.enter_context(
                running(sidecar(subject, transport), partial(is_ready, transport))
            )[0].pid
            for transport in (GRPCIO, ASYNCIO)
        }
        admin = subject.folder / "envoy-admin"
        command = [binary(), "--config-path", str(config), "--admin-address-path", str(admin), "--disable-hot-restart"]
        command += ["--concurrency", "1", "--log-level", "error"]
        envoy, _ = stack.enter_context(running(on_core(CLIENT_CORE, *command), partial(listens, admin)))
        headers = ("-H", f":authority: {HOST}", "-H", f"authorization: Bearer {subject.token()}")

        def measure(way: str, in_flight: int) -> Load:
            asked = sidecars.get(way.removesuffix(_TRACED))
            pids = [envoy.pid, *([asked] if asked else [])]
            url = f"http://127.0.0.1:{FIRST_PORT + list(ways).index(way)}{PATH}"
            return h2load(pids, url, CALLS if in_flight > 1 else CALLS // 4, in_flight, subject.folder, *headers)

        for in_flight in IN_FLIGHT:
            measures = {way: partial(measure, way, in_flight) for way in ways}
            for name, loads in alternating(measures, ROUNDS).items():
                rows.append(Row(name, in_flight, loads))
                print(rows[-1])
    return rows


def listens(admin: Path) -> bool:
    """Whether Envoy has written down where it is administered, which it does when it listens."""
    return admin.exists() and bool(admin.read_text())


def bootstrap(ways: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Envoy's configuration: a listener for each way, with its filters."""
    return {
        "admin": {"address": _address(0)},
        "static_resources": {
            "listeners": [
                _listener(name, FIRST_PORT + number, filters) for number, (name, filters) in enumerate(ways.items())
            ],
            "clusters": [
                {
                    "name": transport,
                    "typed_extension_protocol_options": _HTTP2,
                    "load_assignment": {
                        "cluster_name": transport,
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
                    },
                }
                for transport, port in GRPC_PORTS.items()
            ],
        },
    }


def _listener(name: str, port: int, filters: list[dict[str, Any]]) -> dict[str, Any]:
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "let in"}}}
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [*filters, _ROUTER],
    }
    if name.endswith(_TRACED):
        manager["tracing"] = {"provider": _TRACER, "random_sampling": {"value": 0}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": _address(port), "filter_chains": [chain]}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def ext_authz(cluster: str) -> dict[str, Any]:
    """The filter that asks a sidecar."""
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}, "timeout": "5s"},
        },
    }


def _jwt_authn(subject: Subject, *, cached: bool) -> dict[str, Any]:
    provider: dict[str, Any] = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"inline_string": subject.jwks},
        "forward": True,
    }
    if cached:
        provider["jwt_cache_config"] = {"jwt_cache_size": 1000}
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"bench": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
        },
    }
