"""Renders the metrics for the admin server: in slices, one at a time, and for a bounded share of the time.

Clients that request the metrics during a rendering share the next one, so that no client gets numbers from before its
request.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from authz_service.admin.pages import pause_after
from authz_service.single_flight import SingleFlight
from authz_service.telemetry.exposition import format_of
from authz_service.telemetry.slices import in_slices

if TYPE_CHECKING:
    from authz_service.admin.pages import Exposed
    from authz_service.telemetry.exposition import Format


class MetricsRenderer:
    """Renders metrics in the formats that clients request."""

    def __init__(self, metrics: Exposed) -> None:
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._pause_until = 0.0
        self._renderings: SingleFlight[bytes] = SingleFlight()  # by format

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, for an Accept header."""
        chosen = format_of(accept)
        rendering = self._renderings.join(chosen, lambda: self._render(chosen), name="rendering of the metrics")
        return await rendering.result(), chosen.content_type

    async def _render(self, chosen: Format) -> bytes:
        async with self._turn:
            await asyncio.sleep(self._pause_until - time.monotonic())
            self._renderings.detach(chosen)
            started = time.monotonic()
            try:
                return await in_slices(self._metrics.exposition(openmetrics=chosen.openmetrics))
            finally:
                ended = time.monotonic()
                self._pause_until = ended + pause_after(ended - started)

    async def close(self) -> None:
        """Cancel all renderings."""
        await self._renderings.close()
