"""The bootstraps of the tutorial and of the page on a complete one run in a real Envoy."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
import trustme
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from transport.pki import TlsFiles

from authz_service.config.model import UpstreamSettings
from authz_service.core import base64url
from authz_service.demo.identity_provider import AUDIENCE, IdentityProvider
from generate import CHART
from support import h2_client, h2c
from support.chart import NAME, manifests, one
from support.documents import blocks, page
from support.echo import echo
from support.envoy import RunningEnvoy, loopback, pipe, relocated, running_envoy
from support.grpc_upstream import listening
from support.sidecar_process import SidecarProcess
from support.tutorial_bootstrap import manager_of, tutorial_bootstrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

(COMPLETE,) = [each.text for each in blocks(page("how-to/envoy-bootstrap"), title="envoy.yaml")]
RULES = """
rules:
  - {name: orders, match: {paths: [/v1/orders, /v1/updates]}, require: {scopes: [orders]}}
  - {name: calls, match: {methods: [POST], paths: [/grpc.health.v1.Health/Check]}, require: {scopes: [calls]}}
  - {name: news, match: {paths: [/news]}, access: public}
  - {name: billing, policy: billing, require: {scopes: [billing]}}
"""


def configuration(issuer: str, server: dict[str, Any]) -> str:
    settings = {
        "server": server | {"admin_address": "127.0.0.1:0"},
        "issuers": [{"issuer": issuer, "audiences": [AUDIENCE]}],
    }
    return yaml.safe_dump(settings) + RULES


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_the_minimal_bootstrap_requires_a_token(provider: IdentityProvider, tmp_path: Path) -> None:
    config, socket = tmp_path / "config.yaml", tmp_path / "authz.sock"
    config.write_text(configuration(provider.issuer, {"grpc_address": f"unix:{socket}"}))
    async with SidecarProcess(config, tmp_path / "sidecar.log"), echo() as port:
        bootstrap = relocated(tutorial_bootstrap(), {"authz-service": pipe(socket), "api": loopback(port)})
        async with running_envoy(bootstrap, tmp_path) as envoy, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{envoy.ports['http']}/v1/orders"
            async with session.get(url) as denied:
                assert denied.status == 401
                assert denied.headers["WWW-Authenticate"].startswith("Bearer realm=")
            async with session.get(url, headers=bearer(provider.access_token(scope="orders"))) as allowed:
                assert (await allowed.json())["headers"]["x-auth-subject"] == "alice"


async def test_without_a_decision_the_complete_bootstrap_sends_a_problem_document(tmp_path: Path) -> None:
    """Tried in the minimal bootstrap, whose sidecar is a socket that does not exist."""
    bootstrap = relocated(tutorial_bootstrap(), {"authz-service": pipe(tmp_path / "authz.sock")})
    replies = manager_of(yaml.safe_load(COMPLETE))["local_reply_config"]
    manager_of(bootstrap)["local_reply_config"] = replies
    head = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"api"), (b":path", b"/shop.v1.Orders/Get")]
    async with running_envoy(bootstrap, tmp_path) as envoy, h2_client.connected(envoy.ports["http"]) as client:
        kinds = (b"application/json", b"application/grpc", b"application/grpc+proto")
        http, *calls = [await client.request([*head, (b"content-type", kind)], b"") for kind in kinds]
    kind, retry_after = http.headers[b"content-type"], http.headers[b"retry-after"]
    assert (http.status, kind, retry_after) == (503, b"application/problem+json", b"1")
    assert json.loads(http.body)["type"] == "urn:authz-service:denial:authorization_unavailable"
    for call in calls:
        assert (call.grpc_status, call.headers[b"grpc-message"]) == (b"14", b"Authorization is unavailable")


async def test_the_charts_gateway_sends_the_same_problem_document() -> None:
    chart = yaml.safe_load(one(manifests("gateway"), "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    listener = chart["static_resources"]["listeners"][0]
    of_chart = listener["filter_chains"][0]["filters"][0]["typed_config"]["local_reply_config"]
    assert of_chart == manager_of(yaml.safe_load(COMPLETE))["local_reply_config"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def grpc_upstream() -> AsyncIterator[int]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    async with listening(server) as port:
        yield port


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def complete(
    provider: IdentityProvider, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningEnvoy]:
    folder = tmp_path_factory.mktemp("most")
    ours = folder / "sidecar"
    names = {"authz": "edge", "tls": "localhost", "clients": "client", ours.name: "authz-service.authz.svc"}
    for place, name in ((folder / each, name) for each, name in names.items()):
        place.mkdir()
        TlsFiles(place, authority.issue_cert(name), authority)
    tls = {"certificate_file": f"{ours}/tls.crt", "key_file": f"{ours}/tls.key", "client_ca_file": f"{ours}/ca.crt"}
    config = folder / "config.yaml"
    config.write_text(configuration(provider.issuer, {"grpc_address": "127.0.0.1:0", "tls": tls}))
    async with (
        SidecarProcess(config, folder / "sidecar.log") as sidecar,
        echo("/v1/updates") as port,
        grpc_upstream() as grpc_port,
    ):
        (listening,) = [record for record in sidecar.log() if record["event"] == "listening"]
        bootstrap = yaml.safe_load(COMPLETE.replace("/etc/envoy", str(folder)))
        places = {"api": port, "grpc-api": grpc_port, "authz-service": listening["grpc_port"]}
        bootstrap = relocated(bootstrap, {name: loopback(port) for name, port in places.items()})
        async with running_envoy(bootstrap, folder) as envoy:
            await wait_until_serving(envoy, authority)
            yield envoy


async def wait_until_serving(envoy: RunningEnvoy, authority: trustme.CA) -> None:
    """Wait until Envoy's health check has found the sidecar."""
    async with asyncio.timeout(20):
        while True:
            if (await get(envoy, authority, "/news"))[0] == 200:
                return
            await asyncio.sleep(0.1)


