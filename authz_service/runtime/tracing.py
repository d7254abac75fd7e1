"""Exports spans to a collector: OTLP over HTTP, by the client that also talks to providers.

Invariants: whatever the collector does or does not do, no decision waits for it, and what waits for it is bounded. A
span is sent once; one that the collector does not take is counted, never sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from authz_service.config.model import Keys
from authz_service.core import backoff
from authz_service.core.errors import FetchFailed, quoted
from authz_service.providers.client import POST_KEEPALIVE_TIMEOUT, ProviderClient
from authz_service.providers.errors import fetch_timeout
from authz_service.telemetry.logs import RateLimitedLog
from authz_service.telemetry.spans import SpanRecorder
from authz_service.transport import otlp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.config.model import TracingSettings
    from authz_service.providers.client_resources import ClientResources
    from authz_service.runtime.background_tasks import BackgroundTasks
    from authz_service.telemetry.metrics import Metrics
    from authz_service.telemetry.spans import Span

_INTERVAL = 1.0  # seconds between two looks at what waits
_BATCH = 64  # spans: encoding them takes less than a millisecond
_TIMEOUT = 5.0  # seconds for one request
_FLUSH_TIMEOUT = 1.0  # seconds at the end
_MAX_BACKOFF = 30.0  # seconds
_MAX_RESPONSE = 64 << 10  # bytes
_REPORT_INTERVAL = 60.0  # seconds
_SIGNAL_PATH = "/v1/traces"
_HEADERS = {"Content-Type": "application/x-protobuf"}


class SpanExporter:
    """Sends what a recorder has recorded to one collector."""

    def __init__(
        self,
        settings: TracingSettings,
        recorder: SpanRecorder,
        metrics: Metrics,
        resources: ClientResources,
        timer: Callable[[], float],
    ) -> None:
        """``timer`` gives seconds of a monotonic clock. ``resources`` is shared by the clients of a process."""
        self._url = traces_url(settings.otlp_endpoint)
        self._service_name = settings.service_name
        self._recorder = recorder
        self._metrics = metrics
        self._client = ProviderClient(
            Keys(allow_http=True),
            accept="application/x-protobuf",
            max_connections=1,
            resources=resources,
            keepalive_timeout=POST_KEEPALIVE_TIMEOUT,
        )
        self._warnings = RateLimitedLog(logging.getLogger("authz.tracing"), timer, _REPORT_INTERVAL)
        self._failures = 0  # in a row
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Export until canceled."""
        try:
            while True:
                await asyncio.sleep(self._pause())
                while self._recorder and await self._export_batch():
                    pass
        finally:
            await self._client.close()

    async def flush(self) -> None:
        """Export what waits, and what is being sent, as far as that is quickly done."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                while self._recorder and not self._failures and await self._export_batch():
                    pass
                async with self._sending:
                    pass

    def _pause(self) -> float:
        return backoff.exponential(self._failures, initial=_INTERVAL, maximum=_MAX_BACKOFF) or _INTERVAL

    async def _export_batch(self) -> bool:
        """Send the oldest spans; returns whether the collector took the request."""
        spans = self._recorder.take(_BATCH)
        try:
            async with self._sending:
                rejected, cause = await self._send(spans)
        except FetchFailed as failure:
            self._failures += 1
            self._record_failed(len(spans), str(failure))
            return False
        self._failures = 0
        rejected = max(0, min(rejected, len(spans)))
        self._metrics.record_spans("exported", len(spans) - rejected)
        if rejected:
            self._record_failed(rejected, f"the collector rejected them: {quoted(cause)}")
        return True

    async def _send(self, spans: Sequence[Span]) -> tuple[int, str]:
        """Send spans; returns how many of them the collector rejected, and why.

        Raises:
            FetchFailed: if the collector did not accept the request.
        """
        body = otlp.encode(spans, self._service_name)
        async with fetch_timeout(_TIMEOUT):
            response = await self._client.post(self._url, body, _HEADERS, _MAX_RESPONSE, {HTTPStatus.OK})
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            raise FetchFailed(f"the collector responded with status {response.status}")
        return otlp.rejected_spans(response.body)

    def _record_failed(self, count: int, cause: str) -> None:
        self._metrics.record_spans("failed", count)
        self._warnings.warning("export", "spans could not be exported", spans=count, cause=cause)


class Tracing:
    """The exporter of the active configuration, if it has one. Belongs to the event loop's thread."""

    def __init__(
        self,
        metrics: Metrics,
        background: BackgroundTasks,
        resources: ClientResources,
        *,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        """``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock."""
        self._metrics = metrics
        self._background = background
        self._resources = resources
        self._clock = clock
        self._timer = timer
        self._settings: TracingSettings | None = None
        self._exporter: SpanExporter | None = None
        self._task: asyncio.Task[None] | None = None

    def apply(self, settings: TracingSettings | None) -> None:
        """Trace by these settings from now on; None: not at all. Spans that wait for another collector are lost."""
        if settings == self._settings:
            return
        self._settings = settings
        if self._task is not None:
            self._task.cancel()
        self._exporter = self._task = recorder = None
        if settings is not None:
            recorder = SpanRecorder(self._clock, lambda: self._metrics.record_spans("dropped", 1))
            self._exporter = SpanExporter(settings, recorder, self._metrics, self._resources, self._timer)
            self._task = self._background.start(self._exporter.run(), "tracing")
        self._metrics.trace_with(recorder)

    async def flush(self) -> None:
        """Export what waits, at the end."""
        if self._exporter is not None:
            await self._exporter.flush()


def traces_url(endpoint: str) -> str:
    """The URL for spans below a collector's base URL, which may name it already."""
    return endpoint if urlsplit(endpoint).path.endswith(_SIGNAL_PATH) else endpoint.rstrip("/") + _SIGNAL_PATH
