"""Renders the metrics for the supervisor's admin server: as ``rendering``, for threads.

Renderings take place one at a time, and for a bounded share of the time. Clients that request the metrics during a
rendering share the next one, so that no client gets numbers from before its request.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from authz_service.admin.pages import pause_after
from authz_service.telemetry.exposition import format_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.admin.pages import Exposed
    from authz_service.telemetry.exposition import Format


class AbandonedError(Exception):
    """The connection was closed for a newer one while its request waited."""


class ThreadedRenderer:
    """Renders metrics in the formats that clients request."""

    def __init__(self, metrics: Exposed, refresh: Callable[[], None], changed: threading.Condition) -> None:
        """``refresh`` is called before each rendering."""
        self._metrics = metrics
        self._refresh = refresh
        self._changed = changed
        self._turn = threading.Lock()
        self._pause_until = 0.0
        self._next: dict[Format, _Rendering] = {}  # those that have not begun

    def render(self, accept: str, abandoned: Callable[[], bool]) -> tuple[bytes, str]:
        """The metrics and their content type, for an Accept header."""
        chosen = format_of(accept)
        with self._changed:
            rendering = self._next.get(chosen)
            is_first = rendering is None
            if rendering is None:
                rendering = self._next[chosen] = _Rendering()
        if is_first:
            self._run(rendering, chosen)
        with self._changed:
            self._changed.wait_for(lambda: rendering.is_done or abandoned())
        if not rendering.is_done:
            raise AbandonedError
        if rendering.result is None:
            raise RuntimeError("another request's rendering of the metrics failed")
        return rendering.result, chosen.content_type

    def _run(self, rendering: _Rendering, chosen: Format) -> None:
        try:
            with self._turn:
                time.sleep(max(self._pause_until - time.monotonic(), 0.0))
                with self._changed:
                    del self._next[chosen]
                started = time.monotonic()
                try:
                    self._refresh()
                    pieces = self._metrics.exposition(openmetrics=chosen.openmetrics)
                    rendering.result = b"".join(piece.encode() for piece in pieces)
                finally:
                    ended = time.monotonic()
                    self._pause_until = ended + pause_after(ended - started)
        finally:
            with self._changed:
                rendering.is_done = True
                self._changed.notify_all()


class _Rendering:
    """One rendering of the metrics, for which several threads may wait."""

    def __init__(self) -> None:
        self.is_done = False
        self.result: bytes | None = None  # None once done if it failed
