"""The real program behind a real forward proxy: Envoy, which opens tunnels and forwards plain requests."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import trustme
from transport.wire import AUDIENCE, check_request, read

from authz_service.transport.services import SERVICE
from support.envoy import loopback, running_envoy
from support.http_provider import Provider
from support.key_source import jwks
from support.sidecar_process import HANG_TIMEOUT, SidecarProcess

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HOST = "idp.corp.example"  # cannot be resolved: only the proxy knows where it is
METHOD = f"/{SERVICE}/Check"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
TUNNEL = {"upgrade_type": "CONNECT", "connect_config": {}}


def forward_proxy(tls: Provider, plain: Provider) -> dict[str, Any]:
    """Envoy's configuration: tunnels end at one provider, plain requests at the other."""
    routes = [
        {"match": {"connect_matcher": {}}, "route": {"cluster": "tls", "upgrade_configs": [TUNNEL]}},
        {"match": {"prefix": "/"}, "route": {"cluster": "plain"}},
    ]
    manager = {
        "@type": MANAGER,
        "stat_prefix": "proxy",
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    filters = [{"name": "http", "typed_config": manager}]
    listener = {"name": "proxy", "address": loopback(0), "filter_chains": [{"filters": filters}]}
    clusters = [cluster("tls", tls), cluster("plain", plain)]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def cluster(name: str, provider: Provider) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": loopback(int(provider.origin.rpartition(":")[2]))}}
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}


def config(folder: Path) -> Path:
    (folder / "secret").write_text("secret")
    ca_file = {"ca_file": "ca.pem", "timeout": "10s"}
    endpoint = {"endpoint": f"https://{HOST}/introspect", "client_id": "api", "client_secret_file": "secret"}
    issuers = [
        {"issuer": f"https://{HOST}", "audiences": [AUDIENCE], "keys": ca_file, "introspection": endpoint},
        {
            "issuer": "https://plain.example",
            "audiences": [AUDIENCE],
            "keys": {"jwks_uri": f"http://{HOST}/keys", "allow_http": True},
        },
    ]
    server = {"grpc_address": f"unix:{folder / 's'}", "admin_address": "127.0.0.1:0"}
    file = folder / "config.yaml"
    file.write_text(json.dumps({"server": server, "issuers": issuers, "rules": [{"name": "all"}]}))
    return file


async def test_keys_metadata_and_introspection_arrive_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    async with Provider(context) as tls, Provider() as plain:
        tls.serve(
            "/.well-known/openid-configuration",
            json.dumps({"issuer": f"https://{HOST}", "jwks_uri": f"https://{HOST}/keys"}),
        )
        tls.serve("/keys", jwks("a"))
        tls.serve("/introspect", '{"active": false}', content_type="application/json")
        plain.serve("/keys", jwks("a"))
        async with running_envoy(forward_proxy(tls, plain), tmp_path) as proxy:
            address = f"http://user:s3cret@127.0.0.1:{proxy.ports['proxy']}"
            monkeypatch.setenv("HTTPS_PROXY", address)
            monkeypatch.setenv("HTTP_PROXY", address)
            async with (
                SidecarProcess(config(tmp_path), tmp_path / "log") as sidecar,  # ready once all keys have arrived
                grpc.aio.insecure_channel(f"unix:{tmp_path / 's'}") as channel,
            ):
                check = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
                answer = read(await check(check_request(token="opaque"), timeout=HANG_TIMEOUT))
                assert answer.reason == "inactive"
            lines = sidecar.records("requests to the provider go through a proxy")
            assert [line["proxy"] for line in lines] == [f"http://127.0.0.1:{proxy.ports['proxy']}"] * 2
            assert "s3cret" not in (tmp_path / "log").read_text()
        assert [request.path for request in plain.requests] == ["/keys"]
        assert tls.count("/introspect") == 1
        assert {request.headers.get("Proxy-Authorization") for request in tls.requests} == {None}
