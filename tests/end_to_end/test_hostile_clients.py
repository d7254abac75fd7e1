"""No request of a client makes Envoy allow a bad request, or fail the request of another client.

Envoy traces without a reachable collector, and fails open, so a call without a decision would allow its request.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from support.envoy import RunningEnvoy, running_envoy
from support.h2_client import H2Client, Response, connected
from support.mesh import TRANSPORTS, Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = "/v1/appointments/7"
COLLECTOR = "collector"  # nothing listens there
TRACEPARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
ODD = [b" a=b", b"a=b ", b"\ta=b", b"a=b\t", b" ", b"\t", b"a=b , c=d", b"a=\xff\x80", b"x" * 3000, b"x" * 50_000]
MANY = 12_000
AT_ONCE = 50
CX_DESTROYED = "cluster.authz-service.upstream_cx_destroy"


def traced(document: dict[str, Any]) -> dict[str, Any]:
    """The bootstrap with a tracer without a collector."""
    resources = document["static_resources"]
    (listener,) = resources["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    tracer = {
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "grpc_service": {"envoy_grpc": {"cluster_name": COLLECTOR}},
        "service_name": "test",
    }
    manager["tracing"] = {"provider": {"name": "envoy.tracers.opentelemetry", "typed_config": tracer}}
    sidecar = next(cluster for cluster in resources["clusters"] if cluster["name"] == "authz-service")
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 9}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    assignment = {"cluster_name": COLLECTOR, "endpoints": endpoints}
    resources["clusters"].append(sidecar | {"name": COLLECTOR, "load_assignment": assignment})
    return document


class Proxy:
    """An Envoy that fails open, and the mesh behind it."""

    def __init__(self, envoy: RunningEnvoy, mesh: Mesh, admin: str) -> None:
        self.port = envoy.ports["http"]
        self.mesh = mesh
        self._admin = admin

    async def stats(self) -> dict[str, int]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._admin)) as session,
            session.get("http://envoy/stats?format=json&usedonly") as answer,
        ):
            stats = await answer.json(content_type=None)
        return {each["name"]: each["value"] for each in stats["stats"] if "name" in each}


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=TRANSPORTS, ids=str)
async def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Proxy]:
    folder = tmp_path_factory.mktemp("mesh")
    async with running(folder, **request.param) as mesh, failing_open(mesh) as proxy:
        yield proxy


@asynccontextmanager
async def failing_open(mesh: Mesh) -> AsyncIterator[Proxy]:
    folder = mesh.folder / "traced"
    folder.mkdir()
    mesh.bootstrap = type(mesh.bootstrap)(mesh.bootstrap.sidecar, mesh.bootstrap.upstream_port, failure_mode_allow=True)
    async with running_envoy(traced(mesh.bootstrap.document()), folder) as envoy:
        yield Proxy(envoy, mesh, str(folder / "admin.sock"))


def head(*more: tuple[bytes, bytes], path: str = ADMIN) -> list[tuple[bytes, bytes]]:
    pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"api.demo")]
    return [*pseudo, TRACEPARENT, (b"x-auth-subject", b"admin"), *more]


def reason(response: Response) -> tuple[int, bytes]:
    return response.status, response.headers.get(b"x-authz-reason", b"")


@pytest.mark.parametrize("value", ODD, ids=[f"{value[:10]!r} {len(value)}" for value in ODD])
@pytest.mark.parametrize("name", [b"tracestate", b"baggage"])
async def test_no_header_allows_a_request_without_a_token(proxy: Proxy, name: bytes, value: bytes) -> None:
    before = await proxy.stats()
    async with connected(proxy.port) as client:
        response = await client.request(head((name, value)))
        assert reason(response) == (401, b"missing_token")
        assert b"admin" not in response.body
    after = await proxy.stats()
    failed = [name for name in after if "ext_authz" in name and ("failure_mode" in name or name.endswith(".error"))]
    assert {name: after[name] - before.get(name, 0) for name in failed} == dict.fromkeys(failed, 0)
    assert after.get("cluster.upstream.upstream_rq_total", 0) == before.get("cluster.upstream.upstream_rq_total", 0)


@pytest.mark.parametrize("value", [b" a=b", b"a=b ", b" ", b"x" * 5000])
async def test_the_same_headers_are_harmless_with_a_token(proxy: Proxy, value: bytes) -> None:
    token = (b"authorization", f"Bearer {proxy.mesh.provider.access_token()}".encode())
    async with connected(proxy.port) as client:
        assert reason(await client.request(head((b"tracestate", value), token))) == (200, b"ok")


async def flood(client: H2Client, more: tuple[bytes, bytes], count: int) -> None:
    for _ in range(0, count, AT_ONCE):
        for _ in range(AT_ONCE):
            client.send(head(more))
        await client.until(lambda: all(response.done for response in client.responses.values()))
        assert {reason(response) for response in client.responses.values()} == {(401, b"missing_token")}
        client.responses.clear()


async def others(port: int, token: bytes, ended: asyncio.Event) -> list[tuple[int, bytes]]:
    """The results of another client in the meantime."""
    seen = []
    async with connected(port) as client:
        while not ended.is_set():
            seen.append(reason(await client.request(head((b"authorization", token)))))
            await asyncio.sleep(0.01)
    return seen


async def test_no_number_of_odd_requests_closes_the_shared_connection(proxy: Proxy) -> None:
    token = f"Bearer {proxy.mesh.provider.access_token()}".encode()
    ended = asyncio.Event()
    before = await proxy.stats()
    async with asyncio.TaskGroup() as group, connected(proxy.port) as client:
        watching = group.create_task(others(proxy.port, token, ended))
        try:
            for value in (b" ", b"a=b ", b"\ta=b"):
                await flood(client, (b"tracestate", value), MANY // 3)
        finally:
            ended.set()
    seen = watching.result()
    assert len(seen) > 100
    assert set(seen) == {(200, b"ok")}
    assert await destroyed(proxy) == before.get(CX_DESTROYED, 0)


async def test_no_number_of_cancelled_requests_closes_the_shared_connection(proxy: Proxy) -> None:
    """Several clients, because Envoy closes the connection of one after some hundred of these requests."""
    token = f"Bearer {proxy.mesh.provider.access_token()}".encode()
    ended = asyncio.Event()
    before = await proxy.stats()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(others(proxy.port, token, ended))
        try:
            for _ in range(40):
                async with connected(proxy.port) as client:
                    for _ in range(200):
                        client.cancel(client.send(head((b"tracestate", b" "))))
                    assert reason(await client.request(head())) == (401, b"missing_token")
        finally:
            ended.set()
    assert set(watching.result()) == {(200, b"ok")}
    assert await destroyed(proxy) == before.get(CX_DESTROYED, 0)


async def destroyed(proxy: Proxy) -> int:
    """The number of closed connections to the sidecar."""
    return (await proxy.stats()).get(CX_DESTROYED, 0)
