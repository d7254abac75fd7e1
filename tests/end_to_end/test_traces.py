"""Traces through the real program: the OpenTelemetry Collector's own receiver reads its spans."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from authz_service.demo import child_process
from support.go import built_from
from support.mesh import Mesh, running
from support.sidecar_process import HANG_TIMEOUT, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service.demo.envoy import Envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECEIVER = Path(__file__).parent / "otel_collector"
OPEN_METRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


class Span(NamedTuple):
    name: str
    parent: str
    span_id: str
    attributes: dict[str, str]


class Collected:
    """What the collector printed."""

    def __init__(self, printed: Path) -> None:
        self._printed = printed

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._printed.read_text().splitlines() if line.startswith("{")]

    def spans(self, trace: str) -> list[Span]:
        """The spans of a trace."""
        return [
            Span(
                span["name"],
                span.get("parentSpanId", ""),
                span["spanId"],
                {each["key"]: each["value"]["stringValue"] for each in span.get("attributes", [])},
            )
            for document in self.documents()
            for resource in document["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
            if trace in {"", span["traceId"]}
        ]


@asynccontextmanager
async def receiving(folder: Path, port: int) -> AsyncIterator[Collected]:
    log = folder / "collector.log"
    receiver = built_from(RECEIVER, "that the OpenTelemetry Collector reads our spans")
    process = await child_process.start("the collector", [receiver, f"127.0.0.1:{port}"], log)
    try:
        yield Collected(log)
    finally:
        await child_process.stop(process, 10)


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def collected(tmp_path_factory: pytest.TempPathFactory, port: int) -> AsyncIterator[Collected]:
    async with receiving(tmp_path_factory.mktemp("collector"), port) as collected:
        yield collected


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory, port: int, collected: Collected) -> AsyncIterator[Mesh]:
    tracing = f"tracing: {{otlp_endpoint: 'http://127.0.0.1:{port}', service_name: authz}}\n"
    async with running(tmp_path_factory.mktemp("traces"), tracing, workers=2) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def envoy(mesh: Mesh) -> AsyncIterator[Envoy]:
    async with mesh.envoy() as envoy:
        yield envoy


async def send(envoy: Envoy, token: str, trace: str, flags: str = "01") -> int:
    headers = {"authorization": f"Bearer {token}", "traceparent": f"00-{trace}-{SPAN}-{flags}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://127.0.0.1:{envoy.port}/v1/appointments/secret-path") as response,
    ):
        return response.status


async def test_sampled_checks_arrive_below_their_callers_and_others_do_not(
    mesh: Mesh, envoy: Envoy, collected: Collected
) -> None:
    unsampled, expired = TRACE[::-1], "f" * 32
    assert await send(envoy, mesh.provider.access_token(), unsampled, "00") == 200
    assert await send(envoy, mesh.provider.access_token(), TRACE) == 200
    assert await send(envoy, mesh.provider.expired_token(), expired) == 401
    await wait_until(lambda: bool(collected.spans(TRACE) and collected.spans(expired)))
    (span,), (denied,) = collected.spans(TRACE), collected.spans(expired)
    assert (span.name, span.parent) == ("Check", SPAN)
    assert span.attributes == {
        "authz.decision": "allow", "authz.reason": "ok", "authz.rule": "read-appointments", "authz.mode": "enforce",
        "authz.issuer": "demo",
    }  # fmt: skip
    assert (denied.attributes["authz.decision"], denied.attributes["authz.reason"]) == ("deny", "expired")
    assert collected.spans(unsampled) == []
    everything = json.dumps(collected.documents())
    assert '"service.name"' in everything
    assert not any(secret in everything for secret in ("secret-path", "alice", "eyJ"))


async def test_an_introspection_is_a_child_and_the_first_fetch_of_keys_a_trace_of_its_own(
    mesh: Mesh, envoy: Envoy, collected: Collected
) -> None:
    trace = "1" * 32
    assert await send(envoy, mesh.provider.opaque_token(), trace) == 200
    await wait_until(lambda: len(collected.spans(trace)) == 2)
    check, child = sorted(collected.spans(trace))
    assert (child.name, child.parent, child.attributes) == ("introspection", check.span_id, {"authz.issuer": "demo"})
    await wait_until(lambda: len([span for span in collected.spans("") if span.name == "key fetch"]) >= 2)
    fetches = [span for span in collected.spans("") if span.name == "key fetch"]
    assert [(span.parent, span.attributes["authz.result"]) for span in fetches] == [("", "success")] * 2  # one a worker


async def test_the_histogram_has_an_exemplar_of_a_sampled_request_in_open_metrics_alone(
    mesh: Mesh, envoy: Envoy
) -> None:
    trace = "2" * 32
    assert await send(envoy, mesh.provider.access_token(), trace) == 200
    url = f"{mesh.sidecar.admin_url}/metrics"
    async with aiohttp.ClientSession() as session:
        async with session.get(url, headers=OPEN_METRICS) as response:
            exposition = await response.text()
        async with session.get(url) as response:
            plain = await response.text()
    (line,) = [line for line in exposition.splitlines() if trace in line]
    assert re.fullmatch(
        r'authz_check_duration_seconds_bucket\{decision="allow",le="[^"]+"\} \d+\.0'
        rf' # \{{trace_id="{trace}"\}} [\d.e-]+ \d+(\.\d+)?',
        line,
    )
    assert trace not in plain


async def test_what_became_of_the_spans_is_counted(mesh: Mesh, envoy: Envoy) -> None:
    assert await send(envoy, mesh.provider.access_token(), "3" * 32) == 200
    async with asyncio.timeout(HANG_TIMEOUT):
        while not sum(await mesh.sidecar.metric("authz_trace_spans_total", result="exported")):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    assert await mesh.sidecar.metric("authz_trace_spans_total", result="failed") == [0.0]
