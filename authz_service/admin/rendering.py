"""Renders the metrics for the admin server: beside the event loop, one at a time, and for a bounded share of the time.

Clients that request the metrics during a rendering share the next one, so that no client gets numbers from before its
request.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from authz_service.admin.pages import pause_after
from authz_service.single_flight import SingleFlight
from authz_service.telemetry.metrics import content_type_of

if TYPE_CHECKING:
    from authz_service.admin.pages import Exposed


class MetricsRenderer:
    """Renders metrics in the formats that clients request."""

    def __init__(self, metrics: Exposed) -> None:
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._pause_until = 0.0
        self._renderings: SingleFlight[tuple[bytes, str]] = SingleFlight()  # by content type

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, for an Accept header."""
        content_type = content_type_of(accept)
        rendering = self._renderings.join(
            content_type, lambda: self._render(accept, content_type), name="rendering of the metrics"
        )
        return await rendering.result()

    async def _render(self, accept: str, content_type: str) -> tuple[bytes, str]:
        async with self._turn:
            await asyncio.sleep(self._pause_until - time.monotonic())
            self._renderings.detach(content_type)
            started = time.monotonic()
            try:
                return await asyncio.to_thread(self._metrics.exposition, accept)
            finally:
                ended = time.monotonic()
                self._pause_until = ended + pause_after(ended - started)

    async def close(self) -> None:
        """Cancel all renderings."""
        await self._renderings.close()