def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def get(
    envoy: RunningEnvoy,
    authority: trustme.CA,
    path: str,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, dict[str, Any]]:
    url, context = f"https://localhost:{envoy.ports['https']}{path}", context or trust(authority)
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, ssl=context) as answer:
        text = await answer.text()
    return answer.status, json.loads(text) if text.startswith("{") else {}


async def test_a_route_selects_its_rule(
    complete: RunningEnvoy, authority: trustme.CA, provider: IdentityProvider
) -> None:
    payer, reader = (bearer(provider.access_token(sub="carol", scope=scope)) for scope in ("billing", "orders"))
    assert (await get(complete, authority, "/billing/7", payer))[0] == 200
    assert (await get(complete, authority, "/billing/7", reader))[0] == 403


async def test_a_route_without_the_filter_is_not_authorized(complete: RunningEnvoy, authority: trustme.CA) -> None:
    assert (await get(complete, authority, "/livez"))[0] == 200
    assert (await get(complete, authority, "/livez/"))[0] == 403  # no_rule


async def test_grpc_calls_are_decided_by_path_and_denied_with_a_grpc_status(
    complete: RunningEnvoy, authority: trustme.CA, provider: IdentityProvider
) -> None:
    roots = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    async with grpc.aio.secure_channel(f"localhost:{complete.ports['https']}", roots) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

        async def code(**claims: Any) -> grpc.StatusCode:
            metadata = [("authorization", f"Bearer {provider.access_token(**claims)}")] if claims else []
            try:
                await check(health_pb2.HealthCheckRequest(), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        assert await code() == grpc.StatusCode.UNAUTHENTICATED
        assert await code(sub="dave", scope="orders") == grpc.StatusCode.PERMISSION_DENIED
        assert await code(sub="dave", scope="calls") == grpc.StatusCode.OK


async def test_websockets_are_decided_at_the_handshake(
    complete: RunningEnvoy, authority: trustme.CA, provider: IdentityProvider
) -> None:
    url = f"https://localhost:{complete.ports['https']}/v1/updates"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await session.ws_connect(url, ssl=trust(authority))
        assert error.value.status == 401
        headers = bearer(provider.access_token(sub="erin", scope="orders"))
        async with session.ws_connect(url, headers=headers, ssl=trust(authority)) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "erin: hello"


async def test_an_upgrade_does_not_make_a_later_proxy_remove_the_identity(
    complete: RunningEnvoy, authority: trustme.CA, provider: IdentityProvider
) -> None:
    url = f"https://localhost:{complete.ports['https']}/v1/updates"
    headers = bearer(provider.access_token(sub="erin", scope="orders")) | {"Upgrade": "websocket"}
    async with aiohttp.ClientSession() as session:
        headers["Connection"] = "Upgrade, x-auth-subject"
        async with session.get(url, headers=headers, ssl=trust(authority)) as answer:
            assert answer.status == 400
            assert (await answer.json())["type"].endswith(":malformed_request")


async def test_no_trailer_reaches_an_http2_api(provider: IdentityProvider, tmp_path: Path) -> None:
    """In the least bootstrap, whose API is spoken to by HTTP/2 here."""
    config, socket = tmp_path / "config.yaml", tmp_path / "authz.sock"
    config.write_text(configuration(provider.issuer, {"grpc_address": f"unix:{socket}"}))
    async with SidecarProcess(config, tmp_path / "sidecar.log"), h2c.upstream() as upstream:
        bootstrap = relocated(tutorial_bootstrap(), {"authz-service": pipe(socket), "api": loopback(upstream.port)})
        ours, api = bootstrap["static_resources"]["clusters"]
        api["typed_extension_protocol_options"] = ours["typed_extension_protocol_options"]
        async with running_envoy(bootstrap, tmp_path) as envoy:
            trailers = [("x-auth-subject", "admin"), ("checksum", "7")]
            assert await h2c.post(envoy.ports["http"], "/news", [], trailers=trailers) == 200
        (received,) = upstream.received
        assert ("x-auth-subject" in received.headers, received.body, received.trailers) == (False, b"x", {})


async def test_both_bootstraps_remove_trailers() -> None:
    least, larger = (manager_of(each)["http_filters"][0] for each in (tutorial_bootstrap(), yaml.safe_load(COMPLETE)))
    assert least == larger


async def test_the_access_log_has_the_decision(
    complete: RunningEnvoy, authority: trustme.CA, provider: IdentityProvider
) -> None:
    await get(complete, authority, "/v1/orders?key=secret", bearer(provider.access_token(sub="frank")))
    line = await complete.access_log_line('"subject":"frank"')
    assert line.pop("decision_id")
    assert line.pop("request_id")
    assert line == {
        "method": "GET", "path": "/v1/orders", "status": 403, "details": "ext_authz_denied", "decision": "deny",
        "reason": "insufficient_scope", "rule": "orders", "mode": "enforce", "subject": "frank", "client": "demo-app",
        "trace_id": None,  # this Envoy does not trace
    }  # fmt: skip


async def test_a_rate_limit_counts_each_subject_separately(
    complete: RunningEnvoy, authority: trustme.CA, provider: IdentityProvider
) -> None:
    async def statuses(subject: str, count: int) -> list[int]:
        headers = bearer(provider.access_token(sub=subject, scope="orders"))
        return [(await get(complete, authority, "/v1/orders", headers))[0] for _ in range(count)]

    assert await statuses("heavy", 7) == [200] * 5 + [429] * 2
    assert await statuses("light", 1) == [200]
    assert [(await get(complete, authority, "/news"))[0] for _ in range(7)] == [200] * 7  # without a subject


async def test_a_token_that_is_bound_to_a_certificate_requires_it(
    complete: RunningEnvoy, authority: trustme.CA, provider: IdentityProvider
) -> None:
    certificate, context = authority.issue_cert("client"), trust(authority)
    certificate.configure_cert(context)
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    binding = {"x5t#S256": base64url.encode(hashlib.sha256(der).digest())}
    bound = bearer(provider.access_token(sub="grace", scope="orders", cnf=binding))
    assert (await get(complete, authority, "/v1/orders", bound, context))[0] == 200
    status, problem = await get(complete, authority, "/v1/orders", bound)
    assert (status, problem["type"].rpartition(":")[2]) == (401, "missing_proof")


async def test_spoofed_identity_headers_are_removed(
    complete: RunningEnvoy, authority: trustme.CA, provider: IdentityProvider
) -> None:
    _, body = await get(complete, authority, "/news", {"x-auth-subject": "admin"})
    assert "x-auth-subject" not in body["headers"]


async def test_envoy_itself_removes_identity_headers() -> None:
    """On a route without the filter, only Envoy can remove them."""
    (early,) = manager_of(yaml.safe_load(COMPLETE))["early_header_mutation_extensions"]
    others = set(yaml.safe_load((CHART / "values.yaml").read_text())["gateway"]["envoy"]["removeHeaders"])
    assert {each["remove"] for each in early["typed_config"]["mutations"]} == set(UpstreamSettings().headers) | others
