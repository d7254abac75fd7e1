"""Part three: behind a real Envoy, compared with its own jwt_authn filter. Envoy itself responds to allowed requests.

One Envoy has a listener for each variant. It shares a core with h2load; the sidecars have the other core.
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
_TRACED = ", traced"  # the suffix of variants in which Envoy creates spans, without sampling
_ROUTER = {"name": "router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}}
_TRACER = {
    "name": "envoy.tracers.opentelemetry",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "grpc_service": {"envoy_grpc": {"cluster_name": GRPCIO}},  # receives nothing, because nothing is sampled
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
    """Print and return the results of each variant."""
    print(f"Behind Envoy, h2load (median of {ROUNDS} alternating runs); CPU and switches of Envoy and the sidecar")
    variants: dict[str, list[dict[str, Any]]] = {
        "no filter": [],
        "jwt_authn": [_jwt_authn(subject, cached=False)],
        "jwt_authn, cache": [_jwt_authn(subject, cached=True)],
        "ext_authz, grpcio": [ext_authz(GRPCIO)],
        "ext_authz, asyncio": [ext_authz(ASYNCIO)],
        f"ext_authz, grpcio{_TRACED}": [ext_authz(GRPCIO)],
        f"ext_authz, asyncio{_TRACED}": [ext_authz(ASYNCIO)],
    }
    config = subject.folder / "envoy.json"
    config.write_text(json.dumps(bootstrap(variants)))
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

        def measure(variant: str, in_flight: int) -> Load:
            sidecar_pid = sidecars.get(variant.removesuffix(_TRACED))
            pids = [envoy.pid, *([sidecar_pid] if sidecar_pid else [])]
            url = f"http://127.0.0.1:{FIRST_PORT + list(variants).index(variant)}{PATH}"
            return h2load(pids, url, CALLS if in_flight > 1 else CALLS // 4, in_flight, subject.folder, *headers)

        for in_flight in IN_FLIGHT:
            measures = {variant: partial(measure, variant, in_flight) for variant in variants}
            for name, loads in alternating(measures, ROUNDS).items():
                rows.append(Row(name, in_flight, loads))
                print(rows[-1])
    return rows


def listens(admin: Path) -> bool:
    """Whether Envoy has written the address of its admin interface, which it does when it listens."""
    return admin.exists() and bool(admin.read_text())


def bootstrap(variants: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Envoy's configuration: a listener with filters for each variant."""
    return {
        "admin": {"address": _address(0)},
        "static_resources": {
            "listeners": [
                _listener(name, FIRST_PORT + number, filters) for number, (name, filters) in enumerate(variants.items())
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
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "allowed"}}}
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [*filters, _ROUTER],
    }
    if name.endswith(_TRACED):
        manager["tracing"] = {"provider": _TRACER, "random_sampling": {"value": 0}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": _address(port), "filter_chains": [chain]}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def ext_authz(cluster: str) -> dict[str, Any]:
    """The filter that calls a sidecar."""
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
