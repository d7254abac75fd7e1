"""A collector of traces that can stall, be slow, refuse or go away, over real HTTP."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from authz_service._pb.otlp_service_pb2 import ExportTraceServiceRequest
from authz_service._pb.otlp_trace_pb2 import Span, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service._pb.otlp_resource_pb2 import Resource


class ReceivedSpan(NamedTuple):
    """One span, with ids in hexadecimal and times in nanoseconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, str]
    failed: bool
    service: str


class Collector:
    """What was sent to ``/v1/traces``."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.content_types: set[str] = set()
        self.stalled = False  # accepts requests and never responds
        self.delay = 0.0  # seconds before each response
        self.status = 200
        self.body = b""
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.Response:
        self.content_types.add(request.content_type)
        self.requests.append(await request.read())
        if self.stalled:
            await asyncio.Event().wait()
        await asyncio.sleep(self.delay)
        return web.Response(status=self.status, body=self.body, content_type="application/x-protobuf")

    def spans(self) -> list[ReceivedSpan]:
        """Every span received, in order."""
        return [
            _span(span, resource.resource)
            for request in map(ExportTraceServiceRequest.FromString, self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def _span(span: Span, resource: Resource) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes={each.key: each.value.string_value for each in span.attributes},
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        service=resource.attributes[0].value.string_value,
    )


@asynccontextmanager
async def collector(port: int = 0) -> AsyncIterator[Collector]:
    """A collector, which is gone at the end."""
    collecting = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", collecting.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    collecting.port = runner.addresses[0][1]
    try:
        yield collecting
    finally:
        await runner.cleanup()
